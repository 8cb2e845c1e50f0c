#!/usr/bin/env python3
"""Peak memory of ingest: many composed songs, and one large Parquet file, with two workers each.

    cargo build -p midi-ingest --bin midi-ingest --example synthetic_parquet
    python3 ingest/bench/memory.py SCRATCH_FOLDER [--songs 100000] [--rows 100000] [--noise 32000]

Prints the peak resident memory of each worker. The scratch folder is emptied afterwards; it needs about 10 GB.
"""
import argparse
import os
import shutil
import subprocess
import time
from pathlib import Path

EXPERIMENT = """seed = 1
out = '{out}'
[ingest]
files-per-unit = 512
[ingest.source]
{source}
[ingest.tokenizer]
kind = 'learn'
vocabulary = 4000
songs = 500
[ingest.filter]
min-bars = 0
min-notes = 0
[ingest.sample]
context-tokens = 512
passes = {passes}
"""


def ingest(name: str, program: str, folder: Path, source: str, passes: int) -> None:
    out = folder / name
    config = folder / f"{name}.toml"
    config.write_text(EXPERIMENT.format(out=out, source=source, passes=passes))
    began = time.time()
    workers = []
    for index in range(2):
        command = [program, "run", str(config), "--worker", str(index), "--workers", "2"]
        workers.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    for index, worker in enumerate(workers):
        _, status, usage = os.wait4(worker.pid, 0)
        print(f"{name}, worker {index}: exit {os.waitstatus_to_exitcode(status)}, peak {usage.ru_maxrss / 1024:.0f} MB, "
              f"CPU {usage.ru_utime + usage.ru_stime:.0f} s", flush=True)
    print(f"{name}: {time.time() - began:.0f} s by the clock", flush=True)
    shutil.rmtree(out, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--songs", type=int, default=100_000, help="0 for none")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--noise", type=int, default=32_000)
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--programs", type=Path, default=Path("target/debug"))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    program = str(args.programs / "midi-ingest")
    table = args.folder / "songs.parquet"
    maker = args.programs / "examples" / "synthetic_parquet"
    subprocess.run([maker, table, str(args.rows), str(args.noise)], check=True)
    print(f"one Parquet file of {args.rows} rows, {table.stat().st_size / 1e9:.2f} GB", flush=True)
    source = f"kind = 'parquet'\nuri = '{table}'\nlayout = 'gigamidi-v1.1.0'"
    ingest("parquet", program, args.folder, source, args.passes)
    table.unlink()
    if args.songs:
        print(f"{args.songs} composed songs", flush=True)
        ingest("songs", program, args.folder, f"kind = 'synth'\nsongs = {args.songs}", args.passes)
    shutil.rmtree(args.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
