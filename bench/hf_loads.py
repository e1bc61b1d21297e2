#!/usr/bin/env python3
"""Loads what `superstep train` saved with transformers and compares the loss with `superstep eval` on the same tokens.

    hf_loads.py OUTPUT_DIR TOKENS.npy (--eval_loss X | --eval_results eval_results.json) [--rel 1e-5]

Prints one line; exit code 1 when the losses differ by more than --rel.
"""
import argparse, json, os, sys
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("tokens")
    parser.add_argument("--eval_loss", type=float)
    parser.add_argument("--eval_results")
    parser.add_argument("--rel", type=float, default=1e-5)
    a = parser.parse_args()
    want = a.eval_loss if a.eval_results is None else json.load(open(a.eval_results))["eval_loss"]
    model = AutoModelForCausalLM.from_pretrained(a.folder, dtype=torch.float32).eval()
    words = "no tokenizer"
    if os.path.exists(os.path.join(a.folder, "tokenizer.json")):
        words = f"tokenizer of {len(AutoTokenizer.from_pretrained(a.folder))} entries"
    tokens = np.load(a.tokens)
    rows = torch.as_tensor(tokens.reshape(-1, tokens.shape[-1])).long()
    with torch.no_grad():
        loss = float(np.mean([model(input_ids=r[None], labels=r[None]).loss.item() for r in rows]))
    off = abs(loss / want - 1)
    print(f"transformers {loss:.7f}, superstep {want:.7f}, relative difference {off:.1e}; {words}")
    return int(off > a.rel)


if __name__ == "__main__":
    sys.exit(main())
