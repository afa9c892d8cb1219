"""Makes the rows of `configs/grpo.yml`: arithmetic sequences to be gone on with.

    python make.py    # the standard library is enough

`sft.jsonl` has a few with their answers, `train.jsonl` those that rewards are for, `eval.jsonl` those that neither has: no
start and step of it occurs in the others.
"""
import json, pathlib, random

HERE = pathlib.Path(__file__).parent
STARTS, STEPS, SHOWN, ASKED = range(0, 40), range(1, 13), 3, 2


def row(start, step):
    terms = [start + index * step for index in range(SHOWN + ASKED)]
    return dict(prompt=f"{' '.join(map(str, terms[:SHOWN]))} ->", answer=" " + " ".join(map(str, terms[SHOWN:])))


def main():
    rows = [row(start, step) for start in STARTS for step in STEPS]
    random.Random(7).shuffle(rows)
    for name, part in [("eval", rows[:96]), ("sft", rows[96:192]), ("train", rows[96:])]:
        (HERE / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in part))


main()
