#!/usr/bin/env python3
"""Writes the names of all config keys of Axolotl into `keys.txt`: what `host` must know by name, whether it has it or not.

    pip download --no-deps --no-binary :all: axolotl   # or a wheel, or: git clone https://github.com/axolotl-ai-cloud/axolotl
    python3 tests/axolotl/keys.py DIR > tests/axolotl/keys.txt

DIR is the unpacked sdist or wheel, or the clone. The names are read from the fields of its pydantic models, without running any
of its code.
"""

import ast
import pathlib
import subprocess
import sys

# Models of mappings inside the config, not of the config itself.
NESTED = {"HatcheryConfig", "HatcheryGeneralConfig", "TinkerConfig", "CompressionArgs", "DiffusionConfig"}
DATASETS = ["SFTDataset", "PretrainingDataset", "DPODataset", "KTODataset", "StepwiseSupervisedDataset"]


def version(directory: pathlib.Path) -> str:
    """What the package says of itself; of a clone, also the commit."""
    for file in [directory / "PKG-INFO", *directory.glob("axolotl-*.dist-info/METADATA")]:
        if file.is_file():
            return next(line.split(": ")[1] for line in file.read_text().splitlines() if line.startswith("Version: "))
    if (directory / ".git").exists():
        commit = subprocess.run(["git", "-C", directory, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        own = directory / "VERSION"
        number = own.read_text().strip() + ", " if own.is_file() else ""
        return f"{number}commit {commit.stdout.strip()}"
    raise SystemExit(f"{directory}: nothing says which version it is of")


def main() -> None:
    directory = pathlib.Path(sys.argv[1])
    source = next((path for path in [directory / "src/axolotl", directory / "axolotl"] if path.is_dir()), None)
    if source is None:
        raise SystemExit(f"{directory}: there is neither src/axolotl nor axolotl in it")
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

    print(f"# Keys of Axolotl {version(directory)}; written by keys.py. Keys of a dataset begin with `datasets[].`.")
    top = names("AxolotlInputConfig").union(names("AxolotlConfigWCapabilities"), *(names(plugin) for plugin in plugins))
    # What Axolotl itself puts there.
    for name in sorted(top - {"capabilities", "env_capabilities", "axolotl_config_path", "is_preprocess"}):
        print(name)
    for name in sorted(set().union(*(names(model) for model in DATASETS))):
        print(f"datasets[].{name}")


main()
