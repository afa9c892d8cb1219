"""Rows per second of `host preprocess` beside `axolotl preprocess`, on the same rows and the same tokenizer.

    venv/bin/python tests/bench/preprocess.py --model DIR [--rows 100000] [--rounds 3]

Needs axolotl (its command must start: it imports torch and more). DIR has a `config.json` and a tokenizer. Each round runs
both, each in an empty directory of its own; the table has the best of each, and the same without what a run of 100 rows takes.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from pydoc_data.topics import topics

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = """\
base_model: {model}
datasets:
  - path: {rows}
    type: alpaca
sequence_len: 2048
dataset_prepared_path: {folder}/prepared
output_dir: {folder}/out
micro_batch_size: 1
gradient_accumulation_steps: 1
optimizer: adamw_torch
lr_scheduler: cosine
learning_rate: 0.0002
num_epochs: 1
"""


def make(path, count):
    """Alpaca's rows: parts of the texts that Python's help has, with numbers and names that no other row has."""
    draw = random.Random(1)
    words = re.findall(r"\S+\s*", " ".join(text for _, text in sorted(topics.items())))

    def text(low, high):
        start = draw.randrange(len(words) - high)
        return "".join(words[start : start + draw.randint(low, high)]).strip()

    with open(path, "w", encoding="utf-8") as out:
        for index in range(count):
            rare = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(4, 9)))
            row = {
                "instruction": text(6, 16),
                "input": text(4, 14) if draw.random() < 0.4 else "",
                "output": f"{text(5, 45)} {rare} {index} {text(5, 45)}",
            }
            out.write(json.dumps(row) + "\n")


def seconds(command, model, rows):
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder) / "config.yml"
        config.write_text(CONFIG.format(model=model, rows=rows, folder=folder))
        start = time.perf_counter()
        done = subprocess.run([*command, config], cwd=folder, capture_output=True, text=True, env=os.environ | {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"})
        assert done.returncode == 0, done.stderr[-2000:]
        return time.perf_counter() - start


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--model", required=True, type=pathlib.Path)
    options.add_argument("--rows", type=int, default=100_000)
    options.add_argument("--rounds", type=int, default=3)
    options = options.parse_args()
    subprocess.run(["cargo", "build", "--release", "-p", "host"], cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    commands = {
        "host": [target / "release/host", "preprocess"],
        "axolotl": [sys.executable, "-m", "axolotl.cli.preprocess"],
    }
    model = options.model.resolve()
    with tempfile.TemporaryDirectory() as folder:
        files = {count: pathlib.Path(folder) / f"{count}.jsonl" for count in (100, options.rows)}
        for count, path in files.items():
            make(path, count)
        best = {(name, count): float("inf") for name in commands for count in files}
        for _ in range(options.rounds):
            for name, count in best:
                best[name, count] = min(best[name, count], seconds(commands[name], model, files[count]))
    peer = importlib.metadata.version("axolotl")
    print(f"{options.rows} rows, Axolotl {peer}, Python {platform.python_version()}, {os.cpu_count()} cores\n")
    print("| | `host preprocess` | Axolotl | ratio |\n|---|---|---|---|")
    whole = [best[name, options.rows] for name in commands]
    start = [best[name, 100] for name in commands]
    for what, (one, other) in {
        "the command, s": whole,
        "100 rows, s": start,
    }.items():
        print(f"| {what} | {one:.2f} | {other:.2f} | {other / one:.1f} |")
    for what, times in {
        "rows/s": whole,
        "rows/s without the start": [a - b for a, b in zip(whole, start)],
    }.items():
        one, other = (options.rows / time for time in times)
        print(f"| {what} | {one:.0f} | {other:.0f} | {one / other:.1f} |")


if __name__ == "__main__":
    main()
