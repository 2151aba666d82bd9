"""Streams of msgpack pairs: kinds of arrays, damage, and memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import msgpack
import pytest
import torch
from flax_writer import array_bytes, chunked_bytes, write_pairs

from ttbench.checkpoints.convert.flax_stream import Key, read_stream
from ttbench.errors import WeightsError


def read(path: Path, *, wanted: Any = lambda key: True) -> dict[Key, torch.Tensor]:
    return dict(read_stream(path, wanted=wanted, report=lambda done, total: None))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64", "int32", "bool", "uint8"])
@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (2, 0), (2, 3, 4)], ids=str)
def test_arrays_come_back_bit_for_bit(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    tensor = (100 * torch.randn(shape)).to(getattr(torch, dtype))
    write_pairs(tmp_path / "s", [(("a", "b"), array_bytes(tensor))])
    back = read(tmp_path / "s")[("a", "b")]
    assert back.dtype == tensor.dtype
    assert torch.equal(back, tensor)


def test_an_array_in_chunks_is_put_together(tmp_path: Path) -> None:
    tensor = torch.randn(7, 9)
    write_pairs(tmp_path / "s", [(("a",), chunked_bytes(tensor, chunk=10))])
    assert torch.equal(read(tmp_path / "s")[("a",)], tensor)


def test_what_is_not_wanted_is_skipped_and_never_held(tmp_path: Path) -> None:
    path = tmp_path / "s"
    large, small = array_bytes(torch.zeros(1_000_000)), torch.arange(6.0)
    pairs = [(("opt_state", str(number)), large) for number in range(30)]
    write_pairs(path, [*pairs, (("params", "w"), array_bytes(small)), *pairs])
    assert path.stat().st_size > 240e6
    tracemalloc.start()
    try:
        found = read(path, wanted=lambda key: key[0] == "params")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert list(found) == [("params", "w")]
    assert torch.equal(found[("params", "w")], small)
    # One entry of 4 MB, the parser's buffer twice over while it grows, and what is read ahead.
    assert peak < 24e6


def test_progress_ends_at_the_size_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write_pairs(path, [((str(number),), array_bytes(torch.zeros(5))) for number in range(4)])
    told: list[tuple[int, int]] = []
    list(read_stream(path, wanted=lambda key: key == ("2",), report=lambda done, total: told.append((done, total))))
    size = path.stat().st_size
    assert [total for _, total in told] == [size] * 4
    assert sorted(told) == told
    assert told[-1] == (size, size)


@pytest.mark.parametrize("cut", [1, 5, 40, 90])
@pytest.mark.parametrize("wanted", [True, False], ids=["wanted", "skipped"])
def test_a_truncated_file_is_an_error_wherever_it_ends(tmp_path: Path, cut: int, wanted: bool) -> None:
    path = tmp_path / "s"
    write_pairs(path, [((name,), array_bytes(torch.zeros(16))) for name in "ab"])
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(WeightsError, match=r"truncated or broken at byte \d+: it ends in the middle of a tensor"):
        read(path, wanted=lambda key: wanted)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x93\x01\x02\x03", "a list of another length"),
        (b"\xc1\xc1", "no pair of key and tensor"),
        (msgpack.packb((("a",), "text")), "a str where packed bytes belong"),
        (msgpack.packb((7, b"")), "the key 7"),
        (msgpack.packb((("a",), msgpack.packb([1, 2]))), "a list is no array"),
        (msgpack.packb((("a",), b"\xc1")), "cannot be read as an array"),
        (
            msgpack.packb((("a",), msgpack.packb(msgpack.ExtType(1, msgpack.packb(([4], "float32", b"123")))))),
            "3 bytes for shape .* which takes 16",
        ),
        (
            msgpack.packb((("a",), msgpack.packb(msgpack.ExtType(1, msgpack.packb(([1], "object", b"123")))))),
            "dtype 'object'",
        ),
        (
            msgpack.packb((("a",), msgpack.packb({"__msgpack_chunked_array__": True, "shape": {}, "chunks": {}}))),
            "cannot be read as an array",
        ),
    ],
)
def test_what_is_no_stream_of_arrays_is_an_error(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "s").write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        read(tmp_path / "s")
