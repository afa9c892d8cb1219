"""Rows per second of loaders in the sandbox, beside Python's own readers, from files to a JSON text or a dict per row.

    venv/bin/python tests/bench/loaders.py [--rows 100000] [--rounds 5]

Needs pyarrow. Each of the rounds runs all readers in turn, each in a process of its own; the table has the best of each.
"""

import argparse
import json
import os
import pathlib
import platform
import random
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]

READERS = {
    "parquet": "import pyarrow.parquet as p; rows = p.read_table(path).to_pylist()",
    "arrow": "import pyarrow as pa; rows = pa.ipc.open_stream(path).read_all().to_pylist()",
    "csv": "import csv; rows = list(csv.DictReader(open(path, newline='', encoding='utf-8')))",
    "jsonl": "import json; rows = [json.loads(line) for line in open(path, encoding='utf-8')]",
}
TIMED = """
import sys, time
path = sys.argv[1]
start = time.perf_counter()
{code}
print(len(rows), time.perf_counter() - start)
"""


def make(folder, count):
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(5000)]
    text = lambda low, high: " ".join(draw.choices(words, k=draw.randint(low, high)))
    table = pa.table({
        "id": [f"row-{index:06}" for index in range(count)],
        "instruction": [text(5, 15) for _ in range(count)],
        "input": [text(0, 20) for _ in range(count)],
        "output": [text(10, 60) for _ in range(count)],
    })
    files = {}
    for name, more in {"snappy": {}, "zstd": {"compression": "zstd"}, "uncompressed": {"compression": "none"}}.items():
        files[f"parquet, {name}"] = ("parquet", folder / f"{name}.parquet")
        pq.write_table(table, files[f"parquet, {name}"][1], **more)
    files["arrow"] = ("arrow", folder / "rows.arrow")
    with pa.ipc.new_stream(files["arrow"][1], table.schema) as stream:
        stream.write_table(table, max_chunksize=1000)
    files["csv"] = ("csv", folder / "rows.csv")
    with open(files["csv"][1], "w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, table.column_names)
        writer.writeheader()
        writer.writerows(table.to_pylist())
    files["jsonl"] = ("jsonl", folder / "rows.jsonl")
    with open(files["jsonl"][1], "w", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in table.to_pylist())
    return files


def seconds(command, count):
    rows, time = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert int(rows) == count, (command, rows)
    return float(time)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--rows", type=int, default=100_000)
    options.add_argument("--rounds", type=int, default=5)
    options = options.parse_args()
    import pyarrow

    cargo = ["cargo", "build", "--release", "-p", "host", "--example", "bench_loaders"]
    subprocess.run(cargo, cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    ours = target / "release/examples/bench_loaders"
    with tempfile.TemporaryDirectory() as folder:
        files = make(pathlib.Path(folder), options.rows)
        best = {name: [float("inf")] * 2 for name in files}
        for _ in range(options.rounds):
            for name, (loader, path) in files.items():
                python = [sys.executable, "-c", TIMED.format(code=READERS[loader]), path]
                for side, command in enumerate([[ours, loader, path], python]):
                    best[name][side] = min(best[name][side], seconds(command, options.rows))
    print(f"{options.rows} rows, pyarrow {pyarrow.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores\n")
    print("| | in the sandbox, rows/s | Python, rows/s | ratio |\n|---|---|---|---|")
    for name, (one, other) in best.items():
        print(f"| {name} | {options.rows / one:.0f} | {options.rows / other:.0f} | {other / one:.2f} |")


if __name__ == "__main__":
    main()
