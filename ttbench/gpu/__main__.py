"""`python -m ttbench.gpu`: first use on a GPU. It installs nothing, fetches nothing, and runs on torch alone.

Exit codes: 0 the stages were tried, whatever they found; 2 there is no GPU.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from ttbench.gpu import bare
from ttbench.gpu.conductor import conduct
from ttbench.gpu.lines import Lines
from ttbench.gpu.stage import BY_NAME, STAGES, SUBJECTS


def main() -> int:
    asked = _arguments()
    if asked.stage is not None:
        return _one_stage(asked)
    out = asked.out or Path(f"gpu-report-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.jsonl")
    return conduct(device=asked.device, budget_s=asked.budget, report=out, only=tuple(asked.only or ()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ttbench.gpu", description=__doc__)
    parser.add_argument("--budget", type=_seconds, default=480.0, metavar="SECONDS", help="of all stages (480)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="report; lines are appended (gpu-report-<time>.jsonl)")
    names = [stage.name for stage in STAGES]
    parser.add_argument("--only", action="append", choices=names, help="this stage alone; may be repeated")
    parser.add_argument("--device", choices=sorted(SUBJECTS), default="cuda", help="cpu tests the stages themselves")
    parser.add_argument("--stage", choices=names, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=_seconds, default=60.0, help=argparse.SUPPRESS)
    return parser.parse_args()


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds above 0")
    return value


def _one_stage(asked: argparse.Namespace) -> int:
    """A stage in this process, as its parent asks."""
    bare.stand_in()
    if asked.device == "cuda":
        # The interpreter would run kernels thousands of times slower, and prove nothing about a GPU.
        os.environ.pop("TRITON_INTERPRET", None)
    lines = Lines(asked.out, stage=asked.stage, seconds=asked.seconds)
    BY_NAME[asked.stage].run(SUBJECTS[asked.device], lines)
    return 0


if __name__ == "__main__":
    sys.stdout.flush()
    code = main()
    sys.stdout.flush()
    # Everything is on the disk; taking a GPU's context down can hang.
    os._exit(code)
