#!/usr/bin/env python3
"""A model of ten million parameters, trained from scratch on the text of this repository by PyTorch and by superstep: validation losses side by side.

    train_vs_torch.py [--superstep PATH] [--epochs N | --steps N] [--precision NAME ...] [--parallel] [--json OUT] [--keep FOLDER]

Both start from the same weights (random, saved by transformers with GPT-2's tokenizer) and use the same text, of which the last twentieth is held out. superstep
reads the text files; PyTorch has its own tokens, made as run_clm.py makes them: rows tokenised one by one, grouped by thousands, cut into blocks. Blocks are
used in order; AdamW decays matrices only, the rate rises over a tenth of the steps and falls to 0, gradients are clipped; no dropout, whose masks would differ.
Exit code 1 when a final validation loss is further from PyTorch's than LIMITS allow.
"""
import argparse, concurrent.futures, json, math, os, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FIXTURES = os.path.join(ROOT, "tests", "fixtures")
SHAPE = dict(n_layer=6, n_head=5, n_embd=160, n_positions=128, vocab_size=50257)
BLOCK, BATCH, ACCUMULATION = 128, 2, 2
RATE, DECAY, CLIP, WARMUP = 1e-3, 0.01, 1.0, 0.1
EVALUATIONS = 2
THREADS = 2
# By how much a final validation loss may differ from PyTorch's, in relation to it.
LIMITS = {"f32": 0.01, "f16.32": 0.03, "f16.16": 0.03, "recipe": 0.03}


def make_inputs(folder):
    """The model's folder, and the text in two files."""
    import torch
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel
    torch.manual_seed(1)
    config = GPT2Config(**SHAPE, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    model = GPT2LMHeadModel(config)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    model.save_pretrained(os.path.join(folder, "model"))
    AutoTokenizer.from_pretrained(os.path.join(FIXTURES, "gpt2-tokenizer")).save_pretrained(os.path.join(folder, "model"))
    lines = open(os.path.join(FIXTURES, "text", "austen.txt"), encoding="utf-8").read().splitlines(keepends=True)
    held_out = len(lines) // 20
    for name, part in (("train", lines[:-held_out]), ("validation", lines[-held_out:])):
        with open(os.path.join(folder, name + ".txt"), "w", encoding="utf-8") as out:
            out.writelines(part)


def blocks_of(path, tokenizer):
    """run_clm.py's tokenize_function and group_texts over map batches of 1,000 rows."""
    import torch
    rows = open(path, encoding="utf-8").read().splitlines(keepends=True)
    blocks = []
    for first in range(0, len(rows), 1000):
        ids = sum(tokenizer(rows[first:first + 1000])["input_ids"], [])
        length = len(ids) // BLOCK * BLOCK
        blocks += [ids[i:i + BLOCK] for i in range(0, length, BLOCK)]
    return torch.tensor(blocks)


def train_torch(folder, steps):
    """Validation losses by step, losses by step, seconds."""
    import torch
    from transformers import AutoTokenizer, GPT2LMHeadModel, get_linear_schedule_with_warmup
    torch.set_num_threads(THREADS)
    source = os.path.join(folder, "model")
    tokenizer = AutoTokenizer.from_pretrained(source)
    train, validation = (blocks_of(os.path.join(folder, name + ".txt"), tokenizer) for name in ("train", "validation"))
    model = GPT2LMHeadModel.from_pretrained(source, attn_implementation="eager").float().train()
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=RATE)
    per_step = BATCH * ACCUMULATION
    per_epoch = len(train) // per_step
    schedule = get_linear_schedule_with_warmup(optimiser, math.ceil(steps * WARMUP), steps)
    evaluations, losses, start = {}, [], time.perf_counter()
    for step in range(steps):
        first = step % per_epoch * per_step
        total = 0.0
        for micro in train[first:first + per_step].split(BATCH):
            loss = model(input_ids=micro, labels=micro, use_cache=False).loss / ACCUMULATION
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        losses.append(total)
        if (step + 1) % evaluate_every(steps) == 0 or step + 1 == steps:
            evaluations[step + 1] = validation_loss(model, validation)
    return {"steps": steps, "evaluations": evaluations, "losses": losses, "seconds": time.perf_counter() - start}


def steps_per_epoch(folder):
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(os.path.join(folder, "model"))
    return len(blocks_of(os.path.join(folder, "train.txt"), tokenizer)) // (BATCH * ACCUMULATION)


def evaluate_every(steps):
    return max(steps // EVALUATIONS, 1)


def validation_loss(model, validation):
    import torch
    model.eval()
    with torch.no_grad():
        losses = [model(input_ids=rows, labels=rows).loss.item() * len(rows) for rows in validation.split(BATCH)]
    model.train()
    return sum(losses) / len(validation)


def train_superstep(path, folder, steps, precision):
    out = os.path.join(folder, "out-" + precision)
    options = {
        "model_name_or_path": os.path.join(folder, "model"), "train_file": os.path.join(folder, "train.txt"),
        "validation_file": os.path.join(folder, "validation.txt"), "output_dir": out, "precision": precision, "max_steps": steps,
        "block_size": BLOCK, "per_device_train_batch_size": BATCH, "gradient_accumulation_steps": ACCUMULATION,
        "per_device_eval_batch_size": BATCH, "learning_rate": RATE, "lr_scheduler_type": "linear", "warmup_ratio": WARMUP, "weight_decay": DECAY,
        "max_grad_norm": CLIP, "shuffle": "false", "eval_steps": evaluate_every(steps), "logging_steps": 10, "save_strategy": "no",
        "threads": THREADS, "machine": "pod4",
    }
    command = [path, "train", "--do_train", "--do_eval", "--overwrite_output_dir"]
    for name, value in options.items():
        command += ["--" + name, str(value)]
    start = time.perf_counter()
    run = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if run.returncode != 0:
        sys.exit(f"superstep failed: {run.stderr}")
    seconds = time.perf_counter() - start
    history = json.load(open(os.path.join(out, "trainer_state.json")))["log_history"]
    evaluations = {entry["step"]: entry["eval_loss"] for entry in history if "eval_loss" in entry}
    evaluations[steps] = json.load(open(os.path.join(out, "eval_results.json")))["eval_loss"]
    losses = [json.loads(line)["loss"] for line in open(os.path.join(out, "metrics.jsonl"))]
    return {"steps": steps, "evaluations": evaluations, "losses": losses, "seconds": seconds}


def report(runs):
    """Prints the table; whether every final loss is within its limit."""
    reference = runs["torch"]
    tokens = BLOCK * BATCH * ACCUMULATION
    names = [name for name in runs if name != "torch"]
    print("".join([f"{'steps':>6}{'tokens':>10}{'torch':>10}"] + [f"{name:>10}{'':>9}" for name in names]))
    for step, loss in reference["evaluations"].items():
        cells = [f"{step:6}{step * tokens:10,}{loss:10.4f}"]
        for name in names:
            ours = runs[name]["evaluations"][step]
            cells.append(f"{ours:10.4f}{(ours / loss - 1) * 100:+8.2f}%")
        print("".join(cells))
    good = True
    for name in names:
        pairs = list(zip(reference["losses"], runs[name]["losses"]))
        assert len(pairs) == len(reference["losses"]) == len(runs[name]["losses"])
        worst = max(abs(a - b) for a, b in pairs)
        last = list(reference["evaluations"])[-1]
        off = abs(runs[name]["evaluations"][last] / reference["evaluations"][last] - 1)
        good &= off <= LIMITS[name]
        print(f"{name}: training loss of step 1 differs by {abs(pairs[0][0] - pairs[0][1]):.1e}, of any step by at most {worst:.1e}; "
              f"final validation loss by {off:.2%} (limit {LIMITS[name]:.0%}); {runs[name]['seconds']:.0f} s, torch {reference['seconds']:.0f} s")
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--superstep", default=os.path.join(ROOT, "target", "release", "superstep"))
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--steps", type=int, help="instead of whole epochs")
    parser.add_argument("--parallel", action="store_true", help="run all at the same time: losses are the same, seconds mean nothing")
    parser.add_argument("--precision", nargs="+", choices=LIMITS, default=["f32", "recipe"])
    parser.add_argument("--json")
    parser.add_argument("--keep", help="work in this folder and leave everything there")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = a.keep or temporary
        os.makedirs(folder, exist_ok=True)
        make_inputs(folder)
        steps = a.steps or a.epochs * steps_per_epoch(folder)
        work = {precision: (train_superstep, a.superstep, folder, steps, precision) for precision in a.precision}
        with concurrent.futures.ThreadPoolExecutor(len(work) if a.parallel else 1) as pool:
            if not a.parallel:
                runs = {"torch": train_torch(folder, steps)}
            waiting = {name: pool.submit(*task) for name, task in work.items()}
            if a.parallel:
                runs = {"torch": train_torch(folder, steps)}
            runs.update({name: future.result() for name, future in waiting.items()})
    good = report(runs)
    if a.json:
        json.dump(runs, open(a.json, "w"), indent=1)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
