"""The two ends of what a model read, as evidence keeps them and `ttbench show --sample` prints them. Torch-free.

Letters: T tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

if TYPE_CHECKING:
    from ttbench.checkpoints.tokenizer import Tokenizer

ENDS_BYTES = 240
ENDS_TOKENS = 16


def readable(data: bytes) -> str:
    """UTF-8 as text, and any other byte by its number: symbols of a puzzle are bytes, and a cut may part a letter."""
    return data.decode(errors="backslashreplace")


def prompt_ends(ids: Int[np.ndarray, "T"], tokenizer: Tokenizer) -> dict[str, Any]:
    """The first and the last bytes of a prompt, and its first and last ids."""
    return {
        "prompt_start": readable(tokenizer.decode(ids[:ENDS_BYTES])[:ENDS_BYTES]),
        "prompt_end": readable(tokenizer.decode(ids[-ENDS_BYTES:])[-ENDS_BYTES:]),
        "first_ids": ids[:ENDS_TOKENS].tolist(),
        "last_ids": ids[-ENDS_TOKENS:].tolist(),
    }
