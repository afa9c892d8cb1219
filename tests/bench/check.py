#!/usr/bin/env python3
"""`host check` beside the validation of Axolotl, each as a process of its own, in turn, on the same config.

    venv/bin/pip install axolotl        # or, without what it only needs for training: pip install --no-deps axolotl addict pillow
    venv/bin/python tests/bench/check.py CONFIG... [--host target/release/host] [--rounds 5]

Axolotl's process reads the YAML and calls `validate_config`, which is what `axolotl train` does before it loads a model; it
loads no model config and runs no rule that needs one, and is given the capabilities of the device instead of probing it.
"""

import argparse
import importlib.util
import json
import pathlib
import statistics
import subprocess
import sys
import time

PEER = """
import sys, time
start = time.perf_counter()
import yaml
from axolotl.utils.dict import DictDefault
from axolotl.utils.config import validate_config
imported = time.perf_counter()
config = DictDefault(yaml.safe_load(open(sys.argv[1])))
device = {"bf16": True, "fp8": False, "tf32": False, "n_gpu": 1, "n_node": 1, "compute_capability": "sm_90"}
try:
    validate_config(config, capabilities=device, env_capabilities={"torch_version": "2.9.0"})
    verdict = "valid"
except Exception as error:
    verdict = type(error).__name__
print(imported - start, time.perf_counter() - imported, verdict)
"""


def timed(command: list[str]) -> tuple[float, subprocess.CompletedProcess]:
    start = time.perf_counter()
    run = subprocess.run(command, capture_output=True, text=True)
    return 1e3 * (time.perf_counter() - start), run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", type=pathlib.Path)
    parser.add_argument("--host", default="target/release/host")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    has_peer = importlib.util.find_spec("axolotl") is not None
    if not has_peer:
        print("axolotl is not installed here: only `host check` is timed", file=sys.stderr)
    for config in arguments.configs:
        ours, whole, validation = [], [], []
        timed([arguments.host, "check", str(config)])  # the plugins are compiled once
        for _ in range(arguments.rounds):
            milliseconds, run = timed([arguments.host, "check", str(config), "--json"])
            ours.append(milliseconds)
            found = json.loads(run.stdout.splitlines()[-1])
            if has_peer:
                milliseconds, run = timed([sys.executable, "-c", PEER, str(config)])
                if run.returncode != 0:
                    raise SystemExit(run.stderr)
                whole.append(milliseconds)
                _, seconds, verdict = run.stdout.split()[-3:]
                validation.append(1e3 * float(seconds))
        line = f"{config}: host check {statistics.median(ours):.0f} ms ({found['errors']} errors, {found['warnings']} warnings)"
        if has_peer:
            line += f"; Axolotl {statistics.median(whole):.0f} ms, {statistics.median(validation):.0f} ms of it validation ({verdict})"
        print(line)


if __name__ == "__main__":
    main()
