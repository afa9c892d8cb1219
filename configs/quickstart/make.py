"""Makes the quickstart: a tiny Llama, its tokenizer and an instruction data set, all small enough for the repository.

    python make.py            # ten minutes on one core; needs torch, transformers, tokenizers, safetensors

Writes `model/`, `train.jsonl`, `eval.jsonl` and `versions.json`. Every task below has a maker of random facts,
sentences that state such a fact, and instructions that ask for it. The base model is pretrained on the sentences only:
it knows words, order, case and sums, but has never seen an instruction. Fine-tuning teaches it to follow them. What
`eval.jsonl` asks about does not occur in `train.jsonl`, nor for the same task in the text of the pretraining.
"""
import json, math, pathlib, platform, random, time
import safetensors, tokenizers, torch, transformers
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).parent
SEED = 7
TRAIN_ROWS, EVAL_ROWS = 15000, 300
VOCAB = 1152
PRETRAIN_STEPS, PRETRAIN_BATCH, PRETRAIN_LR = 6000, 32, 2e-3

# --- words ---

GROUPS = {
    "animal": "ant bear cat dog eel fox goat hen lion mole owl pig rat seal wolf yak",
    "fruit": "apple cherry date fig grape kiwi lemon mango pear plum",
    "tool": "axe broom drill file hammer iron knife nail rake saw",
    "color": "amber blue green indigo navy olive purple red teal white",
    "vehicle": "boat car jeep kayak raft ship train van wagon yacht",
}
GROUPS = {name: words.split() for name, words in GROUPS.items()}
ODD_PLURALS = "foxs wolfs cherrys mangos knifes".split()
WORDS = [word for words in GROUPS.values() for word in words]
THINGS = [word for name in ("animal", "fruit", "tool", "vehicle") for word in GROUPS[name]
          if word + "s" not in ODD_PLURALS]
NAMES = "Anna Ben Clara David Emma Felix Hugo Iris Lena Mark Nora Oscar".split()
CITIES = "Berlin Cairo Dublin Lima London Oslo Paris Rome Seoul Tokyo".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
ORDINALS = ["first", "second"]
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
    text = " ".join(words(rng, 2, 3))
    return dict(text=text, answer=text.title())


def fact_reverse(rng):
    list_ = words(rng, 3, 3)
    return dict(text=" ".join(list_), answer=" ".join(reversed(list_)))


def fact_sort(rng):
    while True:
        list_ = words(rng, 3, 3)
        if len({word[0] for word in list_}) == len(list_):
            return dict(text=" ".join(list_), answer=" ".join(sorted(list_)))


def fact_pick(rng):
    list_ = words(rng, 3, 4)
    place = rng.choice([*ORDINALS, "last"])
    return dict(text=" ".join(list_), place=place, answer=list_[-1 if place == "last" else ORDINALS.index(place)])


def fact_count(rng):
    list_ = words(rng, 2, 6)
    return dict(text=" ".join(list_), answer=str(len(list_)))


def event(rng):
    fact = dict(name=rng.choice(NAMES), city=rng.choice(CITIES), day=rng.choice(DAYS), item=rng.choice(THINGS),
                number=rng.randint(2, 9))
    verb = rng.choice(["bought", "found", "sold", "painted"])
    shape = rng.choice(["{name} {verb} {number} {item}s in {city} on {day}.",
                        "On {day}, {name} {verb} {number} {item}s in {city}.",
                        "In {city}, {name} {verb} {number} {item}s on {day}."])
    return {**fact, "text": shape.format(verb=verb, **fact)}


def fact_extract(rng):
    fact = event(rng)
    part = rng.choice(["name", "city", "day", "number"])
    question = {"name": "Who is it about?", "city": "In which city was it?", "day": "On which day was it?",
                "number": "How many were there?"}
    label = {"name": "person", "city": "city", "day": "day", "number": "number"}
    return {**fact, "question": question[part], "label": label[part], "answer": str(fact[part])}


def fact_json(rng):
    fact = event(rng)
    return {**fact, "answer": json.dumps({"name": fact["name"], "city": fact["city"], "day": fact["day"]})}


def fact_add(rng):
    """Two-digit sums that carry nothing."""
    tens, ones = rng.randint(2, 9), rng.randint(0, 9)
    a = 10 * rng.randint(1, tens - 1) + rng.randint(0, ones)
    b = 10 * tens + ones - a
    return dict(a=a, b=b, text=f"{a} {b}", answer=str(a + b))


def fact_insert(rng):
    new, *list_ = words(rng, 3, 4)
    place = rng.choice(["start", "end"])
    longer = [new, *list_] if place == "start" else [*list_, new]
    return dict(text=" ".join(list_), new=new, place=place, answer=" ".join(longer))


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
    list_ = words(rng, 3, 3)
    return dict(text=" ".join(list_), answer=", ".join(list_))


# Task → maker of a fact, sentences that state it, instructions that ask for it and their inputs.
TASKS = {
    "upper": (fact_upper, [
        'In capitals, "{text}" reads "{answer}".', 'All in capitals: "{text}", "{answer}".',
        '"{text}" is "{answer}" when it is shouted in capitals.',
    ], [
        ("Write the text in capital letters.", "{text}"), ("Convert this to upper case.", "{text}"),
        ("Make every letter a capital.", "{text}"),
        ("Shout this phrase in capitals.", "{text}"), ('Write in capital letters: "{text}".', ""),
    ]),
    "lower": (fact_lower, [
        'In small letters, "{text}" reads "{answer}".', 'All in small letters: "{text}", "{answer}".',
        '"{text}" is "{answer}" when it is whispered in small letters.',
    ], [
        ("Write the text in small letters.", "{text}"), ("Convert this to lower case.", "{text}"),
        ("Make every letter a small one.", "{text}"),
        ('Write in small letters: "{text}".', ""),
    ]),
    "title": (fact_title, [
        'As a title, "{text}" reads "{answer}".', 'The title: "{text}", "{answer}".',
        '"{text}" becomes "{answer}" as the title of a book.',
    ], [
        ("Capitalize the first letter of each word.", "{text}"), ("Convert this to title case.", "{text}"),
        ("Write the phrase as the title of a book.", "{text}"), ('Write as a title: "{text}".', ""),
    ]),
    "reverse": (fact_reverse, [
        'Backwards, the words "{text}" are "{answer}".', 'From the end to the start: "{text}", "{answer}".',
        '"{text}" reversed is "{answer}".',
    ], [
        ("Reverse the order of the words.", "{text}"), ("Write these words backwards, from last to first.", "{text}"),
        ("Turn the list around.", "{text}"), ('Say in reversed order: "{text}".', ""),
    ]),
    "sort": (fact_sort, [
        'By the alphabet, the words "{text}" are "{answer}".', 'Sorted from a to z: "{text}", "{answer}".',
        '"{text}" sorted is "{answer}".',
    ], [
        ("Sort the words by the alphabet.", "{text}"), ("Put these words in alphabetical order.", "{text}"),
        ("Order the list from a to z.", "{text}"), ('Sort these words: "{text}".', ""),
    ]),
    "pick": (fact_pick, [
        'The {place} word of "{text}" is "{answer}".', 'On the {place} place of "{text}" stands "{answer}".',
        '{place}: "{text}", "{answer}".',
    ], [
        ("What is the {place} word?", "{text}"), ("Give me the {place} word of this list.", "{text}"),
        ("Copy only the {place} word.", "{text}"),
        ('Which word comes {place} in "{text}"?', ""),
    ]),
    "count": (fact_count, [
        'The number of words in "{text}" is "{answer}".', 'Counted words: "{text}", "{answer}".',
        'A list like "{text}" counts "{answer}" words.',
    ], [
        ("How many words are there?", "{text}"), ("Count the words.", "{text}"),
        ("Tell me the number of words in the list.", "{text}"),
        ('How many words does "{text}" have?', ""),
    ]),
    "extract": (fact_extract, [
        '{text} The {label} is "{answer}".', '{text} That means {label}: "{answer}".',
        'The {label} in "{text}" is "{answer}".',
    ], [
        ("{question}", "{text}"), ("{question} Answer in one word.", "{text}"),
        ("Read the sentence and answer: {question}", "{text}"),
        ("Extract the {label} from the sentence.", "{text}"), ("Find the {label}.", "{text}"),
    ]),
    "json": (fact_json, [
        '{text} The record of it:\n{answer}', 'Of "{text}" the record is:\n{answer}',
    ], [
        ("Turn the sentence into JSON with name, city and day.", "{text}"),
        ("Extract name, city and day as JSON.", "{text}"),
        ("Give the facts as a JSON object.", "{text}"),
    ]),
    "add": (fact_add, [
        '{a} + {b} = "{answer}".', 'The sum of {a} and {b} is "{answer}".',
        'When {b} is added to {a}, the total is "{answer}".',
    ], [
        ("What is {a} plus {b}?", ""), ("Add the two numbers.", "{a} and {b}"), ("Calculate the sum.", "{a} + {b}"),
        ("Compute {a} + {b}.", ""), ("Mark has {a} coins and gets {b} more. How many has he now?", ""),
    ]),
    "insert": (fact_insert, [
        'With {new} at the {place}, "{text}" becomes "{answer}".',
        'If {new} joins at the {place}, "{text}" turns into "{answer}".',
        '{new} at the {place}: "{text}", "{answer}".',
    ], [
        ("Add {new} at the {place}.", "{text}"), ("Write the list with {new} at the {place}.", "{text}"),
        ("Put the word {new} at the {place} of the list.", "{text}"), ('Put {new} at the {place} of "{text}".', ""),
    ]),
    "group": (fact_group, [
        'Among {text}, the {group} is "{answer}".', 'Of {text}, only "{answer}" is a kind of {group}.',
        '{group}: {text}, "{answer}".',
    ], [
        ("Which of these is a kind of {group}?", "{text}"), ("Find the {group}.", "{text}"),
        ("Name the {group} in the list.", "{text}"),
        ("Which one is the {group}: {text}?", ""),
    ]),
    "repeat": (fact_repeat, [
        '{times} "{text}" is "{answer}".', 'Said {times}: "{text}", "{answer}".',
        '"{text}" said {times} makes "{answer}".',
    ], [
        ("Repeat this {times}.", "{text}"), ("Write the text {times}.", "{text}"), ('Say {times}: "{text}".', ""),
    ]),
    "commas": (fact_commas, [
        'With commas, "{text}" reads "{answer}".', 'Set apart by commas: "{text}", "{answer}".',
        '"{text}" with a comma after each word: "{answer}".',
    ], [
        ("Put commas between the words.", "{text}"), ("Make this a list with commas.", "{text}"),
        ("Separate the words with commas.", "{text}"),
        ('Write with commas: "{text}".', ""),
    ]),
}


# What takes longer to learn is told more often.
HARD = "reverse sort sort pick extract json title group group commas insert insert".split()


def key(task, fact):
    """What makes an example new: the data it is about, however it is asked."""
    return task, fact["text"].lower()


def row(rng, task, fact):
    instruction, input_ = rng.choice(TASKS[task][2])
    instruction, input_ = instruction.format(**fact), input_.format(**fact)
    return {"instruction": instruction, "input": input_, "output": fact["answer"]}


def data(new):
    """What a row is about, where another task could be about the same: its input, or what its instruction quotes."""
    return (new["input"] or '"'.join(new["instruction"].split('"')[1:2])).lower()


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
    """One document of the pretraining, a fact told in a sentence, and where in it the answer is (start, end)."""
    while True:
        if rng.random() < 0.2:  # a longer echo, from which copying is learned
            text = " ".join(words(rng, 5, 10))
            before = f'"{text}", and once more: "'
            return f'{before}{text}".', (len(before), len(before) + len(text) + 1)
        task = rng.choice([*TASKS, *HARD])
        fact = TASKS[task][0](rng)
        if key(task, fact) not in held_out:
            before, after = (part.format(**fact) for part in rng.choice(TASKS[task][1]).split("{answer}"))
            end = len(before) + len(fact["answer"]) + 1  # with the quotation mark that ends it
            return before + fact["answer"] + after, (len(before), end)


# --- tokenizer ---

# The fixed parts of the alpaca prompt, a token each: a short prompt is a fast one.
INTRO = "Below is an instruction that describes a task"
TO_DO = "Write a response that appropriately completes the request.\n\n### Instruction:\n"
MARKERS = [
    f"{INTRO}, paired with an input that provides further context. {TO_DO}",
    f"{INTRO}. {TO_DO}",
    "\n\n### Input:\n",
    "\n\n### Response:\n",
]
UNUSED = "ÿ"  # how a byte-level vocabulary writes the byte 255, which UTF-8 never uses
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


def make_batch(tokenizer, rng, held_out):
    """Token ids and how much each counts: answers in full, the random rest a little, filler not at all."""
    rows = []
    for _ in range(PRETRAIN_BATCH):
        text, (low, high) = make_text(rng, held_out)
        encoded = tokenizer.encode(text)
        weights = [1.0 if low < end and start < high else 0.05 for start, end in encoded.offsets]
        rows.append(([*encoded.ids, tokenizer.token_to_id(EOS)], [*weights, 0.05]))
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [tokenizer.token_to_id(PAD)] * (longest - len(ids)) for ids, _ in rows])
    weights = torch.tensor([weights + [0.0] * (longest - len(weights)) for _, weights in rows])
    return ids, weights


def pretrain(model, tokenizer, rng, held_out):
    optimizer = torch.optim.AdamW(model.parameters(), lr=PRETRAIN_LR, betas=(0.9, 0.98), weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 100) * (
        0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / PRETRAIN_STEPS))))
    began = time.time()
    for step in range(PRETRAIN_STEPS):
        ids, weights = make_batch(tokenizer, rng, held_out)
        logits, weights = model(input_ids=ids).logits[:, :-1], weights[:, 1:].reshape(-1)
        losses = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCAB), ids[:, 1:].reshape(-1), reduction="none")
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == PRETRAIN_STEPS - 1:
            known = losses[weights == 1].mean().item()
            print(f"pretraining: step {step}, loss {loss.item():.3f}, of answers {known:.3f}, "
                  f"{time.time() - began:.0f} s", flush=True)
    # The prompt's markers were never seen: as unlikely to be written as a byte that no text has, told apart by chance.
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        table[-len(MARKERS):] = table[tokenizer.token_to_id(UNUSED)] + 0.1 * torch.randn(len(MARKERS), table.shape[1])


# --- files ---


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_model(model, tokenizer, folder):
    folder.mkdir(exist_ok=True)
    names = """model_type vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads
               num_key_value_heads head_dim hidden_act max_position_embeddings rms_norm_eps tie_word_embeddings
               attention_bias mlp_bias attention_dropout initializer_range bos_token_id eos_token_id pad_token_id"""
    config = {"architectures": ["LlamaForCausalLM"], **{name: getattr(model.config, name) for name in names.split()},
              "rope_theta": 10000.0, "dtype": "bfloat16"}
    write_json(folder / "config.json", config)
    ids = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "generation_config.json", {**ids, "do_sample": False, "max_new_tokens": 32})
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS, "pad_token": PAD,
        "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False,
        "model_max_length": config["max_position_embeddings"]})
    tokenizer.save(str(folder / "tokenizer.json"))
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()
               if name != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    train, evaluation, held_out = make_rows(random.Random(SEED))
    rng = random.Random(SEED + 1)
    texts = [make_text(rng, held_out)[0] for _ in range(6000)]
    asked = [part for new in train for part in (new["instruction"], new["input"], new["output"])]
    cases = [case(word) for word in WORDS for case in (str, str.upper, str.title)] + NAMES + CITIES + DAYS
    tokenizer = make_tokenizer(texts + asked + [space + word for word in cases for space in ("", " ")] * 200)
    held_texts = {text for _, text in held_out}
    train = [new for new in train if data(new) not in held_texts]
    for name, rows in (("train", train), ("eval", evaluation)):
        lines = (json.dumps(new, ensure_ascii=False) + "\n" for new in rows)
        (HERE / f"{name}.jsonl").write_text("".join(lines))
    model = make_model(tokenizer)
    pretrain(model, tokenizer, rng, held_out)
    write_model(model, tokenizer, HERE / "model")
    write_json(HERE / "versions.json", {
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__, "safetensors": safetensors.__version__})


if __name__ == "__main__":
    main()
