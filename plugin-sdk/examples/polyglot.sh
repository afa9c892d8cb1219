#!/bin/sh
# A prompt strategy in JavaScript and a reward in Python: made with `host plugin new`, built, tested, and used in one
# training run of the quickstart's model and data. Needs node 20, python 3.11, and the npm and PyPI registries; about two
# minutes. The tools (jco, componentize-py) are installed into a temporary directory, which is deleted at the end.
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
