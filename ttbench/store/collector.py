"""`python -m ttbench.store.collector`: collect some slices of a large run for the process that started this one.

Slices of planned cells come as a pickle on standard input; for each, what `collect_slice` gives, or the StoreError that
it raised, goes as a pickle to standard output. Both ends are this package, in processes of one user. When the reader is
gone, so is the pipe, and this process ends at the next slice.
"""

from __future__ import annotations

import contextlib
import pickle
import signal
import sys
from collections.abc import Sequence
from typing import Any, BinaryIO

from ttbench.errors import StoreError
from ttbench.store.cells import Wanted
from ttbench.store.collected import collect_slice


def answer(wanted: Sequence[Wanted]) -> Any:
    """What a slice holds, or why it cannot be told."""
    try:
        return collect_slice(wanted)
    except StoreError as error:
        return error


def main(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer the slices of one request in turn."""
    # Ctrl-C reaches the whole group; the process that was asked tells the user.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with contextlib.suppress(BrokenPipeError):
        for wanted in pickle.load(requests):
            pickle.dump(answer(wanted), answers, protocol=pickle.HIGHEST_PROTOCOL)
            answers.flush()


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
