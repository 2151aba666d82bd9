from __future__ import annotations

import numpy as np

from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.tasks.ends import prompt_ends, readable


def test_a_short_prompt_is_both_its_ends_and_bos_has_no_text() -> None:
    shown = prompt_ends(np.array([256, *b"ab"]), ByteTokenizer())
    assert shown == {"prompt_start": "ab", "prompt_end": "ab", "first_ids": [256, 97, 98], "last_ids": [256, 97, 98]}


def test_of_a_long_prompt_only_the_ends_are_kept() -> None:
    text = bytes(range(97, 123)) * 20
    shown = prompt_ends(ByteTokenizer().encode(text), ByteTokenizer())
    assert (shown["prompt_start"].encode(), shown["prompt_end"].encode()) == (text[:240], text[-240:])
    assert (shown["first_ids"], shown["last_ids"]) == (list(text[:16]), list(text[-16:]))


def test_bytes_that_are_no_text_are_told_by_their_number() -> None:
    assert readable(b"\xff\xc3\xa4\xc3") == "\\xffä\\xc3"
