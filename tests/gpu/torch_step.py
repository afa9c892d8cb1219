"""Times whole training steps of transformers and peft on the first GPU, for verify. Prints a line of JSON for each number of
rows; the first that does not fit is the last.

usage: torch_step.py m|l full|lora sdpa|flash|compile|autocast SECONDS ROWS[,ROWS...] LENGTH

Weights, activations and moments are in bfloat16, AdamW is fused, gradients are clipped. `compile` is sdpa compiled. `autocast`
is that with weights, gradients and moments in float32 and bfloat16 by autocast, which is what `host` keeps too.
"""
import json, sys, time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES = {
    "m": dict(hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
              intermediate_size=1536, vocab_size=49152, tie_word_embeddings=True),
    "l": dict(hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8,
              intermediate_size=8192, vocab_size=128256, tie_word_embeddings=True),
}


def main():
    shape, mode, how, seconds = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
    all_rows, length = [int(rows) for rows in sys.argv[5].split(",")], int(sys.argv[6])
    torch.manual_seed(1)
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=8192)
    config._attn_implementation = "flash_attention_2" if how == "flash" else "sdpa"
    torch.set_float32_matmul_precision("high")
    with torch.device("cuda"):
        torch.set_default_dtype(torch.float32 if how == "autocast" else torch.bfloat16)
        model = LlamaForCausalLM(config)
    if mode == "lora":
        from peft import LoraConfig, get_peft_model
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.0,
                                                 target_modules=targets))
    model.train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=True)
    run = torch.compile(model) if how in ("compile", "autocast") else model

    def step(ids):
        start = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16, enabled=how == "autocast"):
            loss = run(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        return time.perf_counter() - start

    for rows in all_rows:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        try:
            ids = torch.randint(SHAPES[shape]["vocab_size"], (rows, length), device="cuda")
            for _ in range(3):
                step(ids)
            times, start = [], time.perf_counter()
            while len(times) < 3 or time.perf_counter() - start < seconds:
                times.append(step(ids))
        except torch.cuda.OutOfMemoryError as error:
            print(json.dumps(dict(rows=rows, problem=str(error).splitlines()[0])), flush=True)
            return
        times.sort()
        free, total = torch.cuda.mem_get_info()
        print(json.dumps(dict(rows=rows, tokens_per_second=rows * length / times[len(times) // 2],
                              best=rows * length / times[0], steps=len(times), device_bytes=total - free,
                              peak_allocated=torch.cuda.max_memory_allocated())), flush=True)


main()
