"""Generation by this trainer beside transformers, in turn on the same machine: tokens a second and their ratio; and
completions of uneven lengths with and without continuous batching. See README.md here.

usage: generate.py [--model DIR] [--rounds N] [--batch N] [--prompt N] [--new N] [--slots N] [--requests N]

Without --model, a Llama of the shape of SmolLM2-135M with random weights. Greedy, float32, the cache on; transformers with
`sdpa` and with `eager` attention.
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
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHAPE = dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
             head_dim=64, vocab_size=49152, tie_word_embeddings=True, max_position_embeddings=8192, rms_norm_eps=1e-5)


def build():
    out = subprocess.run(
        ["cargo", "build", "--release", "--quiet", "-p", "engine", "--example", "bench_generate", "--message-format=json"],
        cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    messages = [json.loads(line) for line in out.splitlines()]
    found = [m for m in messages if m.get("executable") and m["target"]["name"] == "bench_generate"]
    return found[-1]["executable"]


def make_model(directory):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(directory)


def peer(model, attention, batch, prompt, new):
    """Tokens a second of transformers' `generate`, in this process; the second of two runs."""
    import torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(os.cpu_count())
    model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation=attention).eval()
    ids = torch.randint(3, model.config.vocab_size, (batch, prompt), generator=torch.Generator().manual_seed(1))
    for length in (2, new):
        start = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, min_new_tokens=length,
                                 do_sample=False, use_cache=True, pad_token_id=0)
        seconds = time.perf_counter() - start
        assert out.shape == (batch, prompt + length)
    return {"tokens_per_second": batch * new / seconds}


def measure(command):
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(out.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = [str(size) for size in (options.batch, options.prompt, options.new)]
    if options.peer:
        return print(json.dumps(peer(options.model, options.peer, options.batch, options.prompt, options.new)))
    ours = build()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
    name = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line), platform.processor())
    print(f"{name}, {os.cpu_count()} cores; {versions}")
    with tempfile.TemporaryDirectory() as room:
        model = options.model or room
        if not options.model:
            make_model(room)
        this = [sys.executable, __file__, "--model", model, "--batch", sizes[0], "--prompt", sizes[1], "--new", sizes[2]]
        commands = {"ours": [ours, model, "batch", *sizes], "sdpa": [*this, "--peer", "sdpa"], "eager": [*this, "--peer", "eager"]}
        speeds = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                speeds[name].append(measure(command)["tokens_per_second"])
                print(f"{name} {speeds[name][-1]:.1f}", end="  ", file=sys.stderr, flush=True)
            print(file=sys.stderr)
        ratios = [own / max(theirs) for own, *theirs in zip(*speeds.values())]
        print(f"{sizes[0]} x {sizes[2]} new tokens behind {sizes[1]}, tokens/s, medians of {options.rounds} rounds in turn: "
              + ", ".join(f"{name} {statistics.median(of):.1f}" for name, of in speeds.items())
              + f"; ours / the faster peer of the round {statistics.median(ratios):.2f}")
        uneven = [measure([ours, model, "uneven", str(options.requests), str(options.slots)]) for _ in range(options.rounds)]
        print(f"{options.requests} uneven requests, {options.slots} slots: in turn / in groups "
              f"{statistics.median(one['ratio'] for one in uneven):.2f}")
        group = [measure([ours, model, "group", "8", "512"]) for _ in range(options.rounds)]
        print(f"8 completions of a prompt of 512 tokens, 16 tokens each: read once / read eight times "
              f"{statistics.median(one['ratio'] for one in group):.2f}")


if __name__ == "__main__":
    main()
