#!/usr/bin/env python3
"""midi-ingest against MidiTok over the same MIDI files: files per second of CPU time.

    python3 ingest/bench/bench.py MIDI_FOLDER TOKENIZER.json [--venv target/bench-venv]

The program is built by `cargo build -p midi-ingest --example throughput` (add --release and --program for that profile).

MidiTok 3.0.5.post1, symusic 0.5.0 and tokenizers 0.21 are installed into the folder given as --venv if it is not there.
What is compared, all from bytes on the disk and on one core unless a number of workers is named:

    encode   parse, preprocess, tokenize, byte-pair encode  (midi-ingest: examples/throughput.rs; Python: MMM.encode)
    parse    parse alone                                    (symusic.Score)
    sample   one training sample a file                     (midi-ingest only; Python's needs torch and more time)

Times are CPU seconds of user and system together, by getrusage, without start-up and loading of the tokenizer.
"""
import argparse
import json
import resource
import subprocess
import sys
import venv
from pathlib import Path

PACKAGES = ["miditok==3.0.5.post1", "symusic==0.5.0", "tokenizers>=0.21,<0.22"]

PYTHON = r"""
import json, os, resource, sys, warnings
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
warnings.filterwarnings("ignore")
from pathlib import Path
from symusic import Score
mode, tokenizer, files = sys.argv[1], sys.argv[2], sys.stdin.read().split("\n")
def cpu():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
if mode == "encode":
    from miditok import MMM
    tok = MMM(params=Path(tokenizer))
tokens = failed = 0
before = cpu()
for name in files:
    try:
        score = Score(name)
        if mode == "encode":
            tokens += len(tok.encode(score).ids)
    except Exception:
        failed += 1
print(json.dumps({"files": len(files), "failed": failed, "tokens": tokens, "cpu": cpu() - before}))
"""


def python(folder: Path) -> str:
    program = folder / "bin" / "python"
    if not program.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([program, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return str(program)


def children() -> float:
    """CPU seconds of the processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--venv", type=Path, default=Path("target/bench-venv"))
    parser.add_argument("--program", default="target/debug/examples/throughput")
    parser.add_argument("--limit", type=int, default=909)
    parser.add_argument("--python-limit", type=int, default=150, help="files that Python encodes, evenly chosen")
    args = parser.parse_args()
    every = sorted(p for p in args.folder.rglob("*") if p.suffix.lower() in (".mid", ".midi"))
    # A folder's main file is called after it, in POP909; elsewhere every file counts.
    files = [str(p) for p in [p for p in every if p.stem == p.parent.name] or every][: args.limit]
    some = files[:: max(1, len(files) // args.python_limit)]
    program = python(args.venv)

    def measured(command: list[str], names: list[str]) -> dict:
        done = subprocess.run(command, input="\n".join(names), text=True, stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout)

    def theirs(mode: str, names: list[str]) -> dict:
        return measured([program, "-c", PYTHON, mode, str(args.tokenizer)], names)

    def ours(mode: str, workers: int = 1) -> dict:
        command = [args.program, mode, str(args.tokenizer), str(workers)]

        def run(names: list[str]) -> tuple[dict, float]:
            before = children()
            return measured(command, names), children() - before

        start = min(run([])[1] for _ in range(3))
        result, cpu = run(files)
        return result | {"cpu": cpu - start}

    rows = []
    parse, encode = theirs("parse", files), theirs("encode", some)
    own_parse, own_encode, own_sample = ours("parse"), ours("encode"), ours("sample")
    two = ours("encode", 2)
    rate = lambda result: result["files"] / result["cpu"]
    print("| what | files | failed | files per CPU second | against |")
    print("|---|---|---|---|---|")
    rows.append(("symusic, parse", parse, ""))
    rows.append(("midi-ingest, parse", own_parse, f"{rate(own_parse) / rate(parse):.2f}x symusic"))
    rows.append(("MidiTok, parse + tokenize + BPE", encode, ""))
    rows.append(("midi-ingest, parse + tokenize + BPE", own_encode, f"{rate(own_encode) / rate(encode):.0f}x MidiTok"))
    rows.append(("midi-ingest, training samples", own_sample, f"{rate(own_sample) / rate(encode):.0f}x MidiTok's encoding alone"))
    for name, result, against in rows:
        print(f"| {name} | {result['files']} | {result['failed']} | {rate(result):.1f} | {against} |")
    speedup = own_encode["wall"] / two["wall"]
    print(f"\ntwo workers: {speedup:.2f}x as fast by the clock as one")


if __name__ == "__main__":
    sys.exit(main())
