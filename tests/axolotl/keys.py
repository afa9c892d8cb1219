#!/usr/bin/env python3
"""Writes the names of all config keys of Axolotl into `keys.txt`: what `host` must know by name, whether it has it or not.

    git clone --depth 1 https://github.com/axolotl-ai-cloud/axolotl
    python3 tests/axolotl/keys.py axolotl > tests/axolotl/keys.txt

The names are read from the fields of its pydantic models, without running any of its code.
"""

import ast
import pathlib
import subprocess
import sys

# Models of mappings inside the config, not of the config itself.
NESTED = {"HatcheryConfig", "HatcheryGeneralConfig", "TinkerConfig", "CompressionArgs", "DiffusionConfig"}
DATASETS = ["SFTDataset", "PretrainingDataset", "DPODataset", "KTODataset", "StepwiseSupervisedDataset"]


def main() -> None:
    repository = pathlib.Path(sys.argv[1])
    source = repository / "src/axolotl"
    fields, bases, plugins = {}, {}, []
    files = [*(source / "utils/schemas").rglob("*.py"), *(source / "integrations").rglob("args.py")]
    for file in sorted(files):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                own = [item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
                fields[node.name] = [name for name in own if name != "model_config"]
                bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
                if "integrations" in file.parts and node.name.endswith("Args") and node.name not in NESTED:
                    plugins.append(node.name)

    def names(model: str, seen: tuple = ()) -> set:
        if model not in fields or model in seen:
            return set()
        return set(fields[model]).union(*(names(base, (*seen, model)) for base in bases[model]))

    commit = subprocess.run(["git", "-C", repository, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"# Keys of Axolotl, commit {commit}; written by keys.py. Keys of a dataset begin with `datasets[].`.")
    top = names("AxolotlInputConfig").union(names("AxolotlConfigWCapabilities"), *(names(plugin) for plugin in plugins))
    # What Axolotl itself puts there.
    for name in sorted(top - {"capabilities", "env_capabilities", "axolotl_config_path", "is_preprocess"}):
        print(name)
    for name in sorted(set().union(*(names(model) for model in DATASETS))):
        print(f"datasets[].{name}")


main()
