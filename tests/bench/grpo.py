"""A step of GRPO by this trainer beside TRL's `GRPOTrainer` (transformers generates), in turn on the same machine: seconds a
step, peak memory and their ratios. See README.md here.

usage: grpo.py [--rounds N] [--steps N] [--completions N] [--prompt N] [--new N] [--lora]

A Llama of the shape of SmolLM2-135M with random weights, bfloat16 numbers as in a published checkpoint, which never ends a text
by itself: every completion of both has all its tokens. One prompt a step, float32, one reward (the share of lower-case letters; here a plugin in the sandbox, there a
function), AdamW.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from generate import ROOT, SHAPE

QUICKSTART = ROOT / "configs/quickstart/model"
LORA = dict(r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])


def make_model(directory):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, bos_token_id=1, eos_token_id=2, pad_token_id=0))
    model.to(torch.bfloat16).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (QUICKSTART / name).exists():
            shutil.copy(QUICKSTART / name, directory)


def make_rows(path, count, tokens):
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(QUICKSTART)
    with open(path, "w") as file:
        for index in range(count):
            text = ""
            while len(tokenizer(text)["input_ids"]) < tokens:
                text += f" word {index} of many"
            file.write(json.dumps({"instruction": text, "output": "x"}) + "\n")


def peak():
    """Bytes of memory that this process had at most."""
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def peer(options):
    """TRL's steps, in this process."""
    import datasets
    import torch
    import trl
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    torch.set_num_threads(os.cpu_count())
    tokenizer = AutoTokenizer.from_pretrained(options.room)
    rows = [json.loads(line) for line in open(f"{options.room}/rows.jsonl")]
    data = datasets.Dataset.from_list([dict(prompt=row["instruction"]) for row in rows])
    model = AutoModelForCausalLM.from_pretrained(options.room, dtype=torch.float32, attn_implementation="sdpa")
    times, lengths = [], []

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            times.append(time.perf_counter())

        def on_log(self, args, state, control, logs=None, **_):
            lengths.append((logs or {}).get("completions/mean_length"))

    def shorter(completions, **_):
        return [-min(len(text) / 4000, 1) for text in completions]

    with tempfile.TemporaryDirectory() as directory:
        args = trl.GRPOConfig(
            output_dir=directory, report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False, save_strategy="no",
            max_steps=options.steps, per_device_train_batch_size=options.completions, num_generations=options.completions,
            gradient_accumulation_steps=1, max_completion_length=options.new, learning_rate=1e-6, logging_steps=1)
        config = None
        if options.lora:
            import peft
            config = peft.LoraConfig(task_type="CAUSAL_LM", **LORA)
        trainer = trl.GRPOTrainer(model=model, reward_funcs=shorter, args=args, train_dataset=data, processing_class=tokenizer,
                                  callbacks=[Clock()], peft_config=config)
        times.append(time.perf_counter())
        trainer.train()
    steps = [after - before for before, after in zip(times, times[1:])]
    return dict(seconds=steps[1:], peak=peak(), length=lengths[0])


def ours(host, options):
    """This trainer's steps, in a process of its own."""
    adapter = "adapter: lora\nlora_r: 16\nlora_alpha: 32\nlora_target_linear: true\n" if options.lora else ""
    config = f"""base_model: {options.room}
rl: grpo
trl:
  reward_funcs: [{{name: length, config: {{unit: characters, max: 0, falloff: 4000}}}}]
  num_generations: {options.completions}
  max_completion_length: {options.new}
datasets: [{{path: {options.room}/rows.jsonl, type: {{field_instruction: instruction, field_output: output, format: "{{instruction}}", no_input_format: "{{instruction}}"}}}}]
sequence_len: {options.prompt + options.new + 16}
micro_batch_size: {options.completions}
max_steps: {options.steps}
learning_rate: 1e-6
warmup_steps: 0
lr_scheduler: constant
logging_steps: 1
save_strategy: no
run_health: []
output_dir: {options.room}/out
{adapter}"""
    path = pathlib.Path(options.room) / "host.yml"
    path.write_text(config)
    shutil.rmtree(f"{options.room}/out", ignore_errors=True)
    subprocess.run([host, "train", str(path)], check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in open(f"{options.room}/out/metrics.jsonl")]
    steps = [line for line in lines if line["event"] == "train"]
    return dict(seconds=[line["step_seconds"] for line in steps[1:]], peak=max(line["peak_memory_bytes"] for line in steps),
                length=steps[0]["completions/mean_length"])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--completions", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--room", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.room:
        return print(json.dumps(peer(options)))
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "host"], cwd=ROOT, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "trl"))
    name = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line), platform.processor())
    print(f"{name}, {os.cpu_count()} cores; {versions}")
    with tempfile.TemporaryDirectory() as room:
        make_model(room)
        make_rows(f"{room}/rows.jsonl", options.steps * options.completions, options.prompt)
        options.room = room
        speeds, memory = [], []
        for _ in range(options.rounds):
            own = ours(pathlib.Path(target) / "release/host", options)
            command = [sys.executable, __file__, "--room", room, *(f"--{key}={getattr(options, key)}" for key in (
                "steps", "completions", "prompt", "new")), *(["--lora"] if options.lora else [])]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            trl = json.loads(out.stdout.strip().splitlines()[-1])
            assert own["length"] == trl["length"] == options.new, (own["length"], trl["length"])
            one, other = statistics.median(own["seconds"]), statistics.median(trl["seconds"])
            speeds.append(other / one)
            memory.append(own["peak"] / trl["peak"])
            print(f"ours {one:.2f} s, {own['peak'] >> 20} MB   trl {other:.2f} s, {trl['peak'] >> 20} MB   "
                  f"speed {speeds[-1]:.2f}, memory {memory[-1]:.2f}", flush=True)
        print(f"{options.completions} completions of {options.new} tokens behind {options.prompt}{', LoRA' if options.lora else ''}, "
              f"medians of {options.rounds} rounds: speed {statistics.median(speeds):.2f}, memory {statistics.median(memory):.2f}")


if __name__ == "__main__":
    main()
