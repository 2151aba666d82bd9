"""Models without weights for the needle task: one that knows, some that are blind, and two that cheat."""

from __future__ import annotations

import math
import re

import numpy as np
from stub_engine import StubEngine, scattered

from ttbench.tasks.needle.riddle import draw_riddle
from ttbench.tasks.needle.ruler import VARIANTS

STATED = re.compile(rb"One of the special magic (?:number|uuid)s for (\S+) is: (\S+)\.")
ASKED = re.compile(
    rb"\n(?:.*The special magic (?:number|uuid)s? for (.+) mentioned in the provided text (?:is|are)"
    rb"|One of the special magic (?:number|uuid)s for (\S+) is:)(.*)$"
)


def saying(answer: bytes, said: bytes) -> np.ndarray:
    """Nearly sure of the next byte of an answer, as long as what was said agrees with it."""
    log_probs = np.full(257, -math.log(257))
    if len(said) < len(answer) and answer.startswith(said):
        log_probs[:] = math.log(0.01 / 256)
        log_probs[answer[len(said)]] = math.log(0.99)
    return log_probs


def asked_keys(asked: re.Match[bytes]) -> list[bytes]:
    return re.findall(rb"[^\s,]+(?<!^and)", re.sub(rb", and ", b", ", asked[1] or asked[2]))


def oracle(history: tuple[int, ...]) -> np.ndarray:
    """Knows the values once they were stated, and says them as soon as they are asked for."""
    text = bytes(token for token in history if token < 256)
    asked = ASKED.search(text)
    if not asked:
        return saying(b"", b"-")
    stated = STATED.findall(text)
    values = [value for key in asked_keys(asked) for other, value in stated if other == key]
    return saying(b" " + b", ".join(values) if values else b"", asked[3])


def told(history: tuple[int, ...]) -> np.ndarray:
    """Has read the answers elsewhere: knows the values of the first twenty trials, and no text."""
    asked = ASKED.search(bytes(token for token in history if token < 256))
    riddles = [draw_riddle(VARIANTS["niah_single_2"], seed=0, trial=trial) for trial in range(20)]
    known = {riddle.keys[0].encode(): riddle.values[0][0].encode() for riddle in riddles}
    return saying(b" " + known[asked[1] or asked[2]], asked[3]) if asked else saying(b"", b"-")


class Elephant(StubEngine):
    """Forgets nothing: what `restore` and `reset` take back stays readable."""

    def __init__(self) -> None:
        self.memory: list[int] = []
        super().__init__(lambda history: oracle((*self.memory, *history)))

    def _read(self, ids):
        rows = super()._read(ids)
        self.memory += [int(index) for index in np.asarray(rows)[0]]
        return rows


def noisy(history: tuple[int, ...]) -> np.ndarray:
    """Blind, yet different at every length of prompt: what rounding and position do, made large."""
    return scattered(257)((len(history), *history[-9:]))


def nearsighted(history: tuple[int, ...]) -> np.ndarray:
    """Blind: the last 40 tokens decide."""
    return scattered(257)(history[-40:])
