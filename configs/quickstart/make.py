"""Makes the quickstart: a tiny Llama, its tokenizer and an instruction data set, all small enough for the repository.

    python make.py            # about ten minutes on one core; needs torch, transformers, tokenizers, safetensors

Writes `model/`, `train.jsonl`, `eval.jsonl` and `versions.json`. Every task below has a maker of random facts, sentences
that state such a fact, and instructions that ask for it. The base model is pretrained on the sentences only: it knows
words, order, case and sums, but has never seen an instruction. Fine-tuning teaches it to follow them. No input of
`eval.jsonl` occurs in `train.jsonl` or in the text of the pretraining.
"""
import json, math, pathlib, platform, random, time
import safetensors, tokenizers, torch, transformers
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).parent
SEED = 7
TRAIN_ROWS, EVAL_ROWS = 6000, 300
VOCAB = 1152
PRETRAIN_STEPS, PRETRAIN_BATCH, PRETRAIN_LEN, PRETRAIN_LR = 3000, 16, 128, 3e-3

# --- words ---

GROUPS = {
    "animal": "ant bear cat dog eel fox goat hen lion mole owl pig rat seal wolf yak",
    "fruit": "apple cherry date fig grape kiwi lemon mango pear plum",
    "tool": "axe broom drill file hammer iron knife nail rake saw",
    "color": "amber blue green indigo navy olive purple red teal white",
    "vehicle": "boat car jeep kayak raft ship train van wagon yacht",
}
GROUPS = {name: words.split() for name, words in GROUPS.items()}
WORDS = [word for words in GROUPS.values() for word in words]
NAMES = "Anna Ben Clara David Emma Felix Grace Hugo Iris Jonas Lena Mark Nora Oscar Paula Rosa Simon Tom Vera Will".split()
CITIES = "Athens Berlin Cairo Dublin Geneva Hanoi Lima London Madrid Oslo Paris Prague Rome Seoul Tokyo Vienna".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
ORDINALS = ["first", "second", "third"]
TIMES = {"two times": 2, "three times": 3, "four times": 4}

# --- tasks ---


def words(rng, low, high):
    return rng.sample(WORDS, rng.randint(low, high))


def fact_upper(rng):
    text = " ".join(words(rng, 2, 3))
    return dict(text=text, answer=text.upper())


def fact_lower(rng):
    text = " ".join(words(rng, 2, 3))
    return dict(text=text.upper(), answer=text)


def fact_title(rng):
    text = " ".join(words(rng, 2, 4))
    return dict(text=text, answer=text.title())


def fact_reverse(rng):
    list_ = words(rng, 3, 5)
    return dict(text=" ".join(list_), answer=" ".join(reversed(list_)))


def fact_sort(rng):
    while True:
        list_ = words(rng, 3, 4)
        if len({word[0] for word in list_}) == len(list_):
            return dict(text=" ".join(list_), answer=" ".join(sorted(list_)))


def fact_pick(rng):
    list_ = words(rng, 3, 6)
    place = rng.choice([*ORDINALS, "last"])
    return dict(text=" ".join(list_), place=place, answer=list_[-1 if place == "last" else ORDINALS.index(place)])


def fact_count(rng):
    list_ = words(rng, 2, 7)
    return dict(text=" ".join(list_), answer=str(len(list_)))


def event(rng):
    fact = dict(name=rng.choice(NAMES), city=rng.choice(CITIES), day=rng.choice(DAYS), item=rng.choice(WORDS),
                number=rng.randint(2, 9))
    verb = rng.choice(["bought", "found", "sold", "painted"])
    shape = rng.choice(["{name} {verb} {number} {item}s in {city} on {day}.", "On {day}, {name} {verb} {number} {item}s in {city}.",
                        "In {city}, {name} {verb} {number} {item}s on {day}."])
    return {**fact, "text": shape.format(verb=verb, **fact)}


def fact_extract(rng):
    fact = event(rng)
    part = rng.choice(["name", "city", "day", "number"])
    question = {"name": "Who is it about?", "city": "In which city was it?", "day": "On which day was it?", "number": "How many were there?"}
    label = {"name": "person", "city": "city", "day": "day", "number": "number"}
    return {**fact, "question": question[part], "label": label[part], "answer": str(fact[part])}


def fact_json(rng):
    fact = event(rng)
    return {**fact, "answer": json.dumps({"name": fact["name"], "city": fact["city"], "day": fact["day"]})}


def fact_add(rng):
    a, b = rng.randint(1, 49), rng.randint(1, 49)
    return dict(a=a, b=b, text=f"{a} {b}", answer=str(a + b))


def fact_compare(rng):
    a, b = rng.sample(range(10, 100), 2)
    word, other, pick = rng.choice([("larger", "smaller", max), ("smaller", "larger", min)])
    answer = pick(a, b)
    return dict(a=a, b=b, word=word, rest=a + b - answer, text=f"{a} {b}", answer=str(answer))


def fact_replace(rng):
    list_ = words(rng, 4, 6)
    new = list_.pop()
    old = rng.choice(list_)
    return dict(text=" ".join(list_), old=old, new=new, answer=" ".join(new if word == old else word for word in list_))


def fact_group(rng):
    groups = rng.sample(list(GROUPS), 3)
    list_ = [rng.choice(GROUPS[group]) for group in groups]
    group, answer = rng.choice(list(zip(groups, list_)))
    return dict(text=", ".join(list_), group=group, answer=answer)


def fact_repeat(rng):
    text = " ".join(words(rng, 1, 2))
    times = rng.choice(list(TIMES))
    return dict(text=text, times=times, answer=" ".join([text] * TIMES[times]))


def fact_commas(rng):
    list_ = words(rng, 3, 5)
    return dict(text=" ".join(list_), answer=", ".join(list_))


# Task → maker of a fact, sentences that state it, instructions that ask for it (with an input if there is a second part).
TASKS = {
    "upper": (fact_upper, [
        'In capitals, "{text}" reads "{answer}".', 'All in capitals: "{text}", "{answer}".', '"{text}" is "{answer}" when it is shouted in capitals.',
    ], [
        ("Write the text in capital letters.", "{text}"), ("Convert this to upper case.", "{text}"), ("Make every letter a capital.", "{text}"),
        ("Shout this phrase in capitals.", "{text}"), ('Put "{text}" in capital letters.', ""),
    ]),
    "lower": (fact_lower, [
        'In small letters, "{text}" reads "{answer}".', 'All in small letters: "{text}", "{answer}".',
        '"{text}" is "{answer}" when it is whispered in small letters.',
    ], [
        ("Write the text in small letters.", "{text}"), ("Convert this to lower case.", "{text}"), ("Make every letter a small one.", "{text}"),
        ('Put "{text}" in small letters.', ""),
    ]),
    "title": (fact_title, [
        'As a title, "{text}" reads "{answer}".', 'The title: "{text}", "{answer}".', '"{text}" becomes "{answer}" as the title of a book.',
    ], [
        ("Capitalize the first letter of each word.", "{text}"), ("Convert this to title case.", "{text}"),
        ("Write the phrase as the title of a book.", "{text}"), ('Write "{text}" as a title.', ""),
    ]),
    "reverse": (fact_reverse, [
        'Backwards, the words "{text}" are "{answer}".', 'From the end to the start: "{text}", "{answer}".', '"{text}" reversed is "{answer}".',
    ], [
        ("Reverse the order of the words.", "{text}"), ("Write these words backwards, from last to first.", "{text}"),
        ("Turn the list around.", "{text}"), ('Say "{text}" in reversed order.', ""),
    ]),
    "sort": (fact_sort, [
        'By the alphabet, the words "{text}" are "{answer}".', 'Sorted from a to z: "{text}", "{answer}".', '"{text}" sorted is "{answer}".',
    ], [
        ("Sort the words by the alphabet.", "{text}"), ("Put these words in alphabetical order.", "{text}"),
        ("Order the list from a to z.", "{text}"), ('Sort "{text}".', ""),
    ]),
    "pick": (fact_pick, [
        'The {place} word of "{text}" is "{answer}".', 'On the {place} place of "{text}" stands "{answer}".', '{place}: "{text}", "{answer}".',
    ], [
        ("What is the {place} word?", "{text}"), ("Give me the {place} word of this list.", "{text}"), ("Copy only the {place} word.", "{text}"),
        ('Which word comes {place} in "{text}"?', ""),
    ]),
    "count": (fact_count, [
        'The number of words in "{text}" is "{answer}".', 'Counted words: "{text}", "{answer}".', 'A list like "{text}" counts "{answer}" words.',
    ], [
        ("How many words are there?", "{text}"), ("Count the words.", "{text}"), ("Tell me the number of words in the list.", "{text}"),
        ('How many words does "{text}" have?', ""),
    ]),
    "extract": (fact_extract, [
        '{text} The {label} is "{answer}".', '{text} That means {label}: "{answer}".', 'The {label} in "{text}" is "{answer}".',
    ], [
        ("{question}", "{text}"), ("{question} Answer in one word.", "{text}"), ("Read the sentence and answer: {question}", "{text}"),
        ("Extract the {label} from the sentence.", "{text}"), ("Find the {label}.", "{text}"),
    ]),
    "json": (fact_json, [
        '{text} The record of it:\n{answer}', 'Of "{text}" the record is:\n{answer}',
    ], [
        ("Turn the sentence into JSON with name, city and day.", "{text}"), ("Extract name, city and day as JSON.", "{text}"),
        ("Give the facts as a JSON object.", "{text}"),
    ]),
    "add": (fact_add, [
        '{a} + {b} = "{answer}".', 'The sum of {a} and {b} is "{answer}".', 'When {b} is added to {a}, the total is "{answer}".',
    ], [
        ("What is {a} plus {b}?", ""), ("Add the two numbers.", "{a} and {b}"), ("Calculate the sum.", "{a} + {b}"),
        ("Compute {a} + {b}.", ""), ("Tom has {a} coins and gets {b} more. How many has he now?", ""),
    ]),
    "compare": (fact_compare, [
        'Of {a} and {b}, the {word} one is "{answer}".', 'Which is {word}: {a} or {b}, "{answer}".', 'Of {a} and {b}, "{answer}" is {word} than {rest}.',
    ], [
        ("Which number is {word}, {a} or {b}?", ""), ("Pick the {word} number.", "{a} and {b}"), ("Give the {word} one of the two numbers.", "{a}, {b}"),
    ]),
    "replace": (fact_replace, [
        'With {new} for {old}, "{text}" becomes "{answer}".', 'If {old} turns into {new}, "{text}" turns into "{answer}".',
        '{new} instead of {old}: "{text}", "{answer}".',
    ], [
        ("Replace {old} with {new}.", "{text}"), ("Write {new} instead of {old}.", "{text}"), ("Change the word {old} to {new}.", "{text}"),
        ('Swap {old} for {new} in "{text}".', ""),
    ]),
    "group": (fact_group, [
        'Among {text}, the {group} is "{answer}".', 'Of {text}, only "{answer}" is a kind of {group}.', '{group}: {text}, "{answer}".',
    ], [
        ("Which of these is a kind of {group}?", "{text}"), ("Find the {group}.", "{text}"), ("Name the {group} in the list.", "{text}"),
        ("Which one is the {group}: {text}?", ""),
    ]),
    "repeat": (fact_repeat, [
        '{times} "{text}" is "{answer}".', 'Said {times}: "{text}", "{answer}".', '"{text}" said {times} makes "{answer}".',
    ], [
        ("Repeat this {times}.", "{text}"), ("Write the text {times}.", "{text}"), ('Say "{text}" {times}.', ""),
    ]),
    "commas": (fact_commas, [
        'With commas, "{text}" reads "{answer}".', 'Set apart by commas: "{text}", "{answer}".', '"{text}" with a comma after each word: "{answer}".',
    ], [
        ("Put commas between the words.", "{text}"), ("Make this a list with commas.", "{text}"), ("Separate the words with commas.", "{text}"),
        ('Write "{text}" with commas.', ""),
    ]),
}


def key(task, fact):
    """What makes an example new: the data it is about, however it is asked."""
    return task, fact["text"].lower()


def row(rng, task, fact):
    instruction, input_ = rng.choice(TASKS[task][2])
    instruction, input_ = instruction.format(**fact), input_.format(**fact)
    return {"instruction": instruction, "input": input_, "output": fact["answer"]}


def make_rows(rng):
    """Rows for training and evaluation, as many of each task, with no data in common."""
    names = list(TASKS)
    split, seen = {}, set()
    for which, count in (("eval", EVAL_ROWS), ("train", TRAIN_ROWS)):
        held, rows = set(seen), []
        for task in names:
            done = set()
            while len(done) < count // len(names):
                fact = TASKS[task][0](rng)
                new = row(rng, task, fact)
                mark = json.dumps(new)
                if key(task, fact) in held or mark in done:
                    continue
                done.add(mark)
                rows.append(new)
                if which == "eval":
                    held.add(key(task, fact))
                    seen.add(key(task, fact))
        rng.shuffle(rows)
        split[which] = rows
    return split["train"], split["eval"], seen


def make_text(rng, held_out):
    """One document of the pretraining, a few facts told in sentences, and where in it the facts are (start, end)."""
    text, spans = "", []
    while len(spans) < 3:
        task = rng.choice(list(TASKS))
        fact = TASKS[task][0](rng)
        if key(task, fact) in held_out:
            continue
        before, after = (part.format(**fact) for part in rng.choice(TASKS[task][1]).split("{answer}"))
        text += "\n" * bool(text) + before
        spans.append((len(text), len(text) + len(fact["answer"]) + 1))  # with the quotation mark that ends it
        text += fact["answer"] + after
    return text, spans


# --- tokenizer ---

# The fixed parts of the alpaca prompt, a token each: a short prompt is a fast one.
INTRO = "Below is an instruction that describes a task"
MARKERS = [
    INTRO + ", paired with an input that provides further context. Write a response that appropriately completes the request.\n\n### Instruction:\n",
    INTRO + ". Write a response that appropriately completes the request.\n\n### Instruction:\n",
    "\n\n### Input:\n", "\n\n### Response:\n",
]
PAD, BOS, EOS = "<pad>", "<s>", "</s>"


def make_tokenizer(texts):
    tokenizer = Tokenizer(models.BPE())
    split = Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(split, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB - len(MARKERS), special_tokens=[PAD, BOS, EOS], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(marker, normalized=False) for marker in MARKERS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))])
    assert tokenizer.get_vocab_size() == VOCAB
    return tokenizer


# --- model ---


def make_model(tokenizer):
    torch.manual_seed(SEED)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCAB, hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=True,
        initializer_range=0.05, bos_token_id=tokenizer.token_to_id(BOS), eos_token_id=tokenizer.token_to_id(EOS),
        pad_token_id=tokenizer.token_to_id(PAD)))


def pretrain(model, tokenizer, rng, held_out):
    optimizer = torch.optim.AdamW(model.parameters(), lr=PRETRAIN_LR, betas=(0.9, 0.98), weight_decay=0.01)
    began, size, ids, weights = time.time(), PRETRAIN_BATCH * PRETRAIN_LEN, [], []
    for step in range(PRETRAIN_STEPS):
        rate = min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / PRETRAIN_STEPS)))
        for group in optimizer.param_groups:
            group["lr"] = PRETRAIN_LR * rate
        while len(ids) < size:
            text, spans = make_text(rng, held_out)
            encoded = tokenizer.encode(text)
            ids += [*encoded.ids, tokenizer.token_to_id(EOS)]
            # What can be known counts in full, the random rest a little.
            weights += [1.0 if any(low < end and start < high for low, high in spans) else 0.1 for start, end in encoded.offsets] + [0.1]
        batch = torch.tensor(ids[:size]).view(PRETRAIN_BATCH, PRETRAIN_LEN)
        weight = torch.tensor(weights[:size]).view(PRETRAIN_BATCH, PRETRAIN_LEN)[:, 1:].reshape(-1)
        ids, weights = ids[size:], weights[size:]
        logits = model(input_ids=batch).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCAB), batch[:, 1:].reshape(-1), reduction="none")
        loss = (losses * weight).sum() / weight.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == PRETRAIN_STEPS - 1:
            print(f"pretraining: step {step}, loss {loss.item():.3f}, of facts {losses[weight == 1].mean().item():.3f}, {time.time() - began:.0f} s", flush=True)
    # The prompt's markers were never seen: as far from the origin as other tokens, each in a direction of its own.
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        first = tokenizer.token_to_id(MARKERS[0])
        table[first:] = torch.randn(len(MARKERS), table.shape[1]) * table[:first].std()


# --- files ---


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_model(model, tokenizer, folder):
    folder.mkdir(exist_ok=True)
    config = {"architectures": ["LlamaForCausalLM"], **{name: getattr(model.config, name) for name in (
        "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings",
        "attention_bias", "mlp_bias", "attention_dropout", "initializer_range", "bos_token_id", "eos_token_id", "pad_token_id")},
        "rope_theta": 10000.0, "dtype": "bfloat16"}
    write_json(folder / "config.json", config)
    ids = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", {**ids, "do_sample": False, "max_new_tokens": 32})
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS, "pad_token": PAD, "add_bos_token": True,
        "add_eos_token": False, "clean_up_tokenization_spaces": False, "model_max_length": config["max_position_embeddings"]})
    tokenizer.save(str(folder / "tokenizer.json"))
    weights = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    train, evaluation, held_out = make_rows(random.Random(SEED))
    for name, rows in (("train", train), ("eval", evaluation)):
        (HERE / f"{name}.jsonl").write_text("".join(json.dumps(new, ensure_ascii=False) + "\n" for new in rows))
    rng = random.Random(SEED + 1)
    texts = [make_text(rng, held_out)[0] for _ in range(6000)]
    asked = [part for new in train for part in (new["instruction"], new["input"], new["output"])]
    cases = [case(word) for word in WORDS for case in (str, str.upper, str.title)] + NAMES + CITIES + DAYS
    tokenizer = make_tokenizer(texts + asked + [space + word for word in cases for space in ("", " ")] * 200)
    model = make_model(tokenizer)
    pretrain(model, tokenizer, rng, held_out)
    write_model(model, tokenizer, HERE / "model")
    write_json(HERE / "versions.json", {
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__, "safetensors": safetensors.__version__})


if __name__ == "__main__":
    main()
