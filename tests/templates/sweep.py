#!/usr/bin/env python3
"""Holds published chat templates against transformers: does `host` write the same text, to the byte?

    pip install transformers jinja2
    pip download axolotl==0.19.0 --no-deps && unzip -q axolotl-*.whl -d axolotl-wheel
    git clone --depth 1 https://github.com/chujiezheng/chat_templates
    python3 tests/templates/sweep.py axolotl-wheel chat_templates --render-with COMMAND [--list]

Each `.jinja` file below the directories is rendered for a plain conversation, one with a system message, one with reasoning
and one with tools. The templates are not part of this repository.

COMMAND renders for `host`. It reads a line of JSON for each rendering from stdin,

    {"template": "…", "variables": {"messages": […], "tools": […], …}, "now": 1789014200}

and writes a line for it to stdout: `{"text": "…"}`, or `{"error": "…"}` where it refuses. The variables are all that
transformers passes to the template.

Prints how many texts are the same, refused by both, and different; exits with 1 if any is different without a reason here.
"""

import argparse
import copy
import datetime
import json
import pathlib
import shlex
import subprocess

from transformers.utils import chat_template_utils

NOW = 1_789_014_200
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}

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

# `directory/file, conversation` to the reason why the texts differ. None does.
REASONS: dict[str, str] = {}


class Frozen(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None)


def variables(messages: list[dict], tools: list[dict] | None) -> dict:
    """All that transformers passes to a template for a conversation."""
    seen = {}

    class Recorder:
        def render(self, **given):
            seen.update(given)
            return ""

    real = chat_template_utils._compile_jinja_template
    chat_template_utils._compile_jinja_template = lambda _: Recorder()
    try:
        chat_template_utils.render_jinja_template(
            [copy.deepcopy(messages)], tools=copy.deepcopy(tools), chat_template="", **SPECIAL_TOKENS
        )
    finally:
        chat_template_utils._compile_jinja_template = real
    return seen


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
    parser.add_argument("--render-with", required=True, metavar="COMMAND")
    parser.add_argument("--list", action="store_true", help="each rendering with what came of it")
    arguments = parser.parse_args()
    chat_template_utils.datetime = Frozen
    cases = []
    for root in arguments.templates:
        for path in sorted(root.rglob("*.jinja")):
            # Line ends as they are: Python's own reading would hide what `host` must do.
            source = path.read_bytes().decode("utf-8")
            for name, (messages, tools) in CONVERSATIONS.items():
                cases.append((f"{path.relative_to(root)}, {name}", source, messages, tools))
    jobs = [
        json.dumps({"template": source, "variables": variables(messages, tools), "now": NOW})
        for _, source, messages, tools in cases
    ]
    run = subprocess.run(
        shlex.split(arguments.render_with), input="\n".join(jobs) + "\n", capture_output=True, text=True, check=True
    )
    answers = [json.loads(line) for line in run.stdout.split("\n") if line]
    if len(answers) != len(cases):
        raise SystemExit(f"{len(answers)} answers to {len(cases)} renderings\n{run.stderr}")
    same = refused = excused = 0
    different = []
    for (name, source, messages, tools), answer in zip(cases, answers):
        text, error = reference(source, messages, tools)
        if text == answer.get("text"):
            same, refused = (same + 1, refused) if text is not None else (same, refused + 1)
            if arguments.list:
                print(f"{name}: " + ("same" if text is not None else f"refused: {error} / {answer['error']}"))
        elif name in REASONS:
            excused += 1
            print(f"{name}: different, because {REASONS[name]}")
        else:
            different.append(name)
            wanted = repr(text) if text is not None else error
            print(f"{name}: DIFFERENT\n  transformers: {wanted}\n  host:         {answer.get('text', answer.get('error'))!r}")
    print(f"{len(cases)} renderings: {same} same, {refused} refused by both, {excused + len(different)} different")
    raise SystemExit(1 if different else 0)


if __name__ == "__main__":
    main()
