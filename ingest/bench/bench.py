#!/usr/bin/env python3
"""midi-ingest against MidiTok over the same MIDI files: files per second of CPU time.

    python3 ingest/bench/bench.py MIDI_FOLDER TOKENIZER.json [--venv target/bench-venv]
        [--published MIDI-RWKV/train --torch SITE_PACKAGES]

The program is built by `cargo build -p midi-ingest --example throughput` (add --release and --program for that profile).

MidiTok 3.0.5.post1, symusic 0.5.0 and tokenizers 0.21 are installed into the folder given as --venv if it is not there.
What is compared, all from bytes on the disk and on one core unless a number of workers is named:

    encode   parse, preprocess, tokenize, byte-pair encode  (midi-ingest: examples/throughput.rs; Python: MMM.encode)
    parse    parse alone                                    (symusic.Score)
    sample   one training sample a file, context 2048       (by our rules, and by those of the published code; Python's is
             that code, github.com/christianazinn/MIDI-RWKV, given as --published; it wants torch from --torch)

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
if mode != "parse":
    from miditok import MMM
    tok = MMM(params=Path(tokenizer))
if mode == "sample":
    published, torch_folder = sys.argv[3:]
    sys.path.append(torch_folder)
    sys.path.insert(0, published)
    import torch
    torch.set_num_threads(1)
    from src.dataset import MIDIDataset
    class Files:
        def __getitem__(self, index):
            return {"music": Path(files[index]).read_bytes()}
        def __len__(self):
            return len(files)
    drawn = MIDIDataset(
        Files(), tok, 2048, ratio_random_tracks_range=(0.4, 1), data_augmentation_offsets=(6, 2, 0), bar_fill_ratio=0.75,
        bar_masking_duration_ratio_range=(0.1, 0.4), ac_random_ratio_range=(0.05, 0.9),
        ac_tracks_random_ratio_range=(0.1, 1), ac_bars_random_ratio_range=(0.1, 0.7))
tokens = failed = 0
sys.stdout, out = open(os.devnull, "w"), sys.stdout
before = cpu()
for index, name in enumerate(files):
    try:
        if mode == "sample":
            tokens += len(drawn[index]["input_ids"])
            continue
        score = Score(name)
        if mode == "encode":
            tokens += len(tok.encode(score).ids)
    except Exception:
        failed += 1
spent = cpu() - before
print(json.dumps({"files": len(files), "failed": failed, "tokens": tokens, "cpu": spent}), file=out)
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
    parser.add_argument("--published", type=Path, help="the folder `train` of the published code")
    parser.add_argument("--torch", type=Path, help="the site-packages that hold torch, for the published code")
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
        more = [str(args.published), str(args.torch)] if mode == "sample" else []
        return measured([program, "-c", PYTHON, mode, str(args.tokenizer), *more], names)

    def ours(mode: str, workers: int = 1) -> dict:
        command = [args.program, mode, str(args.tokenizer), str(workers)]

        def run(names: list[str]) -> tuple[dict, float]:
            before = children()
            return measured(command, names), children() - before

        start = min(run([])[1] for _ in range(3))
        result, cpu = run(files)
        return result | {"cpu": cpu - start}

    parse, encode = theirs("parse", files), theirs("encode", some)
    sample = theirs("sample", some) if args.published else None
    own_parse, own_encode = ours("parse"), ours("encode")
    own_samples = [("ours", ours("sample")), ("the published ones", ours("sample-published"))]
    two = ours("encode", 2)
    rate = lambda result: result["files"] / result["cpu"]
    ratio = lambda one, other: f"{rate(one) / rate(other):.1f}x"
    rows = [
        ("symusic, parse", parse, ""),
        ("midi-ingest, parse", own_parse, f"{ratio(own_parse, parse)} symusic"),
        ("MidiTok, parse + tokenize + byte pairs", encode, ""),
        ("midi-ingest, the same", own_encode, f"{ratio(own_encode, encode)} MidiTok"),
    ]
    if sample:
        rows.append(("published code, one training sample a file", sample, ""))
    for rules, own in own_samples:
        against = f"{ratio(own, sample)} the published code" if sample else f"{ratio(own, encode)} MidiTok's plain encoding"
        rows.append((f"midi-ingest, one training sample a file, rules: {rules}", own, against))
    print("| what | files | failed | files per CPU second | against |")
    print("|---|---|---|---|---|")
    for name, result, against in rows:
        print(f"| {name} | {result['files']} | {result['failed']} | {rate(result):.1f} | {against} |")
    speedup = own_encode["wall"] / two["wall"]
    print(f"\ntwo workers: {speedup:.2f}x as fast by the clock as one")


if __name__ == "__main__":
    sys.exit(main())
