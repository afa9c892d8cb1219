#!/usr/bin/env python3
"""Holds `host check` against the example configs of Axolotl: which run unchanged, which need a change, which are refused.

    git clone --depth 1 https://github.com/axolotl-ai-cloud/axolotl
    python3 tests/axolotl/check.py axolotl/examples [--key rl] [--host target/release/host] [--list]

Of all 252 (Axolotl 067b021, 2026-07-24), 133 run, with notes or warnings. What is held is
the config: whether a model's architecture is here is told by its `config.json`.

`--key rl` looks only at the configs that have this key. Of the 19 that have it (Axolotl 067b021, 2026-07-24), 5 run: three of
`dpo`, one of `kto`, one of `orpo`. Of the others, 9 are of `ebft`, which is not here; 3 name Python to run; 1 leaves out
duplicate rows; 1 trains ternary weights (`use_onebitllms`).
Models and data of the examples are not here, so that these are missing is no problem of a config. The examples are not part
of this repository.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import subprocess

# What is missing on this machine, not in the config.
ABSENT = {"model::missing", "data::missing-file"}


def check(host: str, config: pathlib.Path) -> list[dict]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    run = subprocess.run([host, "check", str(config), "--json"], capture_output=True, text=True, timeout=60, env=environment)
    if run.returncode not in (0, 1):
        raise SystemExit(f"{config}: exit status {run.returncode}\n{run.stderr}")
    events = [json.loads(line) for line in run.stdout.splitlines()]
    return [event for event in events if event["event"] == "diagnostic" and event["code"] not in ABSENT]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("examples", type=pathlib.Path)
    parser.add_argument("--host", default="target/release/host")
    parser.add_argument("--key", help="only configs with this key")
    parser.add_argument("--list", action="store_true", help="each config with what is found")
    arguments = parser.parse_args()
    groups, codes = collections.defaultdict(list), collections.Counter()
    key = arguments.key and re.compile(rf"^{re.escape(arguments.key)}:", re.MULTILINE)
    for config in sorted(arguments.examples.rglob("*.y*ml")):
        if key and not key.search(config.read_text()):
            continue
        found = check(arguments.host, config)
        errors = [event for event in found if event["severity"] == "error"]
        group = "refused" if errors else "changed" if found else "unchanged"
        groups[group].append(config)
        codes.update({(event["code"], event["message"].split("`")[1] if "`" in event["message"] else "") for event in errors})
        if arguments.list:
            print(f"{group:9}  {config.relative_to(arguments.examples)}")
            for event in found:
                print(f"           {event['severity']}: {event['message']}")
    total = sum(map(len, groups.values()))
    for group, words in [
        ("unchanged", "run as they are"),
        ("changed", "run, with notes or warnings on what is different here"),
        ("refused", "ask for something that is not here, each with what to do instead"),
    ]:
        print(f"{len(groups[group]):4} of {total} {words}")
    print("most frequent reasons:")
    for (code, what), count in codes.most_common(25):
        print(f"{count:4}  {code} {what}")


if __name__ == "__main__":
    main()
