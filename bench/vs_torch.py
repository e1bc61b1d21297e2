#!/usr/bin/env python3
"""A training step of GPT-2 in PyTorch eager float32 and in superstep, on the same machine in the same run.

    vs_torch.py [--superstep PATH] [--case small|wide_vocabulary|narrow_vocabulary] [--steps N] [--rounds R] [--precision NAME]
                [--json OUT] [--torch-only]

Both train the same model (random, saved by transformers) on the same tokens with AdamW, constant learning rate, no dropout, two threads.
Rounds alternate; the first step of every process is warm-up and not counted. Losses must agree within 1e-3 at every step (exit code 1 if not).
--precision takes one more run of superstep into each round, in that precision, and gives its speed over that of f32.
"""
import argparse, json, os, resource, statistics, subprocess, sys, tempfile, time
import numpy as np

CASES = {
    "small": dict(n_layer=12, n_head=12, n_embd=768, n_positions=1024, vocab_size=50257, batch=1, seq=1024),
    "wide_vocabulary": dict(n_layer=4, n_head=4, n_embd=256, n_positions=256, vocab_size=50257, batch=8, seq=256),
    "narrow_vocabulary": dict(n_layer=4, n_head=4, n_embd=256, n_positions=256, vocab_size=512, batch=8, seq=256),
}
THREADS = 2
RATE, DECAY = 1e-4, 0.01


def make_inputs(case, folder, steps):
    """Model folder and tokens file that both sides read."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel
    torch.manual_seed(1)
    shape = {k: v for k, v in case.items() if k not in ("batch", "seq")}
    last = shape["vocab_size"] - 1
    config = GPT2Config(**shape, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=last, eos_token_id=last)
    GPT2LMHeadModel(config).save_pretrained(os.path.join(folder, "model"))
    tokens = np.random.default_rng(1).integers(0, shape["vocab_size"], (steps, case["batch"], case["seq"]))
    np.save(os.path.join(folder, "tokens.npy"), tokens.astype(np.int32))


def torch_process(folder, steps, case):
    """Runs in a process of its own: losses, seconds a step, peak memory, as JSON on stdout."""
    import torch
    from transformers import GPT2LMHeadModel
    torch.set_num_threads(THREADS)
    model = GPT2LMHeadModel.from_pretrained(os.path.join(folder, "model"), attn_implementation="eager").float().train()
    tokens = torch.as_tensor(np.load(os.path.join(folder, "tokens.npy"))).long()
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW([{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}], lr=RATE)
    losses, seconds = [], []
    for step in range(steps):
        start = time.perf_counter()
        loss = model(input_ids=tokens[step], labels=tokens[step], use_cache=False).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    peak = {}
    for n in (1, THREADS):
        torch.set_num_threads(n)
        a = torch.rand(2048, 2048)
        peak[n] = 0.0
        for _ in range(5):
            start = time.perf_counter()
            torch.mm(a, a)
            peak[n] = max(peak[n], 2 * 2048**3 / (time.perf_counter() - start) / 1e9)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"losses": losses, "seconds": seconds, "rss_kib": rss, "gemm_gflops": peak}))


def run_torch(folder, steps, name):
    out = subprocess.run([sys.executable, __file__, "--torch-process", folder, "--steps", str(steps), "--case", name],
                         check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])


def run_superstep(path, folder, steps, case, machine, precision):
    out = os.path.join(folder, "out")
    command = [path, "train", "--model_name_or_path", os.path.join(folder, "model"), "--train_tokens",
               os.path.join(folder, "tokens.npy"), "--max_steps", str(steps), "--per_device_train_batch_size", str(case["batch"]),
               "--gradient_accumulation_steps", "1", "--block_size", str(case["seq"]), "--learning_rate", str(RATE), "--weight_decay",
               str(DECAY), "--lr_scheduler_type", "constant", "--shuffle", "false", "--machine", machine, "--output_dir", out, "--overwrite_output_dir",
               "--threads", str(THREADS), "--precision", precision]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"superstep failed: {error}")
    lines = [json.loads(line) for line in open(os.path.join(out, "metrics.jsonl"))]
    return {"losses": [x["loss"] for x in lines], "seconds": [x["step_seconds"] for x in lines], "rss_kib": usage.ru_maxrss}


def summary(runs):
    seconds = [s for r in runs for s in r["seconds"][1:]]
    return {"min": min(seconds), "median": statistics.median(seconds), "max": max(seconds),
            "rss_gib": max(r["rss_kib"] for r in runs) / 2**20}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--superstep", default="target/release/superstep")
    parser.add_argument("--case", choices=CASES, default="small")
    parser.add_argument("--machine", default="pod16")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--precision", choices=["f32", "f16.32", "f16.16", "recipe"], default="f32")
    parser.add_argument("--json")
    parser.add_argument("--torch-only", action="store_true")
    parser.add_argument("--torch-process", help=argparse.SUPPRESS)
    a = parser.parse_args()
    case = CASES[a.case]
    if a.torch_process:
        return torch_process(a.torch_process, a.steps, case)
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(case, folder, a.steps)
        torch_runs, our_runs, other_runs = [], [], []
        for _ in range(a.rounds):
            torch_runs.append(run_torch(folder, a.steps, a.case))
            if not a.torch_only:
                our_runs.append(run_superstep(a.superstep, folder, a.steps, case, a.machine, "f32"))
                if a.precision != "f32":
                    other_runs.append(run_superstep(a.superstep, folder, a.steps, case, a.machine, a.precision))
    result = {"case": a.case, "torch": summary(torch_runs), "gemm_gflops": torch_runs[0]["gemm_gflops"]}
    print(f"{'':12}{'s a step: min':>14}{'median':>9}{'max':>9}{'peak GiB':>10}")
    rows = [("torch", result["torch"])]
    if our_runs:
        result["superstep"] = summary(our_runs)
        result["ratio"] = result["torch"]["median"] / result["superstep"]["median"]
        result["loss_difference"] = max(abs(x - y) for t, s in zip(torch_runs, our_runs) for x, y in zip(t["losses"], s["losses"]))
        rows.append(("superstep", result["superstep"]))
    if other_runs:
        result[a.precision] = summary(other_runs)
        rows.append((a.precision, result[a.precision]))
    for name, r in rows:
        print(f"{name:12}{r['min']:14.2f}{r['median']:9.2f}{r['max']:9.2f}{r['rss_gib']:10.2f}")
    peak = ", ".join(f"{g:.0f} GFLOP/s with {n}" for n, g in result["gemm_gflops"].items())
    print(f"torch.mm 2048³: {peak} threads")
    if our_runs:
        print(f"speed of superstep over torch: {result['ratio']:.2f}x; largest difference of a loss {result['loss_difference']:.1e}")
    if other_runs:
        print(f"speed of {a.precision} over f32: {result['superstep']['median'] / result[a.precision]['median']:.2f}x")
    if a.json:
        json.dump(result, open(a.json, "w"), indent=1)
    return int(bool(our_runs) and result["loss_difference"] > 1e-3)


if __name__ == "__main__":
    sys.exit(main())
