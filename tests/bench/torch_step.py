"""Times whole training steps in transformers and peft, for run.py. Prints one line of JSON.

usage: torch_step.py s|m full|lora eager|autocast|compile SECONDS
"""

import json
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

ROWS, LENGTH = 2, 512
SHAPES = {
    "s": dict(hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4,
              intermediate_size=1408, vocab_size=8192, tie_word_embeddings=False),
    "m": dict(hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
              intermediate_size=1536, vocab_size=49152, tie_word_embeddings=True),
}


def peak_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def main():
    shape, mode, how, seconds = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape], max_position_embeddings=2048)).float()
    if mode == "lora":
        from peft import LoraConfig, get_peft_model
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.0,
                                                 target_modules=targets))
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=True)
    ids = torch.randint(SHAPES[shape]["vocab_size"], (ROWS, LENGTH))
    run = torch.compile(model) if how == "compile" else model

    def step():
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=how != "eager"):
            loss = run(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - start

    step()
    if how == "compile":
        step()
    times, start = [], time.perf_counter()
    while len(times) < 3 or time.perf_counter() - start < seconds:
        times.append(step())
    times.sort()
    print(json.dumps({
        "tokens_per_second": ROWS * LENGTH / times[len(times) // 2],
        "best": ROWS * LENGTH / times[0],
        "steps": len(times),
        "peak_bytes": peak_bytes(),
    }))


main()
