"""`python -m ttbench.store.collector FD`: collect some slices of a large run for the process that started this one.

Slices of planned cells come as a pickle on standard input; for each, what `collect_slice` gives, or the error that it
raised, goes as a pickle to the pipe FD. Both ends are this package, in processes of one user. When the reader is gone,
so is the pipe, and this process ends at the next slice.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
from collections.abc import Sequence
from typing import Any, BinaryIO

from ttbench.store.cells import Wanted
from ttbench.store.collected import collect_slice


def answer(wanted: Sequence[Wanted]) -> Any:
    """What a slice holds, or why it cannot be told."""
    try:
        return collect_slice(wanted)
    # Told where it is asked, as if it had been raised there.
    except Exception as error:
        return error


def main(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer the slices of one request in turn."""
    try:
        asked = pickle.load(requests)
    except (EOFError, pickle.UnpicklingError):
        # Whoever asks died while doing so.
        return
    with contextlib.suppress(BrokenPipeError):
        for wanted in asked:
            pickle.dump(answer(wanted), answers, protocol=pickle.HIGHEST_PROTOCOL)
            answers.flush()


if __name__ == "__main__":
    # Buffered, so that a write that is cut short goes on.
    with contextlib.suppress(BrokenPipeError), open(int(sys.argv[1]), "wb") as pipe:
        main(sys.stdin.buffer, pipe)
