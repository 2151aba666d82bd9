"""The last stage: some steps of a small model under compute-sanitizer, which sees accesses outside of memory."""

from __future__ import annotations

import shutil
import subprocess
import sys

from ttbench.gpu.lines import Lines
from ttbench.gpu.stage import Subject

PROGRAM = "compute-sanitizer"
# Four steps after a short prompt, of every engine: the program makes everything some hundred times slower.
_RUN = """
from ttbench.gpu import bare
bare.stand_in()
from ttbench.engines.kinds import load_engine
from ttbench.gpu.proof import engines_for
from ttbench.gpu.stage import SUBJECTS
import numpy as np
subject = SUBJECTS["{device}"]
for name in engines_for(subject):
    engine = load_engine(subject.smoke, device=subject.device, dtype=subject.dtype, attention=None, engine=name)
    engine.reset(1, 24)
    engine.prefill(np.arange(17)[None])
    for place in range(4):
        engine.decode(np.array([place]))
    engine.synchronize()
    print("stepped", name)
"""


def sanitizer(subject: Subject, lines: Lines) -> None:
    """What the program says at its end."""
    program = shutil.which(PROGRAM)
    if program is None:
        lines.write("absent", PROGRAM, why="no such program; it comes with the CUDA toolkit")
        return
    command = [program, "--tool", "memcheck", "--error-exitcode", "3", sys.executable, "-c"]
    try:
        done = subprocess.run(
            [*command, _RUN.format(device=subject.device)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=max(lines.left, 1.0),
        )
    except subprocess.TimeoutExpired:
        lines.write("absent", PROGRAM, why="it did not end in the time that was left")
        return
    told = [text for text in done.stdout.splitlines() if text.strip()][-8:]
    lines.write("verdict", PROGRAM, ok=done.returncode == 0, exit_code=done.returncode, said=told)
