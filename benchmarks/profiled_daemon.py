"""A daemon that counts where its processor time goes: `python -m benchmarks.profiled_daemon --config FILE`.

Each 5 ms of processor time the innermost Python function that runs is noted by the part of the program that it belongs
to; what C code does counts for who called it. SIGUSR2 writes the counts since the last one, as JSON, to
`profile.json` beside the daemon's configuration. In benchmarks/serving.py it runs in the place of `quernd`, and takes a
tenth more processor time (199 ms per 1,000 tokens for 177, one run of each).
"""

import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

from node.process import main

SAMPLE_SECONDS = 0.005
PROFILE = "profile.json"
ROOT = Path(__file__).resolve().parents[1]


def part_of(filename: str) -> str:
    """Return which part of the program a source file is of: a room of ours, a package, or the standard library."""
    path = Path(filename)
    if path.is_relative_to(ROOT) and "site-packages" not in path.parts:
        return "/".join(path.relative_to(ROOT).parts[:2]).removesuffix(".py")
    if "site-packages" in path.parts:
        return path.parts[path.parts.index("site-packages") + 1].removesuffix(".py")
    return "standard library"


def count_samples(target: Path) -> None:
    """Begin to count, and write to `target` at SIGUSR2."""
    counts: Counter[str] = Counter()

    def note(_: int, frame: FrameType | None) -> None:
        counts[frame.f_code.co_filename if frame is not None else ""] += 1

    def write(_: int, __: FrameType | None) -> None:
        taken = dict(counts)  # at once: the next sample may come at any line
        counts.clear()
        parts: Counter[str] = Counter()
        for filename, count in taken.items():
            parts[part_of(filename)] += count
        unfinished = target.with_suffix(".part")
        unfinished.write_text(json.dumps(parts))
        unfinished.replace(target)

    signal.signal(signal.SIGPROF, note)
    signal.signal(signal.SIGUSR2, write)
    signal.setitimer(signal.ITIMER_PROF, SAMPLE_SECONDS, SAMPLE_SECONDS)


if __name__ == "__main__":
    count_samples(Path(sys.argv[sys.argv.index("--config") + 1]).with_name(PROFILE))
    sys.exit(main())
