"""Makes the rows of `configs/grpo.yml`: arithmetic sequences, of which the next number is to be written.

    python make.py    # the standard library is enough

`sft.jsonl` has some with their answers to be learned, `train.jsonl` others for rewards; no start and step of `eval.jsonl` occurs
in either.
"""
import json, pathlib, random

HERE = pathlib.Path(__file__).parent
STARTS, STEPS, SHOWN = range(150), range(1, 10), 3
EVAL, SFT = 128, 750


def row(start, step):
    terms = [start + index * step for index in range(SHOWN + 1)]
    return dict(prompt=f"{' '.join(map(str, terms[:SHOWN]))} ->", answer=f" {terms[SHOWN]}")


def main():
    rows = [row(start, step) for start in STARTS for step in STEPS]
    random.Random(7).shuffle(rows)
    for name, part in [("eval", rows[:EVAL]), ("sft", rows[EVAL:EVAL + SFT]), ("train", rows[EVAL + SFT:])]:
        (HERE / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in part))


main()
