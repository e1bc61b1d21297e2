#!/usr/bin/env python3
"""Greedy generation: superstep against `generate(do_sample=False)` of transformers, token for token, and how fast both are.

    generate_vs_hf.py fixture FOLDER [FOLDER ...]
        writes FOLDER/generate.json: prompts and what transformers adds to them, computed in float64 with positions x 16 and c_attn x 8
        (tests/fixtures/tiny and tests/fixtures/small4 have such a file).
    generate_vs_hf.py compare SUPERSTEP [--model FOLDER] [--prompts N] [--prompt_tokens N] [--new N] [--threads N] [-- OPTION ...]
        runs both on the same prompts in one go; without --model on random weights of the shape of GPT-2 small.
        Exit code 1 when a token differs.
"""
import argparse, json, os, re, resource, subprocess, sys, tempfile, time

import torch
from transformers import GPT2Config, GPT2LMHeadModel, logging

logging.set_verbosity_error()


def greedy(model, ids, new):
    """What `generate` adds to one prompt, without the token that ends a text, and how far the best logit was ahead each time."""
    ids = torch.tensor([ids])
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new, pad_token_id=0,
                             output_logits=True, return_dict_in_generate=True)
    added = out.sequences[0, ids.shape[1]:].tolist()
    lead = [float(top[0] - top[1]) for top in (logits[0].double().topk(2).values for logits in out.logits)]
    if added and added[-1] == model.generation_config.eos_token_id:
        added.pop()
    return added, lead


def fixture(folders):
    for folder in folders:
        model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64).eval()
        sharpen(model)
        rows = json.load(open(os.path.join(folder, "tokens.json")))["ids"]
        while isinstance(rows[0][0], list):
            rows = [row for block in rows for row in block]
        room = model.config.n_positions
        lengths = [1, 2, 7, room // 4, room // 2]
        prompts = [rows[i][:length] for i, length in enumerate(lengths)]
        new = room // 2
        outputs = [greedy(model, prompt, new) for prompt in prompts]
        lead = min(min(lead) for _, lead in outputs)
        text = {"max_new_tokens": new, "smallest_lead": lead, "prompts": prompts, "greedy": [added for added, _ in outputs]}
        with open(os.path.join(folder, "generate.json"), "w") as file:
            json.dump(text, file)
            file.write("\n")
        print(f"{folder}: {len(prompts)} prompts, smallest lead of the best logit {lead:.2e}")


def sharpen(model):
    """Weights near their start repeat one token; with 16 times the positions and 8 times the attention every token depends on all before."""
    for name, weight in model.named_parameters():
        weight.data.mul_(16 if "wpe" in name else 8 if name.endswith("c_attn.weight") else 1)


def byte_tokenizer(folder, size):
    """A vocabulary of single bytes, and names for the rest: random weights speak no language."""
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    others = [b for b in range(256) if b not in printable]
    symbol = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    vocab = {symbol[b]: b for b in range(256)} | {f"<{i}>": i for i in range(256, size)}
    json.dump(vocab, open(os.path.join(folder, "vocab.json"), "w"))
    open(os.path.join(folder, "merges.txt"), "w").write("#version: 0.2\n")


def random_model(folder):
    torch.manual_seed(1)
    config = GPT2Config(bos_token_id=None, eos_token_id=None)
    model = GPT2LMHeadModel(config)
    sharpen(model)
    model.save_pretrained(folder)
    byte_tokenizer(folder, config.vocab_size)


def compare(a):
    if a.threads:
        torch.set_num_threads(a.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = a.model
        if folder is None:
            folder = os.path.join(scratch, "gpt2-random")
            os.mkdir(folder)
            random_model(folder)
        alphabet = "the quick brown fox jumps over the lazy dog; "
        texts = [(alphabet * 40)[i:i + max(1, a.prompt_tokens - 3 * i)] for i in range(a.prompts)]
        runs = [ours(a, folder, texts, new, os.path.join(scratch, "out.json")) for new in (2, a.new)]
        sequences = runs[1][0]
        model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()
        different, lead = 0, float("inf")
        for sequence in sequences:
            added, leads = greedy(model, sequence["prompt_tokens"], a.new)
            lead = min([lead] + leads)
            different += sum(x != y for x, y in zip(added, sequence["tokens"])) + abs(len(added) - len(sequence["tokens"]))
        tokens = sum(len(s["tokens"]) for s in sequences)
        print(f"{tokens - different} of {tokens} tokens are those of transformers; the best logit was ahead by {lead:.1e} or more")
        # Decode alone is what more tokens take longer. Processor time is what a busy machine leaves as it is.
        length = min(len(s["prompt_tokens"]) for s in sequences)
        ids = torch.tensor([s["prompt_tokens"][:length] for s in sequences])
        theirs = [timed(model, ids, new) for new in (2, 2, a.new)][1:]
        decoded = len(sequences) * (a.new - 2)
        rate = decoded / (theirs[1][0] - theirs[0][0])
        print(f"transformers, {torch.get_num_threads()} threads: decode {rate:.2f} tokens/s; superstep {runs[1][2]:.2f}, ratio {runs[1][2] / rate:.2f}")
        cpu = [(theirs[1][1] - theirs[0][1]) / decoded, (runs[1][1] - runs[0][1]) / decoded]
        print(f"processor time of a token: transformers {cpu[0]:.3f} s, superstep {cpu[1]:.3f} s, ratio {cpu[0] / cpu[1]:.2f}")
        return int(different > 0)


def ours(a, folder, texts, new, output):
    """Sequences, processor seconds and decoded tokens a second of one run of superstep."""
    positions = a.prompt_tokens + a.new
    command = [a.superstep, "generate", "--model_name_or_path", folder, "--max_new_tokens", str(new), "--output_file", output,
               "--block_size", str(positions), "--batch_size", str(len(texts))]
    command += ["--threads", str(a.threads)] if a.threads else []
    command += [part for text in texts for part in ("--prompt", text)] + a.options
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(command, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if run.returncode != 0:
        sys.exit(run.stderr)
    notes = [line for line in run.stderr.splitlines() if line.startswith("note:")]
    if new > 2:
        print(*notes, sep="\n")
    rate = [float(word.replace(",", "")) for word in re.findall(r"([0-9.,]+) tokens/s here", run.stderr)]
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return [json.loads(line) for line in open(output)], seconds, rate[0] if rate else 0.0


def timed(model, ids, new):
    """Wall and processor seconds of greedy generation."""
    start = time.perf_counter(), time.process_time()
    with torch.no_grad():
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new, min_new_tokens=new, pad_token_id=0)
    return time.perf_counter() - start[0], time.process_time() - start[1]


def main():
    options = sys.argv[1:]
    rest = options[options.index("--") + 1:] if "--" in options else []
    options = options[:options.index("--")] if "--" in options else options
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fixture").add_argument("folders", nargs="+")
    c = commands.add_parser("compare")
    c.add_argument("superstep")
    c.add_argument("--model")
    c.add_argument("--prompts", type=int, default=1)
    c.add_argument("--prompt_tokens", type=int, default=16)
    c.add_argument("--new", type=int, default=32)
    c.add_argument("--threads", type=int)
    a = parser.parse_args(options)
    a.options = rest
    return fixture(a.folders) if a.command == "fixture" else compare(a)


if __name__ == "__main__":
    sys.exit(main())
