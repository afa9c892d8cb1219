"""One training step of this trainer beside transformers and peft, in turn on the same machine: tokens a second, peak
memory, and the ratios. See README.md here.

usage: run.py [--rounds N] [--seconds S] [--shapes s,m] [--modes full,lora] [--peers eager,autocast,compile]
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent


def build():
    out = subprocess.run(
        ["cargo", "build", "--release", "--quiet", "-p", "engine", "--example", "bench_step", "--message-format=json"],
        cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = [json.loads(line) for line in out.splitlines()]
    return [m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "bench_step"][-1]


def measure(command):
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if out.returncode != 0:
        return None, out.stderr.strip().splitlines()[-1:]
    return json.loads(out.stdout.strip().splitlines()[-1]), None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--shapes", default="s,m")
    parser.add_argument("--modes", default="full,lora")
    parser.add_argument("--peers", default="eager,autocast,compile")
    options = parser.parse_args()
    ours, peers = build(), options.peers.split(",")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "peft"))
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line), platform.processor())
    print(f"{model}, {os.cpu_count()} cores; {versions}")
    print(f"batch 2 x 512, fp32 weights, AdamW, clipped; medians of {options.rounds} rounds in turn; tokens/s and peak MB\n")
    print("| shape | mode | ours | " + " | ".join(f"torch {peer}" for peer in peers)
          + " | speed / eager | speed / fastest | memory / eager |")
    print("|---|---|---|" + "---|" * (len(peers) + 3))
    for shape in options.shapes.split(","):
        for mode in options.modes.split(","):
            speeds = {name: [] for name in ["ours", *peers]}
            memory = {name: [] for name in ["ours", *peers]}
            failed = {}
            for _ in range(options.rounds):
                for name in speeds:
                    command = ([ours, shape, mode, str(options.seconds)] if name == "ours" else
                               [sys.executable, str(HERE / "torch_step.py"), shape, mode, name, str(options.seconds)])
                    result, error = measure(command)
                    if result is None:
                        failed[name] = error
                        continue
                    speeds[name].append(result["tokens_per_second"])
                    memory[name].append(result["peak_bytes"])
            middle = lambda values: statistics.median(values) if values else float("nan")
            cell = lambda name: "failed" if name in failed else f"{middle(speeds[name]):.0f} / {middle(memory[name]) / 1e6:.0f}"
            fastest = max((middle(speeds[peer]) for peer in peers if speeds[peer]), default=float("nan"))
            first = peers[0]
            print(f"| {shape} | {mode} | {cell('ours')} | " + " | ".join(cell(peer) for peer in peers)
                  + f" | {middle(speeds['ours']) / middle(speeds[first]):.2f} | {middle(speeds['ours']) / fastest:.2f}"
                  + f" | {middle(memory['ours']) / middle(memory[first]):.2f} |", flush=True)
            for name, error in failed.items():
                print(f"<!-- {name}: {error} -->", flush=True)


main()
