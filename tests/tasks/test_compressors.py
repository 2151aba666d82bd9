"""What bzip2 -9 and xz -9 make of a text, beneath every table of bits per byte."""

from __future__ import annotations

import bz2
import lzma
import subprocess
from typing import Any

import numpy as np
import pytest

from ttbench.tasks.compressors import OncePerDocument, compressed_sizes

# A text whose second half is its first: lower levels of bzip2 look at blocks of 100 kB times the level, too short for
# all of it, and a shorter dictionary of xz does not reach back.
STRETCH = np.random.default_rng(0).integers(97, 123, 430_000, dtype=np.uint8).tobytes()
LONG = STRETCH * 2


def test_sizes_are_those_of_level_nine_where_the_level_matters() -> None:
    sizes: dict[str, Any] = compressed_sizes(LONG)
    by_level = {level: len(bz2.compress(LONG, level)) for level in (1, 4, 8, 9)}
    assert sizes["bzip2_bytes"] == by_level[9] < min(by_level[level] for level in (1, 4, 8))
    assert sizes["xz_bytes"] == len(lzma.compress(LONG, preset=9))
    # a text that comes back is nearly free, and 26 letters cost log2(26) = 4.7 bits
    assert 430_000 * 4.7 / 8 < (sizes["xz_bytes"] or 0) < 430_000 * 4.7 / 8 * 1.07


@pytest.mark.parametrize("size", [0, 1, 4_097, 70_000])
def test_a_short_text_is_as_long_as_with_the_whole_dictionary(size: int) -> None:
    text = LONG[:size]
    assert compressed_sizes(text)["xz_bytes"] == len(lzma.compress(text, preset=9))
    assert compressed_sizes(text)["bzip2_bytes"] == len(bz2.compress(text, 9))


def test_a_text_beyond_the_dictionary_of_xz_9_does_not_get_a_longer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def note(text: bytes, *, format: int, filters: list[dict[str, int]]) -> bytes:
        asked.append(filters[0]["dict_size"])
        return b""

    monkeypatch.setattr(bz2, "compress", lambda text, level: b"")
    monkeypatch.setattr(lzma, "compress", note)
    for size in (2**26 + 1, 2**26, 2**25):
        compressed_sizes(bytes(size))
    # xz(1): -9 has a dictionary of 64 MiB
    assert asked == [67_108_864, 67_108_864, 33_554_432]


@pytest.mark.parametrize(("name", "column"), [("bzip2", "bzip2_bytes"), ("xz", "xz_bytes")])
def test_the_programs_of_that_name_give_the_same_sizes(name: str, column: str) -> None:
    try:
        done = subprocess.run([name, "-9", "--stdout"], input=LONG, capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip(f"no {name} on this machine")
    # xz writes its index with sizes in it, as the library does not for one block: a few bytes
    sizes: dict[str, Any] = compressed_sizes(LONG)
    assert abs(sizes[column] - len(done.stdout)) <= 16


def test_a_document_is_compressed_at_its_first_row_alone() -> None:
    once = OncePerDocument()
    text = b"to be or not to be" * 10
    first = once.sizes("hamlet", text)
    assert (first["bzip2_bytes"], first["xz_bytes"]) == (len(bz2.compress(text, 9)), len(lzma.compress(text, preset=9)))
    assert set(once.sizes("hamlet", text).values()) == {None}
    assert once.sizes("macbeth", text) == first
