#!/bin/sh
# Plugins in JavaScript and in Python, made with `host plugin new`, built, tested, and used with the quickstart's model and data
# in two runs. It proves that plugins of three languages work side by side in one run, as they come out of their templates:
#
# 1. a prompt strategy in JavaScript and a reward in Python, in a run that learns from texts and is evaluated by the reward;
# 2. a reward in JavaScript and the one in Python, beside one in Rust, in a run that learns from them (`rl: grpo`). Both say the
#    same of every completion. `host check --plan` tries them on the data first, and says what a completion takes each.
#
# Needs node 20, python 3.11, and the npm and PyPI registries; about three minutes. The tools (jco, componentize-py) are installed
# into a temporary directory, which is deleted at the end.
#
#     plugin-sdk/examples/polyglot.sh [HOST]      # HOST: the program; default: target/release/host
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
host=$(realpath "${1:-$root/target/release/host}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

"$host" plugin new acme:ask --kind prompt-strategy --lang js --dir ask
npm install --prefix ask --no-audit --no-fund
(cd ask && npm test)
"$host" plugin build ask
"$host" plugin test ask

"$host" plugin new acme:brevity --kind reward --lang python --dir brevity
python3 -m venv brevity/.venv
brevity/.venv/bin/pip install --quiet -r brevity/requirements.txt
"$host" plugin build brevity
"$host" plugin test brevity

# Both directories, one run. The strategy has other names for the columns.
for file in train eval; do
    sed -e 's/"instruction":/"question":/' -e 's/"output":/"answer":/' "$root/configs/quickstart/$file.jsonl" > "$file.jsonl"
done
cat > run.yml <<END
base_model: $root/configs/quickstart/model
datasets:
  - path: train.jsonl
    type: {name: "acme:ask", config: {ask: "### Instruction: "}}
test_datasets:
  - path: eval.jsonl
    type: {name: "acme:ask", config: {ask: "### Instruction: "}}
eval_reward_funcs:
  - {name: "acme:brevity", config: {max_words: 5}}
  - exact-match
eval_max_new_tokens: 8
num_generation_samples: 16
sequence_len: 128
micro_batch_size: 16
learning_rate: 1e-3
max_steps: 5
output_dir: out
END
"$host" plugin lock run.yml --plugins ask/dist --plugins brevity/dist
"$host" train run.yml --plugins ask/dist --plugins brevity/dist --locked
grep -o '"name": "acme:[a-z]*"' out/run.json
tail -n 1 out/metrics.jsonl

# A reward in JavaScript that says what the one in Python says; the tools of the strategy build it.
"$host" plugin new acme:terse --kind reward --lang js --dir terse
ln -s ../ask/node_modules terse/node_modules
(cd terse && npm test)
"$host" plugin build terse
"$host" plugin test terse
cat > grpo.yml <<END
base_model: $root/configs/quickstart/model
datasets:
  - path: $root/configs/quickstart/train.jsonl
    type: alpaca
rl: grpo
trl:
  num_generations: 8
  max_completion_length: 16
  num_completions_to_log: 32
  reward_funcs:
    - {name: "acme:terse", config: {max_words: 2}}                 # JavaScript
    - {name: "acme:brevity", config: {max_words: 2}}               # Python
    - {name: length, config: {unit: words, max: 2, falloff: 4}}    # Rust
sequence_len: 128
micro_batch_size: 32
learning_rate: 1e-3
max_steps: 5
logging_steps: 1
output_dir: grpo
END
"$host" plugin lock grpo.yml --plugins terse/dist --plugins brevity/dist
"$host" check grpo.yml --plan --plugins terse/dist --plugins brevity/dist --locked
"$host" train grpo.yml --plugins terse/dist --plugins brevity/dist --locked
python3 - <<END
import json
with open("grpo/completions.jsonl") as file:
    rewards = [json.loads(line)["rewards"] for line in file]
for reward in rewards:
    assert reward["acme:terse"] == reward["acme:brevity"], reward
values = {reward["acme:terse"]["value"] for reward in rewards}
assert len(rewards) == 160 and len(values) > 1, values
print(f"{len(rewards)} completions, and both say the same of each: {len(values)} values")
END
