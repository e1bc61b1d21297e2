"""Blocks of tokens that `superstep train` makes of a text, against run_clm.py's own steps: datasets' readers, the tokenizers library, group_texts.

    venv/bin/pip install datasets tokenizers
    venv/bin/python bench/group_texts.py [--program target/release/superstep] [--file FILE.txt]

The rows are given as text, as text with Windows' and old Mac's line breaks, as JSON lines and as two shards of Parquet, the blocks have three
and more lengths. Every block must be the same, in the same order. A map batch of fewer tokens than a block is kept as one short block by
group_texts; superstep drops it, as training takes blocks of one length, so it is left out here.
"""

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
from itertools import chain
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "tests/fixtures/gpt2-tokenizer"


def forms(folder, text):
    """Files of the same rows: name, file or folder for superstep, files for datasets, the builder that reads them."""
    lines = text.splitlines(keepends=True)
    cut = len(lines) * 3 // 5 + 7
    for name, line_break in [("text", "\n"), ("crlf", "\r\n"), ("cr", "\r")]:
        path = folder / f"{name}.txt"
        path.write_bytes(text.replace("\n", line_break).encode())
        yield name, path, [path], "text"
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"n": 1, "text": line}) + "\n" for line in lines))
    yield "jsonl", path, [path], "json"
    shards = folder / "parquet"
    shards.mkdir()
    paths = [shards / f"train-{i:05}-of-00002.parquet" for i in range(2)]
    for path, rows in zip(paths, [lines[:cut], lines[cut:]]):
        datasets.Dataset.from_dict({"text": rows}).to_parquet(path, batch_size=777)
    yield "parquet", shards, paths, "parquet"


def wanted(files, builder, block_size, cache):
    """The blocks of run_clm.py: tokenise row by row, then group_texts over map batches of 1,000 rows."""
    more = {"keep_linebreaks": True} if builder == "text" else {}
    data = datasets.load_dataset(builder, data_files=[str(f) for f in files], split="train", cache_dir=cache, **more)
    tokenizer = Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    tokenised = data.map(
        lambda rows: {"input_ids": [e.ids for e in tokenizer.encode_batch(rows["text"])]},
        batched=True,
        remove_columns=data.column_names,
    )

    def group_texts(examples):
        concatenated = list(chain(*examples["input_ids"]))
        length = len(concatenated)
        if length >= block_size:
            length = length // block_size * block_size
        return {"input_ids": [concatenated[i : i + block_size] for i in range(0, length, block_size)]}

    grouped = tokenised.map(group_texts, batched=True)
    return [block for block in grouped["input_ids"] if len(block) == block_size]


def found(program, source, block_size, folder):
    """The blocks that superstep keeps in its cache, from the file of tokens: ids of 16 bits, a line of JSON, its length, a magic."""
    cache = folder / f"tokens-{source.name}-{block_size}"
    small = "n_layer=1,n_head=1,n_embd=16"
    subprocess.run(
        [program, "train", "--config_name", "gpt2", "--config_overrides", small, "--tokenizer_name", TOKENIZER, "--train_file", source,
         "--cache_dir", cache, "--block_size", str(block_size), "--max_steps", "1", "--machine", "ipu", "--threads", "2"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    (path,) = cache.glob("*.tokens")
    content = path.read_bytes()
    assert content.endswith(b"ssTOKENS")
    (length,) = struct.unpack("<I", content[-12:-8])
    about = json.loads(content[-12 - length : -12])
    assert about["id_bytes"] == 2
    ids = struct.unpack(f"<{about['blocks'] * block_size}H", content[: -12 - length])
    return [list(ids[i : i + block_size]) for i in range(0, len(ids), block_size)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=ROOT / "target/release/superstep")
    parser.add_argument("--file", type=Path, default=ROOT / "tests/fixtures/text/austen.txt")
    parser.add_argument("--block_sizes", type=int, nargs="+", default=[1024, 128, 37])
    options = parser.parse_args()
    datasets.disable_progress_bars()
    differences = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        text = options.file.read_text(encoding="utf-8")
        for name, source, files, builder in forms(folder, text):
            for block_size in options.block_sizes:
                theirs = wanted(files, builder, block_size, str(folder / "datasets"))
                ours = found(options.program, source, block_size, folder)
                same = ours == theirs
                differences += not same
                print(f"{name:8} blocks of {block_size:4}: {len(theirs):5} of run_clm.py, {len(ours):5} of superstep, {'equal' if same else 'DIFFERENT'}")
    sys.exit(differences > 0)


if __name__ == "__main__":
    main()
