"""Train states of EasyLM and ttt-lm-jax: a concatenation of msgpack pairs, one per tensor, read one at a time.

    file   = pair pair pair ...
    pair   = [[key, key, ...], bytes]            keys from the root of the train state to the tensor
    bytes  = extension 1 of [shape, dtype, data]   an array in C order, little-endian; 3: the same for a scalar
           | {"__msgpack_chunked_array__": true, "shape": {"0": n, ...}, "chunks": {"0": array, ...}}   over 2^30 bytes

Nothing is unpickled, and neither jax nor flax is needed. Pairs that nobody asks for are skipped inside the parser: at
most one pair is in memory.

Source: test-time-training/ttt-lm-jax ttt/infra/checkpoint.py @ a9b2904; google/flax flax/serialization.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import torch
from torch import Tensor

from ttbench.errors import CheckpointError, WeightsError

READ_BYTES = 4 * 1024**2
_CHUNKED = "__msgpack_chunked_array__"
_ARRAY, _SCALAR = 1, 3
_DTYPES = {
    name: getattr(torch, name)
    for name in ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
}

Key = tuple[str, ...]


def read_stream(
    path: Path, *, wanted: Callable[[Key], bool], report: Callable[[int, int], None]
) -> Iterator[tuple[Key, Tensor]]:
    """The wanted tensors of a file, in its order, each in memory of its own.

    Args:
        path: the file.
        wanted: asked once for every key in the file.
        report: told after every pair the bytes read so far and the file's size.

    Raises:
        WeightsError: the file is truncated, or is no such stream.
        CheckpointError: it cannot be read.
    """
    size = path.stat().st_size
    try:
        file = path.open("rb")
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror}; check its permissions") from error
    with file:
        # 0 stands for the format's own limit: one pair may be as large as the largest array.
        unpacker = msgpack.Unpacker(file, read_size=READ_BYTES, max_buffer_size=0, raw=False)
        reached = 0
        while reached < size:
            try:
                key, value = _next_pair(unpacker, wanted)
            except msgpack.OutOfData as error:
                raise _broken(path, reached, f"it ends in the middle of a tensor, after {size} bytes") from error
            except (msgpack.UnpackException, ValueError) as error:
                raise _broken(path, reached, f"no pair of key and tensor ({error})") from error
            if value is not None:
                yield key, _tensor(value, where=f"'{'/'.join(key)}' in '{path}'")
            reached = unpacker.tell()
            report(reached, size)


def _next_pair(unpacker: Any, wanted: Callable[[Key], bool]) -> tuple[Key, bytes | None]:
    """Key and packed tensor of the next pair; None for a tensor that is not wanted."""
    if unpacker.read_array_header() != 2:
        raise ValueError("a list of another length")
    key = unpacker.unpack()
    if not isinstance(key, list) or not all(isinstance(part, str) for part in key):
        raise ValueError(f"the key {key!r:.60}")
    if not wanted(tuple(key)):
        unpacker.skip()
        return tuple(key), None
    value = unpacker.unpack()
    if not isinstance(value, bytes):
        raise ValueError(f"a {type(value).__name__} where packed bytes belong")
    return tuple(key), value


def _tensor(packed: bytes, *, where: str) -> Tensor:
    try:
        value = msgpack.unpackb(packed, raw=False)
        if isinstance(value, dict) and value.get(_CHUNKED) is True:
            shape = _in_order(value["shape"])
            parts = [_array(part) for part in _in_order(value["chunks"])]
            return torch.cat([part.reshape(-1) for part in parts]).reshape(shape)
        return _array(value)
    except (msgpack.UnpackException, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{where} cannot be read as an array: {error}; download the file again") from error


def _in_order(numbered: dict[str, Any]) -> list[Any]:
    """Flax spells a tuple as {"0": ..., "1": ...}."""
    return [numbered[str(index)] for index in range(len(numbered))]


def _array(value: Any) -> Tensor:
    if not isinstance(value, msgpack.ExtType) or value.code not in (_ARRAY, _SCALAR):
        raise ValueError(f"a {type(value).__name__} is no array")
    shape, dtype, data = msgpack.unpackb(value.data, raw=False)
    if dtype not in _DTYPES:
        raise ValueError(f"dtype {dtype!r}; known are {', '.join(_DTYPES)}")
    need = math.prod(shape) * _DTYPES[dtype].itemsize
    if len(data) != need:
        raise ValueError(f"{len(data)} bytes for shape {shape} of {dtype}, which takes {need}")
    if need == 0:
        return torch.empty(shape, dtype=_DTYPES[dtype])
    return torch.frombuffer(bytearray(data), dtype=_DTYPES[dtype]).reshape(shape)


def _broken(path: Path, offset: int, why: str) -> WeightsError:
    return WeightsError(f"'{path}' is truncated or broken at byte {offset}: {why}; download it again")
