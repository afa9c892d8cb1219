"""Writes `corpus/`: the inputs that fuzzing starts from, small, sound ones of every shape, and those that once failed.
Standard library only. Those of `rows` that are columns, `columns.py` writes.

    python3 tests/fuzz/seeds.py
"""

import gzip
import hashlib
import io
import json
import struct
import tarfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE / "../.."
BETWEEN = b"\n%%\n"


def write(target, name, *files, prefix="seed"):
    parts = [file if isinstance(file, bytes) else file.encode() for file in files]
    path = HERE / "corpus" / target / f"{prefix}-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(BETWEEN.join(parts))


def found(target, name, *files):
    """What once failed, in its shortest form."""
    write(target, name, *files, prefix="found")


def read(path):
    return (ROOT / path).read_text()


def safetensors(tensors):
    """`{name: (dtype, shape)}`, values of a few small numbers."""
    header, data = {}, b""
    for name, (dtype, shape) in tensors.items():
        count = 1
        for size in shape:
            count *= size
        values = [0.125 * (index % 7) for index in range(count)]
        if dtype == "F32":
            packed = struct.pack(f"<{count}f", *values)
        elif dtype == "F16":
            packed = struct.pack(f"<{count}e", *values)
        else:
            packed = b"".join(struct.pack("<f", value)[2:] for value in values)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


# Configs and edits.

for config in ["lora", "code", "curated", "freeze", "quickstart/config"]:
    write("config", config.replace("/", "-"), read(f"configs/{config}.yml"))
MINIMAL = "base_model: m\ndatasets:\n  - path: d.jsonl\n    type: alpaca\nlearning_rate: 1e-3\noutput_dir: out\n"
write("config", "minimal", MINIMAL)
write("config", "anchors", "x: &a {lora_r: 8, lora_alpha: 16}\n<<: *a\n" + MINIMAL + "seed: &s 3\nmax_steps: *s\n")
write("config", "odd", MINIMAL + "lora_r: 0x10\nval_set_size: .inf\nwarmup_ratio: !!float 1\n'seed': \"4\"\nlora_r: 5\n")
write("config", "flow", "{base_model: m, datasets: [{path: d, type: {system_prompt: '', field_output: o}}], learning_rate: 1}\n")
write(
    "config",
    "plugins",
    MINIMAL
    + "plugins:\n  - {name: 'acme:x', sha256: '00', limits: {memory_mb: 3}, grants: {read: [a]}}\n"
    + "rules: ['acme:x', {name: y, severity: {G1: off}}]\neval_reward_funcs: [{name: r, on_error: zero}]\n"
    + "row_filters: [{name: f, min_score: 0.5}]\nlr_scheduler: acme:s\nrun_health: [h]\n",
)
TEXT = "# é\na: 1 # ü\nb:\n  - c: [x, {d: 1, e: '2'}]   # y\n    f: |\n      text\n\n    g:\n  - h\nk: {l: 1, m: \"n\"}\n"
for name, edit in [
    ("set", "set b[0].c[1].d 5"),
    ("set-text", "set a \"x: y # z\""),
    ("set-new", "set k.o [1, {p: q}]"),
    ("set-deep", "set n.o.p 1"),
    ("remove", "remove b[0].f"),
    ("remove-entry", "remove b[1]"),
    ("remove-flow", "remove k.l"),
    ("rename", "rename k.m z"),
]:
    write("edit", name, edit, TEXT)
found("edit", "odd-key", "set k\x02\0.x 5", TEXT)
write("edit", "crlf", "set b 2", "a: 1\r\nb: 3\r\n")
write("edit", "anchors", "set b.c 2", "a: &x {c: 1}\nb: *x\n<<: *x\n")

# Models.

GENERATION = json.dumps({"eos_token_id": [1, 2], "do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 50})
kinds = set()
for fixture in sorted((ROOT / "tests/fixtures/parity").glob("*/config.json")):
    config = json.loads(fixture.read_text())
    kind = (config["model_type"], *sorted(config))
    if kind in kinds:
        continue
    kinds.add(kind)
    write("model", fixture.parent.name, fixture.read_text(), GENERATION)
TINY = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4,
    "intermediate_size": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 1,
    "vocab_size": 6,
    "head_dim": 2,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
}
write("model", "longrope", json.dumps({**TINY, "rope_scaling": {"type": "linear", "factor": 2}, "rope_theta": 1e4}), "{}")
write(
    "model",
    "llama3",
    json.dumps(
        {
            **TINY,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "factor": 8,
                "low_freq_factor": 1,
                "high_freq_factor": 4,
                "original_max_position_embeddings": 16,
            },
        }
    ),
    '{"temperature": 1, "max_new_tokens": 5, "repetition_penalty": 1.1}',
)
LAYER = {
    "input_layernorm.weight": [4],
    "post_attention_layernorm.weight": [4],
    "self_attn.q_proj.weight": [4, 4],
    "self_attn.k_proj.weight": [2, 4],
    "self_attn.v_proj.weight": [2, 4],
    "self_attn.o_proj.weight": [4, 4],
    "mlp.gate_proj.weight": [4, 4],
    "mlp.up_proj.weight": [4, 4],
    "mlp.down_proj.weight": [4, 4],
}
OUTER = {"model.embed_tokens.weight": [6, 4], "model.norm.weight": [4]}
INNER = {f"model.layers.0.{name}": shape for name, shape in LAYER.items()}


def typed(shapes, dtype):
    return {name: (dtype, shape) for name, shape in shapes.items()}


write("weights", "single", json.dumps(TINY), "", safetensors(typed({**OUTER, **INNER}, "F32")))
write("weights", "half", json.dumps(TINY), "", safetensors({**typed(OUTER, "F16"), **typed(INNER, "BF16")}))
HEAD = {"lm_head.weight": [6, 4]}
write("weights", "tied-head", json.dumps(TINY), "", safetensors(typed({**OUTER, **INNER, **HEAD}, "F32")))
UNTIED = json.dumps({**TINY, "tie_word_embeddings": False})
write("weights", "untied", UNTIED, "", safetensors(typed({**OUTER, **INNER, **HEAD}, "BF16")))
INDEX = {name: "first.safetensors" for name in OUTER} | {name: "second.safetensors" for name in INNER}
write(
    "weights",
    "shards",
    json.dumps(TINY),
    json.dumps({"metadata": {}, "weight_map": INDEX}),
    safetensors(typed(OUTER, "F32")),
    safetensors(typed(INNER, "F32")),
)

found("model", "max-new-tokens", json.dumps({**TINY, "max_position_embeddings": 10**12}), '{"max_new_tokens": 1000000000000}')

# A checkpoint that bitsandbytes has packed. Tensors of zeros have no tables of codes: what reads them says so.
for bits in [{"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}, {"load_in_8bit": True}]:
    is_4bit = "load_in_4bit" in bits
    packed = {}
    for name, shape in INNER.items():
        if "norm" in name:
            packed[name] = ("F32", shape)
        elif is_4bit:
            packed |= {
                name: ("U8", [shape[0] * shape[1] // 2, 1]),
                name + ".absmax": ("U8", [1]),
                name + ".quant_map": ("F32", [16]),
                name + ".nested_absmax": ("F32", [1]),
                name + ".nested_quant_map": ("F32", [256]),
                name + ".quant_state.bitsandbytes__nf4": ("U8", [80]),
            }
        else:
            packed |= {name: ("I8", shape), name[: -len("weight")] + "SCB": ("F32", [shape[0]])}
    config = json.dumps({**TINY, "quantization_config": {"quant_method": "bitsandbytes", **bits}})
    write("weights", "packed-4bit" if is_4bit else "packed-8bit", config, "", safetensors({**typed(OUTER, "F32"), **packed}))
# A text model that is a part of another one.
PARTS = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": {**TINY, "hidden_act": None}, "vision_config": {}}
write("model", "parts", json.dumps(PARTS), "{}")
TEXT = {f"language_model.{name}": shape for name, shape in {**OUTER, **INNER}.items()}
write("weights", "parts", json.dumps(PARTS), "", safetensors(typed({**TEXT, "vision_tower.a": [3]}, "F32")))

# An adapter and a checkpoint of tests/fixtures/parity/tied.

ADAPTER = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj"], "layers_to_transform": [1]}
A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
B = A.replace("lora_A", "lora_B")
PAIR = {A: [1, 32], B: [32, 1]}
for dtype in ["F32", "F16", "BF16"]:
    write("adapter", dtype.lower(), json.dumps(ADAPTER), safetensors(typed(PAIR, dtype)))
write(
    "adapter",
    "pattern",
    json.dumps({**ADAPTER, "target_modules": ".*q_proj", "use_rslora": True, "lora_dropout": 0.1}),
    safetensors(typed(PAIR, "F32")),
)
SAVED = {"base_model.model.model.embed_tokens.weight": [96, 32], "base_model.model.lm_head.weight": [96, 32]}
write(
    "adapter",
    "saved",
    json.dumps({**ADAPTER, "use_dora": True, "modules_to_save": ["embed_tokens", "lm_head"]}),
    safetensors(typed({**PAIR, **SAVED, A.replace("lora_A.weight", "lora_magnitude_vector"): [32]}, "F32")),
)
found(
    "adapter",
    "rank",
    json.dumps({**ADAPTER, "r": 65536, "target_modules": "all-linear", "layers_to_transform": None}),
    safetensors(typed(PAIR, "F32")),
)
NORMS = ["model.norm.weight"] + [
    f"model.layers.{layer}.{name}.weight" for layer in range(3) for name in ["input_layernorm", "post_attention_layernorm"]
]
MOMENTS = {f"{kind}/{name}": ("F32", [32]) for kind in ["exp_avg", "exp_avg_sq"] for name in NORMS}
STATE = {
    "v": 1,
    "global_step": 3,
    "position": {"epoch": 0, "micro_batch": 6},
    "total_steps": 10,
    "settings": {"seed": 42},
    "eval_before": None,
    "first_loss": 4.5,
    "last_loss": 4.25,
    "tokens": 96,
}
WEIGHTS = safetensors({name: ("F32", [32]) for name in NORMS})
write("checkpoint", "sound", json.dumps(STATE), safetensors(MOMENTS), WEIGHTS)
write(
    "checkpoint",
    "manifest",
    json.dumps(STATE),
    safetensors(MOMENTS),
    WEIGHTS,
    json.dumps({"v": 1, "host": "0.1.0", "files": {"trainer_state.json": {"bytes": 1, "sha256": "00"}}}),
)

found("checkpoint", "last-epoch", json.dumps({**STATE, "position": {"epoch": 2**64 - 1, "micro_batch": 9}}), safetensors(MOMENTS), WEIGHTS)

# Templates.

CONVERSATION = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " What is 2 + 2?\n"},
        {"role": "assistant", "content": "It is 4.", "spans": [[0, 2, False], [6, 8, True], [8, 8, True]]},
    ]
}
TOOLS = {
    "messages": [
        {"role": "user", "content": "Add."},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "think",
            "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": [2]}}}],
        },
        {"role": "tool", "content": "3", "name": "add"},
        {"role": "assistant", "content": "3"},
    ],
    "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}],
}
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TOOLFUL = """{%- if tools %}{{ tools | tojson(indent=2) }}{% endif -%}
{%- macro turn(m) -%}<{{ m.role | upper }}>{{ m.content | trim }}{%- endmacro -%}
{%- set ns = namespace(last=none) -%}
{%- for m in messages -%}
  {%- if m.tool_calls is defined -%}
    {%- for call in m.tool_calls -%}{{ call.function.name }}({{ call.function.arguments | tojson }}){%- endfor -%}
  {%- elif m['role'] == 'tool' -%}[{{ m.content }}]
  {%- else -%}{%- generation -%}{{ turn(m) }}{%- endgeneration -%}{%- endif -%}
  {%- set ns.last = loop.index0 -%}
{%- endfor -%}{{ ns.last }}{{ bos_token ~ '%5.2f|%s' % (1.5, [1, 'a', {'b': none}]) }}"""
write("template", "chatml", CHATML, json.dumps(CONVERSATION))
write("template", "tools", TOOLFUL, json.dumps(TOOLS))
FEATURES = """{{ messages[-1].content[::-1].split(' ') | join('-') | replace('4', '5') }}{{ range(3) | list | map('string') | sum(start='') }}
{{ "{:>8}|{:x}".format('a', 255) }}{% set x = messages | selectattr('role', 'equalto', 'user') | list %}{{ x | length }}
{{ (x | first).content | title | indent(2) }}{% filter upper %}a{% endfilter %}{{ strftime_now('%Y-%m-%d') }}
{% for a in [1, 2, 3] if a is odd recursive %}{{ loop.cycle('a', 'b') }}{% if a > 1 %}{% break %}{% endif %}{% else %}n{% endfor %}
{% call(z) outer(1) %}{{ z }}{% endcall %}{% macro outer(q, r=2) %}{{ caller(q + r ** 2 // 3) }}{% endmacro %}{# c #}{% raw %}{{ }}{% endraw %}
{{ {'a': 1}.items() | list }}{{ 'x' in 'xyz' and not false or 1 if true else 2 }}{{ messages | groupby('role') }}{{ 1.0e300 * 1e300 }}"""
write("template", "features", FEATURES, json.dumps(CONVERSATION))
EXPRESSIONS = [line for line in read("tests/fixtures/jinja/expressions.txt").splitlines() if line.strip()]
for start in range(0, len(EXPRESSIONS), 40):
    lines = "\n".join("{{ " + line + " }}" for line in EXPRESSIONS[start : start + 40])
    write("template", f"expressions-{start // 40:02}", lines, json.dumps(CONVERSATION))

FIXED = "{% for message in messages %}{said' + message['content'] }}{% endfor %}"
found("template", "content-not-written", FIXED, json.dumps(CONVERSATION))

# Tokenizers.


def added(index, content, special=True):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": content, **flags, "special": special}


def tokenizer(model, **parts):
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None}
    return json.dumps({**whole, "pre_tokenizer": None, "post_processor": None, "decoder": None, **parts, "model": model})


NAMES = json.dumps({"eos_token": "</s>", "bos_token": "<s>", "chat_template": CHATML})
SPECIALS = [added(0, "<s>"), added(1, "</s>")]
WORDS = {"<s>": 0, "</s>": 1, "<unk>": 2, "a": 3, "b": 4, " ": 5, "ab": 6, "é": 7}
WORD_LEVEL = {"type": "WordLevel", "vocab": WORDS, "unk_token": "<unk>"}
BPE = {
    "type": "BPE",
    "dropout": None,
    "unk_token": "<unk>",
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
    "vocab": WORDS,
    "merges": [["a", "b"]],
}
UNIGRAM = {
    "type": "Unigram",
    "unk_id": 0,
    "vocab": [["<unk>", 0.0], ["▁", -1.0], ["a", -1.5], ["b", -2.0], ["ab", -1.25], ["</s>", -3]],
    "byte_fallback": False,
}
WORD_PIECE = {
    "type": "WordPiece",
    "unk_token": "<unk>",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
    "vocab": {"<unk>": 0, "a": 1, "##b": 2, "b": 3},
}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
SPLIT = {"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s+(?!\\S)|."}, "behavior": "Isolated", "invert": False}
TEXT = "ab a é  b</s> ab\n😀"
write(
    "tokenizer",
    "words",
    tokenizer(WORD_LEVEL, added_tokens=SPECIALS, pre_tokenizer={"type": "Whitespace"}),
    NAMES,
    TEXT,
)
write(
    "tokenizer",
    "bpe",
    tokenizer(
        BPE,
        added_tokens=SPECIALS + [added(9, "<|x|>", False)],
        pre_tokenizer={"type": "Sequence", "pretokenizers": [SPLIT, BYTE_LEVEL]},
        decoder=BYTE_LEVEL,
        post_processor={
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
        },
    ),
    NAMES,
    TEXT,
)
write(
    "tokenizer",
    "unigram",
    tokenizer(
        UNIGRAM,
        added_tokens=[added(5, "</s>")],
        normalizer={
            "type": "Sequence",
            "normalizers": [
                {"type": "NFKC"},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
                {"type": "Lowercase"},
                {"type": "Strip", "strip_left": True, "strip_right": False},
            ],
        },
        pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    ),
    "{}",
    TEXT,
)
write(
    "tokenizer",
    "pieces",
    tokenizer(
        WORD_PIECE,
        normalizer={"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        pre_tokenizer={"type": "BertPreTokenizer"},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    ),
    "{}",
    TEXT,
)
write(
    "tokenizer",
    "llama",
    tokenizer(
        {**BPE, "byte_fallback": True, "vocab": {**WORDS, "▁": 8, "<0x0A>": 9, "▁a": 10}, "merges": [["▁", "a"]]},
        added_tokens=SPECIALS,
        normalizer={
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        decoder={
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
    ),
    NAMES,
    TEXT,
)

EMPTY_MATCH = {"type": "Replace", "pattern": {"Regex": " {0,}"}, "content": " "}
LOWER = {"type": "Sequence", "normalizers": [EMPTY_MATCH, {"type": "Lowercase"}]}
found("tokenizer", "empty-match", tokenizer(WORD_LEVEL, normalizer=LOWER), "{}", "a")
GIVES_UP = {**SPLIT, "pattern": {"Regex": "(?:a|a|b)*(?=c)|a"}}
found("tokenizer", "gives-up", tokenizer(WORD_LEVEL, pre_tokenizer=GIVES_UP), "{}", "a" * 40 + " a b")
TABLE = {"type": "Precompiled", "precompiled_charsmap": "/////wAA"}
found("tokenizer", "table", tokenizer(WORD_LEVEL, normalizer=TABLE), "{}", "a")

# Plugin files.

MANIFEST = {"name": "acme:x", "version": "1.0.0", "api": "0.1", "kind": "reward", "description": "Scores"}
SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"type": "integer", "minimum": 1, "multipleOf": 2},
        "b": {"enum": ["x", 1, None]},
        "c": {"type": "array", "items": {"$ref": "#/$defs/d"}, "uniqueItems": True},
        "e": {"type": "string", "pattern": "^[a-z]+$", "format": "date"},
    },
    "required": ["a"],
    "additionalProperties": False,
    "$defs": {"d": {"anyOf": [{"type": "string"}, {"not": {"const": 3}}]}},
}
write("manifest", "plain", json.dumps(MANIFEST), "{}")
write("manifest", "schema", json.dumps({**MANIFEST, "config_schema": SCHEMA}), '{"a": 3, "b": "y", "c": [3, 3], "e": "A"}')
write("manifest", "deep", json.dumps({**MANIFEST, "config_schema": {"$ref": "#"}}), "[]")


def section(number, content):
    assert len(content) < 128
    return bytes([number, len(content)]) + content


def custom(name, content):
    return section(0, bytes([len(name)]) + name.encode() + content)


COMPONENT = b"\0asm\x0d\0\x01\0"
SHORT = json.dumps({"name": "x", "version": "1", "api": "0.1", "kind": "reward", "description": ""}).encode()[:90]
write("component", "empty", COMPONENT)
write("component", "module", b"\0asm\x01\0\0\0")
# A type of an instance, which is imported, and an alias of it that is exported.
IMPORT = section(7, b"\x01\x42\0") + section(10, b"\x01\0\x0etrainer:plugin\x05\0")
write("component", "import", COMPONENT + IMPORT)
write("component", "nested", COMPONENT + section(4, COMPONENT) + section(1, b"\0asm\x01\0\0\0"))

# Records.

OUTCOME = {
    "event": "outcome",
    "v": 1,
    "id": "0123456789abcdef",
    "host_version": "0.1.0",
    "setup": {
        "architecture": "LlamaForCausalLM",
        "parameters": 130000000,
        "device": "cpu",
        "techniques": ["lora", "packing"],
        "learning_rate": 0.0002,
        "batch_size": 8,
        "sequence_len": 1024,
    },
    "steps": 10,
    "outcome": "finished",
}
CALL = {
    "v": 1,
    "plugin": "acme:x",
    "version": "1.0.0",
    "sha256": "00",
    "kind": "reward",
    "config": {},
    "limits": {"memory_bytes": 1048576, "call_ms": 1000, "result_bytes": 1024},
    "call": "score",
    "context": {"step": 1},
    "input": [{"prompt": "a", "completion": "b"}],
}
LINES = [{**OUTCOME, "id": f"{index:032x}", "outcome": word} for index, word in enumerate(["finished", "diverged", "killed"])]
write("records", "outcomes", "\n".join(json.dumps(line) for line in LINES), json.dumps(CALL))
write("records", "flaws", json.dumps(OUTCOME) + "\n{}\n", json.dumps({**CALL, "v": 2}))

# Results of guests, as the canonical ABI lays them out in memory.

IMAGE = 0x10000
STRING = ("string",)
BOOL = ("int", 1)
U32 = ("int", 4)
U64 = ("int", 8)
F32 = ("float", 4)
F64 = ("float", 8)


def record(*fields):
    return ("record", fields)


def listed(of):
    return ("list", of)


def variant(*cases):
    return ("variant", cases)


def option(of):
    return variant(None, of)


def result(fine, error):
    return variant(fine, error)


def enum(count):
    return variant(*[None] * count)


def align(kind):
    tag = kind[0]
    if tag in ("int", "float"):
        return kind[1]
    if tag in ("string", "list"):
        return 4
    parts = [align(part) for part in kind[1] if part]
    return max(parts, default=1)


def size(kind):
    tag = kind[0]
    if tag in ("int", "float"):
        return kind[1]
    if tag in ("string", "list"):
        return 8
    if tag == "record":
        at = 0
        for field in kind[1]:
            at += -at % align(field) + size(field)
    else:
        payload = [part for part in kind[1] if part]
        at = 1 + -1 % max((align(part) for part in payload), default=1) if payload else 1
        at += max((size(part) for part in payload), default=0)
    return at + -at % align(kind)


class Memory:
    def __init__(self, kind, value):
        self.bytes = bytearray(size(kind))
        self.put(kind, value, 0)

    def room(self, count, alignment):
        self.bytes += bytes(-len(self.bytes) % alignment)
        at = len(self.bytes)
        self.bytes += bytes(count)
        return at

    def put(self, kind, value, at):
        tag = kind[0]
        if tag == "int":
            self.bytes[at : at + kind[1]] = int(value).to_bytes(kind[1], "little")
        elif tag == "float":
            self.bytes[at : at + kind[1]] = struct.pack("<f" if kind[1] == 4 else "<d", value)
        elif tag == "string" and isinstance(value, int):
            # So many bytes of what happens to be there.
            self.bytes[at : at + 8] = struct.pack("<II", IMAGE + 0x10000, value)
        elif tag == "string":
            text = value.encode()
            place = self.room(len(text), 1)
            self.bytes[place : place + len(text)] = text
            self.bytes[at : at + 8] = struct.pack("<II", IMAGE + place, len(text))
        elif tag == "list":
            place = self.room(size(kind[1]) * len(value), align(kind[1]))
            for index, entry in enumerate(value):
                self.put(kind[1], entry, place + index * size(kind[1]))
            self.bytes[at : at + 8] = struct.pack("<II", IMAGE + place, len(value))
        elif tag == "record":
            for field, entry in zip(kind[1], value):
                at += -at % align(field)
                self.put(field, entry, at)
                at += size(field)
        else:
            case, payload = value
            self.bytes[at] = case
            cases = [part for part in kind[1] if part]
            if kind[1][case]:
                at += 1
                at += -at % max(align(part) for part in cases)
                self.put(kind[1][case], payload, at)


def some(value):
    return (1, value)


NONE = (0, None)
FAILURE = variant(record(STRING, STRING, option(STRING)), STRING)
ROW_ERROR = record(STRING, option(STRING))
SEGMENT = record(STRING, BOOL, option(F32))
SPAN = record(U32, U32, BOOL)
MESSAGE = record(STRING, STRING, option(BOOL), listed(SPAN), option(STRING))
TALK = record(listed(MESSAGE), option(STRING), option(BOOL))
WORDS_ = variant(listed(SEGMENT), TALK)
SAMPLE = variant(
    WORDS_,
    record(WORDS_, WORDS_, WORDS_),
    record(WORDS_, WORDS_, BOOL),
    WORDS_,
    record(WORDS_, listed(record(STRING, F32))),
)
RENDERED = result(listed(result(option(SAMPLE), ROW_ERROR)), FAILURE)
BATCH = result(record(listed(result(record(STRING, STRING), record(ROW_ERROR, STRING))), BOOL), FAILURE)
VERDICTS = result(listed(record(BOOL, option(F64), option(STRING))), FAILURE)
SCORES = result(listed(record(option(F64), option(STRING))), FAILURE)
EDIT = variant(record(STRING, STRING), STRING)
FINDINGS = result(listed(record(STRING, enum(3), listed(STRING), STRING, STRING, option(STRING), listed(EDIT))), FAILURE)
FACTORS = result(listed(F64), FAILURE)
HEALTH = result(listed(record(STRING, enum(3), STRING, STRING, option(STRING))), FAILURE)
LOADER, STRATEGY, FILTER, REWARD, RULES, SCHEDULE, MONITOR = range(7)


def guest(name, kind, shape, value, keep=write):
    keep("guest", name, bytes([kind]) + bytes(Memory(shape, value).bytes))


def fine(value):
    return (0, value)


for kind, shape, name in [
    (LOADER, BATCH, "loader"),
    (STRATEGY, RENDERED, "strategy"),
    (FILTER, VERDICTS, "filter"),
    (REWARD, SCORES, "reward"),
    (RULES, FINDINGS, "rules"),
    (SCHEDULE, FACTORS, "schedule"),
    (MONITOR, HEALTH, "monitor"),
]:
    guest(f"{name}-failed", kind, shape, (1, (1, "no\nhelp: do this")))
    guest(f"{name}-config", kind, shape, (1, (0, ("a.b", "unknown field `b`", some("use c")))))
guest("loader", LOADER, BATCH, fine(([fine(('{"x": 1}', "line 1")), (1, (("bad", some("x")), "line 2"))], True)))
guest("loader-rows", LOADER, BATCH, fine(([fine(('{"x": 1}', "line 1")), fine(('{"y": [2]}', "line 2"))], True)))
LEARNED = fine([("Q: a", False, NONE), (" A", True, some(0.5))])
SPOKEN = (
    1,
    (
        [
            ("user", "Hi", NONE, [], NONE),
            ("assistant", "Hello", NONE, [(0, 2, False), (5, 5, True)], some('{"name": "x"}')),
        ],
        NONE,
        some(True),
    ),
)
guest("strategy-segments", STRATEGY, RENDERED, fine([fine(some(fine(LEARNED))), fine(NONE)]))
guest("strategy-talk", STRATEGY, RENDERED, fine([fine(some(fine(SPOKEN))), (1, ("no field", some("q")))]))
guest("strategy-pair", STRATEGY, RENDERED, fine([fine(some((1, (LEARNED, SPOKEN, LEARNED)))), fine(some((3, LEARNED)))]))
guest("strategy-steps", STRATEGY, RENDERED, fine([fine(some((4, (LEARNED, [("s", 1.0)])))), fine(some((2, (LEARNED, LEARNED, 1))))]))
guest("filter", FILTER, VERDICTS, fine([(True, some(0.75), NONE), (False, NONE, some("too short"))]))
guest("reward", REWARD, SCORES, fine([(some(0.5), some("good")), (NONE, NONE)]))
guest("schedule", SCHEDULE, FACTORS, fine([0.5, 1.0]))
guest("monitor", MONITOR, HEALTH, fine([("loss-spike", (1, None), "The loss rose", "from 1 to 2", some("lower it"))]))
FINDING = ("X1", (0, None), ["lora_r", "datasets[0].path"], "too high", "it is 64", NONE)
guest("rules", RULES, FINDINGS, fine([(*FINDING, [fine(("lora_r", "8")), (1, "seed")])]))
guest("rules-files", RULES, FINDINGS, fine([(*FINDING, [fine(("output_dir", "/etc")), (1, "datasets")])]))
guest("rules-scheduler", RULES, FINDINGS, fine([(*FINDING, [fine(("lr_scheduler", "linear"))])]))

LONG = 6 << 20
guest("endless-rows", LOADER, BATCH, fine(([fine(("{}", "line 1"))], False)), keep=found)
guest("long-row-error", STRATEGY, RENDERED, fine([(1, (LONG, some("q"))), fine(NONE)]), keep=found)
guest("long-finding", RULES, FINDINGS, fine([("X1", (0, None), ["lora_r"], LONG, LONG, some(LONG), [fine(("seed", LONG))])]), keep=found)

# Cards of datasets: what is asked for, the card, a file of YAML, names of all files.


def entry(name="", split="", loader="", revision="", *patterns):
    return "\n".join([name, split, loader, revision, *patterns])


def front(yaml):
    return f"---\nlicense: mit\n{yaml}\n---\n# A card\n"


SHARDS = "\n".join([*(f"data/{split}-0000{index}-of-00002.parquet" for split in ["train", "test"] for index in [0, 1]), "README.md"])
FOLDERS = "README.md\nen/train.jsonl\nen/valid.csv\nde/test-0.json.gz\nde/x[1].txt\n.hidden/train.json\n__pycache__/a.json\nrows.py\nz.zip"
CONFIGS = """configs:
- config_name: en
  data_dir: ./en/
  default: true
- config_name: de
  data_files:
  - {split: train, path: ["de/*.json*", "**/x[[]1].txt"]}
  - {split: test, path: "de/test-?.[!c]*"}
- config_name: 2024
  data_files: ["*/train*", "en/valid.csv"]
"""
write("card", "none", entry(), "# A card", "", SHARDS)
write("card", "shards", entry("", "test+train[:10%]"), front("tags: [x]"), "", SHARDS)
write("card", "folders", entry("", "validation"), "", "", FOLDERS)
write("card", "configs", entry("de", "test"), front(CONFIGS), "", FOLDERS)
write("card", "default", entry(), front(CONFIGS), "", FOLDERS)
write("card", "patterns", entry("2024", "", "jsonl", "", "**/*.json*", "en/train.jsonl"), front(CONFIGS), "", FOLDERS)
write("card", "yaml", entry("b", "a.b"), "", "configs: [{config_name: b, data_files: [{split: a.b, path: '**'}]}]", FOLDERS)
write("card", "anchors", entry("a"), front("x: &a ['**']\nconfigs: [{config_name: a, data_files: *a}, &b {config_name: 3}, *b]"), "", FOLDERS)
CONVERTED = "a/train/0000.parquet\na/partial-test/0000.parquet\nb[1]/train/0000.parquet\nb[1]/train/0001.parquet"
write("card", "converted", entry("a", "test", "", "refs/convert/parquet"), "", "", CONVERTED)
write("card", "script", entry(), "", "", "rows.py\ntrain.jsonl")

# Rows that are compared: words of a run, permutations, then texts of which every third is of the evaluation.


def compared(name, ngram, permutations, *texts):
    write("curation", name, bytes([ngram, permutations]) + "\n%%\n".join(texts).encode())


LONG = "A train leaves the station at nine, and another one leaves at ten: which of the two arrives first?"
SPOKEN = "Ein Zug fährt um neun ab, und ein anderer um zehn: welcher der beiden kommt früher am Bahnhof an?"
compared("same", 4, 112, "Name three colours.", "name  three\nCOLOURS", "name two", "Name three colors.")
compared("near", 4, 112, LONG, LONG.replace("ten", "eleven"), LONG.upper(), LONG + " " + LONG, SPOKEN)
compared("evaluation", 12, 48, f"Question: {LONG} Answer.", "x", LONG, "five words of a text", "a b c d e", "so: five words of a text")
compared("scripts", 1, 16, "你好 world。これは - 3-4 well-known -x ΣΑΣ ǅ ﬁ İ", "2×3≠7", "…#", "ภาษาไทย ลาว 한국어", "a\na\n\na\nlorem ipsum")
compared("many", 2, 16, *(f"row {index % 5} of some that are alike" for index in range(40)))

# Rows of files; the first byte picks the loader.


def rows(name, kind, content):
    write("rows", name, kind + (content if isinstance(content, bytes) else content.encode()))


rows("text", b"t", "\ufeffone \"two\"\r\n\n<b>three</b>\rfour\r\r\nfive")
rows("text-bytes", b"t", b"a\nb\xe9\n\xff")
rows("csv", b",", '\ufeffq,a\r\n007,"x, ""y"""\r\n\r\n ,"two\nlines"\rlast,\n1,2,3\n')
rows("csv-odd", b";", b'q;;"a"b\n"x"y"z;a"b;\n\r\n;\xff;"')
rows("tabs", b"\t", "q\ta\n1,2\t3")
rows("csv-gzip", b",", gzip.compress(b"q,a\n" + b"1,2\n" * 20, mtime=0))
rows("text-zstd", b"t", (ROOT / "tests/fixtures/loaders/rows.jsonl.zst").read_bytes())
rows("text-frames", b"t", b"\x50\x2a\x4d\x18\x03\0\0\0abc" + b"\x28\xb5\x2f\xfd\x20\x03\x19\0\0a\nb")
rows("lines", b"j", '\ufeff{"q": "é\\n\\u00e9", "n": [1, 2.5e3, null, {"a": true}]}\r\n\n {} \n{"q": "a", "q": "b"}')
rows("lines-odd", b"j", b'{"a": NaN, "b": [-Infinity, 1]}\n[1]\n"x"\n{"a": \xff}\n{"a": 1} {"b": 2}\n{"a"')
rows("list", b"j", ' [{"a": "]"}, {"b": Infinity},\n {}]\n')
rows("object", b"j", '{\n "data": [\n  {"a": 1}\n ]\n}\n')
rows("lines-gzip", b"j", gzip.compress(b'{"a": 1}\n' * 20, mtime=0))

# Recipes; the first byte says what it is.

TITLE = "org.opencontainers.image.title"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def manifest(files):
    layer = lambda name, content: {
        "mediaType": "x", "digest": f"sha256:{sha256(content)}", "size": len(content), "annotations": {TITLE: name},
    }
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": f"sha256:{sha256(b'{}')}", "size": 2}
    return json.dumps({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.host.recipe.v1",
        "config": empty,
        "layers": [layer(name, content) for name, content in files.items()],
    }).encode()


def archive(files):
    own = manifest(files)
    index = json.dumps({"schemaVersion": 2, "manifests": [{"digest": f"sha256:{sha256(own)}"}]}).encode()
    entries = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index}
    entries |= {f"blobs/sha256/{sha256(content)}": content for content in [own, *files.values()]}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    # The end of an archive is padded to 10 KiB; two empty blocks are enough.
    return out.getvalue().rstrip(b"\0") + b"\0" * 1024


FILES = {"recipe.yml": MINIMAL.encode(), "d.jsonl": b"{}\n", "plugins/a.wasm": b"\0asm"}
write("recipe", "archive", b"a" + archive(FILES))
write("recipe", "manifest", b"m" + manifest(FILES))
write("recipe", "names", b"m" + manifest({"recipe.yml": b"x", "a/b": b"", "a/B": b"", "../c": b"", ".d": b"", "/e": b"", "a": b""}))
write("recipe", "index", b"i" + json.dumps({"v": 1, "recipes": [
    {"name": "a", "version": "1.0.0", "from": "a/recipe.yml", "tags": ["x"]}, {"name": "b", "version": "1", "from": "oci://h/b:1"},
]}).encode())
write("recipe", "card", "c---\nlicense: mit\n---\n# A\n```py\nx\n```\naxolotl version: `0.9.2`\n````yaml\n" + MINIMAL + "````\n")
