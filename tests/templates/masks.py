#!/usr/bin/env python3
"""Holds what `host` learns of conversations against Axolotl: the same tokens, and the same of them learned?

    pip install transformers torch datasets pydantic colorama python-dotenv addict fire
    pip download axolotl==0.19.0 --no-deps && unzip -q axolotl-*.whl -d axolotl-wheel
    PYTHONPATH=axolotl-wheel python3 tests/templates/masks.py MODEL TEMPLATE ROWS [--eot '<|im_end|>'] [--host target/release/host]

MODEL is a directory with a model and its tokenizer, TEMPLATE a chat template, ROWS a file of JSON lines with `messages` and
`tools`. Axolotl's own strategy (`ChatTemplateStrategy`) makes ids and labels of each row, `host preprocess --show` the same.

Prints each row that differs, token by token; exits with 1 if any does.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

from axolotl.prompt_strategies.chat_template import ChatTemplatePrompter, ChatTemplateStrategy
from transformers import AutoTokenizer

LENGTH = 1 << 16


def of_axolotl(arguments: argparse.Namespace, tokenizer, rows: list[dict]) -> list[dict]:
    prompter = ChatTemplatePrompter(
        tokenizer,
        chat_template=arguments.template.read_text(),
        message_property_mappings={"role": "role", "content": "content"},
        field_messages="messages",
    )
    strategy = ChatTemplateStrategy(
        prompter,
        tokenizer=tokenizer,
        train_on_inputs=False,
        sequence_len=LENGTH,
        roles_to_train=["assistant"],
        train_on_eos="turn",
        eot_tokens=arguments.eot,
    )
    return [strategy.tokenize_prompt(row) for row in rows]


def of_host(arguments: argparse.Namespace, count: int) -> list[dict]:
    with tempfile.TemporaryDirectory() as directory:
        config = {
            "base_model": str(arguments.model.resolve()),
            "datasets": [{"path": str(arguments.rows.resolve()), "type": "chat_template"}],
            "chat_template": "jinja",
            "chat_template_jinja": str(arguments.template.resolve()),
            "eot_tokens": arguments.eot,
            "sequence_len": json.loads((arguments.model / "config.json").read_text())["max_position_embeddings"],
            "learning_rate": 1e-4,
            "output_dir": "out",
        }
        file = pathlib.Path(directory) / "host.yml"
        file.write_text(json.dumps(config))
        command = [pathlib.Path(arguments.host).resolve(), "preprocess", file, "--show", str(count), "--json"]
        run = subprocess.run(command, capture_output=True, text=True)
        events = [json.loads(line) for line in run.stdout.splitlines()]
        samples = [event for event in events if event["event"] == "sample"]
        if len(samples) != count:
            raise SystemExit(f"{len(samples)} samples of {count} rows\n{run.stdout}{run.stderr}")
        return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("template", type=pathlib.Path)
    parser.add_argument("rows", type=pathlib.Path)
    parser.add_argument("--eot", action="append", default=[])
    parser.add_argument("--host", default="target/release/host")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.rows.read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    different = 0
    for number, (theirs, ours) in enumerate(zip(of_axolotl(arguments, tokenizer, rows), of_host(arguments, len(rows))), 1):
        if (theirs["input_ids"], theirs["labels"]) == (ours["input_ids"], ours["labels"]):
            print(f"row {number}: same, {len(ours['labels'])} tokens, {ours['trained_tokens']} learned")
            continue
        different += 1
        print(f"row {number}: DIFFERENT, {len(theirs['input_ids'])} and {len(ours['input_ids'])} tokens")
        for at, (one, other) in enumerate(zip(theirs["labels"], ours["labels"])):
            if one != other:
                print(f"  {at} {tokenizer.decode([ours['input_ids'][at]])!r}: Axolotl {one}, host {other}")
    raise SystemExit(1 if different else 0)


if __name__ == "__main__":
    main()
