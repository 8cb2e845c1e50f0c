#!/usr/bin/env python3
"""What symusic 0.5.0 does with every MIDI file of a folder, as JSON: accepts, rejects, or crashes.

    MIDI_HOSTILE=/tmp/hostile cargo test -p midi-ingest --test hostile
    python3 -m venv /tmp/symusic && /tmp/symusic/bin/pip install symusic==0.5.0
    /tmp/symusic/bin/python ingest/bench/symusic_verdicts.py /tmp/hostile > ingest/tests/fixtures/hostile/symusic.json

Each file is read in a process of its own, so that a crash is a verdict too, as is a reading that does not end.
"""
import json
import subprocess
import sys
from pathlib import Path

# symusic raises RuntimeError for what it rejects; an exception in building the message counts as well.
READ = """
import sys, symusic
try:
    symusic.Score.from_file(sys.argv[1])
except Exception:
    sys.exit(3)
"""


def verdict(path: Path) -> str:
    try:
        code = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, timeout=120).returncode
    except subprocess.TimeoutExpired:
        return "hangs"
    return {0: "accepts", 3: "rejects"}.get(code, "crashes")


def main() -> None:
    files = sorted(Path(sys.argv[1]).glob("*.mid"))
    print(json.dumps({path.name: verdict(path) for path in files}, indent=1))


if __name__ == "__main__":
    main()
