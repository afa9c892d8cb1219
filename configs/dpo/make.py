"""Makes the pairs of `configs/dpo.yml` out of the quickstart's rows: the right answer, and that of another row of the same task.

    python make.py    # the standard library is enough
"""
import json, pathlib, random

HERE = pathlib.Path(__file__).parent
SOURCE = HERE.parent / "quickstart"
SENTENCE = "Below is an instruction that describes a task{more}. Write a response that appropriately completes the request."
COUNTS = {"train": 1200, "eval": 100}


def prompt(row):
    """Alpaca's words, as in `type: alpaca`."""
    parts = [("Instruction", row["instruction"])] + ([("Input", row["input"])] if row["input"] else [])
    more = ", paired with an input that provides further context" if row["input"] else ""
    text = "".join(f"### {name}:\n{value}\n\n" for name, value in parts)
    return f"{SENTENCE.format(more=more)}\n\n{text}### Response:\n"


def main():
    random.seed(7)
    for name, count in COUNTS.items():
        rows = [json.loads(line) for line in (SOURCE / f"{name}.jsonl").read_text().splitlines()]
        others = {}
        for row in rows:
            others.setdefault(row["instruction"].split()[0], []).append(row["output"])
        pairs = []
        for row in rows:
            wrong = [answer for answer in others[row["instruction"].split()[0]] if answer != row["output"]]
            if wrong and len(pairs) < count:
                pairs.append(dict(prompt=prompt(row), chosen=row["output"], rejected=random.choice(wrong)))
        (HERE / f"{name}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


main()
