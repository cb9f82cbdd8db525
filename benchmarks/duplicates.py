"""What it costs to look for duplicates of 100,000 rows in the file and among a million accepted ones.

    python -m benchmarks.duplicates [--rows 100000] [--tokens 250] [--history 10000 100000 1000000]

For each size of the history: seconds of shingles and signatures alone, of the whole check, of the
append of the file's rows, the size of the store, and peak resident memory, each in a fresh process.
The history's rows are drawn at random, every hundredth row of the file is nearly one of them, and
every hundredth another is nearly an earlier row of the file. The peer, on a part of the same rows in
the same run, is datasketch's MinHashLSH in memory with the same permutations, bands and shingles; it
is left out if `datasketch` is not installed. Prints a table and, with --json FILE, writes the figures.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from validators.duplicates import DuplicateFinder, HashableRow
from validators.history import Entries, RowHistory
from validators.report import Rule
from validators.shingles import BAND_ROWS, BANDS, NUM_PERMUTATIONS, SHINGLE_TOKENS, hash_shingles, sign

BATCH = 4_000
DATASET_ROWS = 100_000
VOCABULARY = 32_000
PEER_ROWS = 1_000
EVERY = 100
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=250)
    parser.add_argument("--history", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.store:
        print(json.dumps(measure(arguments.store, arguments.rows, arguments.tokens)))
        return
    figures = {}
    for size in arguments.history:
        with tempfile.TemporaryDirectory() as folder:
            store = Path(folder) / "history.sqlite"
            build(store, size, arguments.tokens)
            command = [sys.executable, "-m", "benchmarks.duplicates", "--store", str(store)]
            command += ["--rows", str(arguments.rows), "--tokens", str(arguments.tokens)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            figures[f"{size:,} accepted rows"] = json.loads(done.stdout)
    show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def build(store: Path, size: int, tokens: int) -> None:
    """A history of that many rows; the first thousands are those that the file repeats nearly."""
    generator = np.random.default_rng(0)
    with RowHistory.open(store, read_only=False) as history:
        for begin in range(0, size, DATASET_ROWS):
            count = min(DATASET_ROWS, size - begin)
            signatures = generator.integers(0, 256, (count, NUM_PERMUTATIONS), np.uint8)
            if not begin:
                known = list(accepted_tokens(min(count, 1_000), tokens))
                signatures[: len(known)] = sign(hash_shingles(known))
            prompts, answers = generator.integers(-(2**62), 2**62, (2, count))
            history.replace(f"past-{begin}", Entries(np.arange(1, count + 1), prompts, answers, signatures))


def measure(store: Path, rows: int, tokens: int) -> Figures:
    """Check and append one file's rows."""
    size = store.stat().st_size
    sketching, checking = 0.0, 0.0
    near = 0
    with RowHistory.open(store, read_only=False) as history:
        accepted = len(history)
        finder = DuplicateFinder(history, "file")
        for batch in batches(rows, tokens):
            begun = time.perf_counter()
            sign(hash_shingles([row.token_ids for row in batch]))
            sketched = time.perf_counter()
            findings = finder.check(batch)
            checking += time.perf_counter() - sketched
            sketching += sketched - begun
            near += sum(finding.rule is Rule.NEAR_DUPLICATE for found in findings for finding in found)
        begun = time.perf_counter()
        history.replace("file", finder.entries(np.arange(1, rows + 1)))
        appending = time.perf_counter() - begun
    figures = {
        "sketch_s": sketching,
        "check_s": checking,
        "append_s": appending,
        "near_duplicates_found_of_planted": near / (2 * (rows // EVERY)),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "store_bytes_per_accepted_row": size / accepted,
    }
    if find_spec("datasketch"):
        figures["datasketch_over_ours_per_row"] = peer_seconds(tokens) * rows / PEER_ROWS / checking
    return figures


def batches(rows: int, tokens: int) -> Iterator[list[HashableRow]]:
    """The file's rows; near duplicates differ in one token of 40 (Jaccard about 0.8 to 0.9)."""
    generator = np.random.default_rng(1)
    accepted = list(accepted_tokens(1_000, tokens))
    for begin in range(0, rows, BATCH):
        count = min(BATCH, rows - begin)
        ids = generator.integers(0, VOCABULARY, (count, tokens), np.int64)
        for place in range(0, count, EVERY):
            ids[place] = altered(accepted[(begin + place) // EVERY % len(accepted)], generator)
            ids[place + EVERY // 2] = altered(ids[place + EVERY // 2 - 1], generator)
        yield [
            HashableRow(begin + place + 1, text[: len(text) // 2], text[len(text) // 2 :], row)
            for place, row in enumerate(ids)
            for text in (" ".join(map(str, row.tolist())),)
        ]


def accepted_tokens(rows: int, tokens: int) -> Iterator[np.ndarray]:
    yield from np.random.default_rng(2).integers(0, VOCABULARY, (rows, tokens), np.int64)


def altered(ids: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """With as many tokens changed as leave the similarity at 0.8 or a little above."""
    changed = ids.copy()
    changes = max(1, int((len(ids) - SHINGLE_TOKENS + 1) / 9 / SHINGLE_TOKENS))
    changed[generator.choice(len(ids), changes, replace=False)] += 1
    return changed


def peer_seconds(tokens: int) -> float:
    """The same work by datasketch: minhash, query and insert of each row."""
    from datasketch import MinHash, MinHashLSH

    rows = next(batches(PEER_ROWS, tokens))
    begun = time.perf_counter()
    index = MinHashLSH(num_perm=NUM_PERMUTATIONS, params=(BANDS, BAND_ROWS))
    for row in rows:
        ids = row.token_ids.tolist()
        sketch = MinHash(num_perm=NUM_PERMUTATIONS)
        spans = range(max(1, len(ids) - SHINGLE_TOKENS + 1))
        sketch.update_batch([str(ids[start : start + SHINGLE_TOKENS]).encode() for start in spans])
        index.query(sketch)
        index.insert(row.line, sketch)
    return time.perf_counter() - begun


def show(figures: dict[str, Figures]) -> None:
    table = Table("figure", *figures)
    for name in next(iter(figures.values())):
        table.add_row(name, *(f"{values[name]:.2f}" for values in figures.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
