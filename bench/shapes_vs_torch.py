#!/usr/bin/env python3
"""Random GPT-2 shapes trained a few steps by superstep and by PyTorch in float64: losses, gradient norms and final weights side by side.

    shapes_vs_torch.py [--superstep PATH] [--cases N] [--seed S]

A line per case; exit code 1 when a loss is off by more than 1e-5, a gradient norm by 1e-5 relative, or a tensor by 2e-5 relative L2.
The key third of `attn.c_attn.bias` is not judged: its gradient is zero in exact arithmetic.
"""
import argparse, json, os, subprocess, sys, tempfile
import numpy as np
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, logging

logging.set_verbosity_error()
logging.disable_progress_bar()

STEPS = 4


def random_case(r):
    heads = int(r.integers(1, 5))
    layers = int(r.integers(1, 4))
    width = heads * int(r.integers(8, 25))  # norms of very few values have next to no gradient, and Adam makes steps of its noise
    positions = int(r.integers(4, 70))
    ipus = int(r.integers(1, min(layers, 3) + 1))
    split = np.diff([0, *sorted(r.integers(0, layers + 1, ipus - 1)), layers])
    return dict(
        config=dict(n_layer=layers, n_head=heads, n_embd=width, n_positions=positions, vocab_size=int(r.integers(5, 700)),
                    n_inner=int(r.choice([0, 7, 50, 129])) or None, activation_function=str(r.choice(["gelu_new", "gelu", "relu"])),
                    scale_attn_weights=bool(r.integers(2)), scale_attn_by_inverse_layer_idx=bool(r.integers(2)),
                    layer_norm_epsilon=float(r.choice([1e-5, 1e-3])), initializer_range=0.1),
        batch=int(r.integers(1, 4)), seq=int(r.integers(2, positions + 1)), accumulation=int(r.integers(1, 4)),
        clip=float(r.choice([0, 0.5])), layers="[" + " ".join(map(str, split)) + "]", seed=int(r.integers(1 << 30)))


def train_torch(folder, case, tokens):
    model = GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").double().train()
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], lr=1e-3)
    losses, norms = [], []
    for step in tokens:
        optimiser.zero_grad()
        total = 0.0
        for micro in step:
            logits = model(input_ids=micro, use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), micro[:, 1:].flatten())
            (loss / len(step)).backward()
            total += loss.item() / len(step)
        norms.append(float(torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in model.parameters()]))))
        if case["clip"]:
            torch.nn.utils.clip_grad_norm_(model.parameters(), case["clip"])
        optimiser.step()
        losses.append(total)
    return losses, norms, {k: v.detach() for k, v in model.named_parameters()}


def run_case(path, case, folder):
    torch.manual_seed(case["seed"])
    last = case["config"]["vocab_size"] - 1
    config = GPT2Config(**case["config"], resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=last, eos_token_id=last)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    model_dir = os.path.join(folder, "model")
    model.save_pretrained(model_dir)
    shape = (STEPS, case["accumulation"], case["batch"], case["seq"])
    tokens = torch.randint(0, case["config"]["vocab_size"], shape)
    np.save(os.path.join(folder, "tokens.npy"), tokens.numpy())
    out = os.path.join(folder, "out")
    command = [path, "train", "--model_name_or_path", model_dir, "--train_tokens", os.path.join(folder, "tokens.npy"), "--max_steps",
               str(STEPS), "--per_device_train_batch_size", str(case["batch"]), "--gradient_accumulation_steps", str(case["accumulation"]),
               "--learning_rate", "1e-3", "--weight_decay", "0.01", "--lr_scheduler_type", "constant", "--shuffle", "false", "--machine",
               "pod4", "--layers_per_ipu", case["layers"], "--output_dir", out]
    if case["clip"]:
        command += ["--max_grad_norm", str(case["clip"])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return f"FAILED: {done.stderr.strip()}"
    lines = [json.loads(line) for line in open(os.path.join(out, "metrics.jsonl"))]
    losses, norms, weights = train_torch(model_dir, case, tokens)
    ours = load_file(os.path.join(out, "model.safetensors"))
    loss = max(abs(a["loss"] - b) for a, b in zip(lines, losses))
    norm = max(abs(a["grad_norm"] / b - 1) for a, b in zip(lines, norms))
    worst, name = 0.0, ""
    for k, want in weights.items():
        got = ours[k].double()
        if k.endswith("attn.c_attn.bias"):
            third = len(want) // 3
            keep = torch.cat([torch.arange(third), torch.arange(2 * third, 3 * third)])
            got, want = got[keep], want[keep]
        off = float((got - want).norm() / want.norm())
        worst, name = max((worst, name), (off, k))
    verdict = "ok" if loss <= 1e-5 and norm <= 1e-5 and worst <= 2e-5 else "FAILED"
    return f"{verdict}: loss {loss:.1e}, gradient norm {norm:.1e}, weights {worst:.1e} ({name})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--superstep", default="target/release/superstep")
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    r = np.random.default_rng(a.seed)
    failed = 0
    for i in range(a.cases):
        case = random_case(r)
        with tempfile.TemporaryDirectory() as folder:
            line = run_case(a.superstep, case, folder)
        failed += not line.startswith("ok")
        print(f"{i:3} {line}", flush=True)
        if not line.startswith("ok"):
            print(f"    {json.dumps(case)}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
