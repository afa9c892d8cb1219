#!/usr/bin/env python3
"""Holds published chat templates against transformers: does `host` write the same text, to the byte?

    pip install transformers jinja2
    pip download axolotl==0.19.0 --no-deps && unzip -q axolotl-*.whl -d axolotl-wheel
    git clone --depth 1 https://github.com/chujiezheng/chat_templates
    python3 tests/templates/sweep.py axolotl-wheel chat_templates [--host target/release/host] [--list]

Each `.jinja` file below the directories is rendered for a plain conversation, one with a system message, one with reasoning
and one with tools, by transformers and by `host preprocess --show`. The templates are not part of this repository; those of
Axolotl that `chat_template` names here are rendered by that name too.

Prints how many texts are the same, refused by both, and different; exits with 1 if any is different without a reason here.
"""

import argparse
import copy
import datetime
import json
import pathlib
import shutil
import subprocess
import tempfile

from transformers.utils import chat_template_utils

# Templates that print the date have that of today: `host` takes the start of the day.
TODAY = datetime.datetime.now(datetime.timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
# Those of the quickstart's model.
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
MODEL = pathlib.Path(__file__).resolve().parents[2] / "configs/quickstart/model"
CONFIG = """\
base_model: model
datasets: [{path: row.jsonl, type: chat_template}]
chat_template: jinja
chat_template_jinja: template.jinja
sequence_len: 100000
learning_rate: 1e-4
output_dir: out
"""

CALL = {"id": "call00001", "type": "function", "function": {"name": "get_time", "arguments": {"zone": "Europe/Oslo", "precise": True, "offset": 1.0}}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_time",
            "description": "Returns the time in a \"zone\", e.g. 'UTC' – é.",
            "parameters": {
                "type": "object",
                "properties": {
                    "zone": {"type": "string", "description": "A zone", "enum": ["UTC", "Europe/Oslo"]},
                    "precise": {"type": "boolean"},
                    "items": {"type": "array", "items": {"type": "number"}},
                },
                "required": ["zone"],
            },
            "return": {"type": "string", "description": "The time"},
        },
    }
]
CONVERSATIONS = {
    "plain": (
        [
            {"role": "user", "content": "What is 2 < 3 & 4?"},
            {"role": "assistant", "content": "True. "},
            {"role": "user", "content": "  Zwei Wörter\nund 日本語 🎉\n"},
            {"role": "assistant", "content": "```\nif x:\n    y\n```"},
        ],
        None,
    ),
    "system": (
        [
            {"role": "system", "content": "You are brief.\n"},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."},
        ],
        None,
    ),
    "thinking": (
        [
            {"role": "user", "content": "What is 2 + 2?"},
            {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\n4"},
            {"role": "user", "content": "And 3 + 3?"},
            {"role": "assistant", "reasoning_content": "Three and three.\n", "content": "6"},
        ],
        None,
    ),
    "tools": (
        [
            {"role": "system", "content": "Use the tools."},
            {"role": "user", "content": "What time is it?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "name": "get_time", "tool_call_id": "call00001", "content": '{"time": "12:30"}'},
            {"role": "assistant", "content": "Half past twelve."},
        ],
        TOOLS,
    ),
}

# What `chat_template` names beside the model's own.
NAMES = ["chatml", "llama3", "alpaca", "gemma", "gemma3", "phi_3", "phi_35", "qwen_25", "qwen3"]
# What the names of cases end in, to the reason why the texts differ.
REASONS = {"alpaca.jinja by name, tools": "a role that the template leaves out is refused here"}


class Frozen(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return TODAY


class Host:
    """Renders with the program, in a directory of its own."""

    def __init__(self, program: str, directory: str) -> None:
        self.program, self.directory = pathlib.Path(program).resolve(), pathlib.Path(directory)
        # Its 512 positions are too few for a list of tools.
        shutil.copytree(MODEL, self.directory / "model")
        config = json.loads((MODEL / "config.json").read_text()) | {"max_position_embeddings": 100_000}
        (self.directory / "model/config.json").write_text(json.dumps(config))

    def render(
        self, source: str, messages: list[dict], tools: list[dict] | None, name: str | None = None
    ) -> tuple[str | None, str]:
        """The text of a row, or the message with which it is refused; with `name`, by the template of that name."""
        config = CONFIG
        if name:
            own = "chat_template: jinja\nchat_template_jinja: template.jinja"
            config = config.replace(own, f"chat_template: {name}")
        (self.directory / "host.yml").write_text(config)
        (self.directory / "template.jinja").write_bytes(source.encode("utf-8"))
        row = {"messages": messages} | ({"tools": tools} if tools else {})
        (self.directory / "row.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
        command = [self.program, "preprocess", "host.yml", "--show", "1", "--json"]
        run = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, timeout=60)
        events = [json.loads(line) for line in run.stdout.split("\n") if line]
        texts = [event["text"] for event in events if event["event"] == "sample"]
        errors = [event["message"] for event in events if event.get("severity") == "error"]
        if run.returncode not in (0, 1) or bool(texts) == bool(errors):
            raise SystemExit(f"exit status {run.returncode}: {run.stdout}{run.stderr}")
        return (texts[0], "") if texts else (None, errors[0])


def reference(source: str, messages: list[dict], tools: list[dict] | None) -> tuple[str | None, str]:
    """The text that transformers renders, or the error that it raises."""
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            [copy.deepcopy(messages)], tools=copy.deepcopy(tools), chat_template=source, **SPECIAL_TOKENS
        )
        return rendered[0], ""
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("templates", type=pathlib.Path, nargs="+")
    parser.add_argument("--host", default="target/release/host")
    parser.add_argument("--list", action="store_true", help="each rendering with what came of it")
    arguments = parser.parse_args()
    chat_template_utils.datetime = Frozen
    cases = []
    for root in arguments.templates:
        for path in sorted(root.rglob("*.jinja")):
            # Line ends as they are: Python's own reading would hide what `host` must do.
            source = path.read_bytes().decode("utf-8")
            for name, (messages, tools) in CONVERSATIONS.items():
                cases.append((f"{path.relative_to(root)}, {name}", source, messages, tools, None))
                if path.stem in NAMES and "axolotl" in str(path):
                    cases.append((f"{path.relative_to(root)} by name, {name}", source, messages, tools, path.stem))
    with tempfile.TemporaryDirectory() as directory:
        host = Host(arguments.host, directory)
        answers = [host.render(source, messages, tools, by_name) for _, source, messages, tools, by_name in cases]
    same = refused = excused = 0
    different = []
    for (name, source, messages, tools, _), (found, message) in zip(cases, answers):
        text, error = reference(source, messages, tools)
        if text == found:
            same, refused = (same + 1, refused) if text is not None else (same, refused + 1)
            if arguments.list:
                print(f"{name}: " + ("same" if text is not None else f"refused: {error} / {message}"))
        elif reason := next((reason for end, reason in REASONS.items() if name.endswith(end)), None):
            excused += 1
            print(f"{name}: different, because {reason}")
        else:
            different.append(name)
            print(f"{name}: DIFFERENT")
            print(f"  transformers: {repr(text) if text is not None else error}")
            print(f"  host:         {repr(found) if found is not None else message}")
    print(f"{len(cases)} renderings: {same} same, {refused} refused by both, {excused + len(different)} different")
    raise SystemExit(1 if different else 0)


if __name__ == "__main__":
    main()
