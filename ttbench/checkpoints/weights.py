"""Weight files without their weights: which files a folder holds, and what their safetensors headers state.

    file = 8 bytes little-endian header length, header (JSON), data
    header = {"<key>": {"dtype": "BF16", "shape": [257, 128], "data_offsets": [begin, end]}, "__metadata__": {...}}

Everything is checked against the file's real size before a single weight is read. Only safetensors is read: other
formats can run code when opened. Torch-free. Source: the format's own description at
https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttbench.checkpoints.files import MAX_INDEX_BYTES, member, read_json, refuse_pointer
from ttbench.errors import CheckpointError, WeightsError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"  # of peft
_SHARD = re.compile(r"model-\d{5}-of-(?P<count>\d{5})\.safetensors")
MAX_HEADER_BYTES = 100_000_000  # the format's own limit

# dtype -> bits of one element
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """What a header says of one tensor."""

    dtype: str  # in safetensors' spelling
    shape: tuple[int, ...]
    path: Path  # file that holds it


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredWeights:
    """The weight files of a folder and all their tensors by checkpoint key."""

    paths: tuple[Path, ...]
    tensors: Mapping[str, StoredTensor]

    @property
    def nbytes(self) -> int:
        """Bytes of the files."""
        return sum(path.stat().st_size for path in self.paths)


def read_weights(folder: Path) -> StoredWeights:
    """Headers of all weight files of `folder`.

    Raises:
        CheckpointError: no safetensors files, both layouts at once, an adapter beside them, or a file that leads
            outside the folder.
        WeightsError: a broken index or header, or files and index that disagree.
    """
    single, index = member(folder, SINGLE), member(folder, INDEX)
    if (single or index) and member(folder, ADAPTER_CONFIG):
        # peft and transformers would read the one or the other
        raise CheckpointError(
            f"'{folder}' holds a model and an adapter ({ADAPTER_CONFIG}): which is meant? Give a folder without the "
            "adapter's files, or merge it into the model first (peft: merge_and_unload(), then save_pretrained(DIR))"
        )
    if single and index:
        others = sorted({str(name) for name in _weight_map(index).values()} - {SINGLE})
        if not others:
            return _read_shards(folder, index)
        if any(member(folder, name) for name in others):
            raise CheckpointError(
                f"'{folder}' holds both {SINGLE} and the shards of {INDEX}, which may disagree; give a copy of the "
                "folder with one of them"
            )
        # what an index without its shards says is about files that are not here
    if single:
        return StoredWeights(paths=(single,), tensors=read_header(single))
    if index:
        return _read_shards(folder, index)
    raise CheckpointError(f"'{folder}' has no {SINGLE}{_instead(folder)}")


def _instead(folder: Path) -> str:
    """What a folder without weights under the names that are read holds instead, and what to do about it."""
    names = sorted(path.name for path in folder.iterdir())
    if ADAPTER_CONFIG in names:
        base = read_json(folder / ADAPTER_CONFIG, max_bytes=MAX_INDEX_BYTES).get("base_model_name_or_path")
        return (
            f"; it holds an adapter of {base!r}, not a model. Merge it into its base first (peft: merge_and_unload(), "
            "then save_pretrained(DIR)), and give DIR"
        )
    safetensors = [name for name in names if name.endswith(".safetensors")]
    parts = [match for match in map(_SHARD.fullmatch, safetensors) if match]
    if parts:
        return (
            f" and no {INDEX}; it holds {len(parts)} of {int(parts[0]['count'])} shards, which only the index puts "
            f"together. Download {INDEX} too"
        )
    if any(name.startswith("consolidated") for name in safetensors):
        return (
            f"; it holds {safetensors[0]}, the authors' own layout under other tensor names, which is not read. "
            f"Download the same repository's {SINGLE}, or its shards with {INDEX}"
        )
    if safetensors:
        return f"; it holds {', '.join(safetensors[:4])}. If these are the weights, name the file {SINGLE}"
    found = [name for name in names if Path(name).suffix in (".bin", ".gguf", ".pt", ".pth", ".msgpack")]
    seen = f" (it holds {', '.join(found)}, which is not read)" if found else ""
    return (
        f" and no {INDEX}{seen}; only safetensors is read. Load the weights with the program that wrote them and save "
        f"them with safetensors.torch.save_file(state_dict, '{SINGLE}')"
    )


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index, max_bytes=MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise WeightsError(f"'{index}' has no weight_map from tensor names to file names; download it again")
    return weight_map


def _read_shards(folder: Path, index: Path) -> StoredWeights:
    weight_map = _weight_map(index)
    paths: list[Path] = []
    tensors: dict[str, StoredTensor] = {}
    for name in sorted(set(weight_map.values())):
        path = member(folder, name)
        if path is None:
            raise WeightsError(f"'{index}' names the file '{name}', which is missing; download it again")
        if path.suffix != ".safetensors":
            raise WeightsError(f"'{index}' names the file '{name}'; only .safetensors files are read")
        held = read_header(path)
        promised = {key for key, file in weight_map.items() if file == name}
        if held.keys() != promised:
            raise WeightsError(
                f"'{path}' and '{index.name}' disagree: missing from the file {_some(promised - held.keys())}, "
                f"not in the index {_some(held.keys() - promised)}; download both again"
            )
        paths.append(path)
        tensors.update(held)
    return StoredWeights(paths=tuple(paths), tensors=tensors)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Tensors of one safetensors file; shapes, offsets and the file's size all agree.

    Raises:
        CheckpointError: the file is a pointer of Git LFS.
        WeightsError: the file is truncated, or its header is absurd or contradicts itself.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        refuse_pointer(file.read(64), where=path)
        file.seek(0)
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length < 2 or length > min(size - 8, MAX_HEADER_BYTES):
            raise _broken(path, f"{size} bytes long with a header said to be of {length} bytes")
        raw = file.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _broken(path, f"the header is not valid JSON ({type(error).__name__}: {error})") from error
    if not isinstance(header, dict):
        raise _broken(path, "the header is not a JSON object")
    header.pop("__metadata__", None)
    if not header:
        raise _broken(path, "it holds no tensors")
    spans = []
    tensors = {}
    for key, entry in header.items():
        dtype, shape, begin, end = _entry(path, key, entry)
        spans.append((begin, end))
        tensors[key] = StoredTensor(dtype=dtype, shape=shape, path=path)
    reached = 0
    for begin, end in sorted(spans):
        if begin != reached:
            raise _broken(path, f"its tensors overlap or leave a gap at byte {min(begin, reached)}")
        reached = end
    if reached != size - 8 - length:
        raise _broken(path, f"its tensors need {reached} bytes of data and the file has {size - 8 - length}")
    return tensors


def _entry(path: Path, key: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """dtype, shape, begin and end of one header entry, each checked."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _broken(path, f"'{key}' lacks dtype, shape or data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise _broken(path, f"'{key}' has the unknown dtype {dtype!r}")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise _broken(path, f"'{key}' has shape {shape!r} and data_offsets {offsets!r}; expected lists of counts")
    begin, end = offsets
    need = math.prod(shape) * _BITS[dtype] // 8
    if end - begin != need:
        raise _broken(path, f"'{key}' of shape {shape} needs {need} bytes and is given {end - begin}")
    return dtype, tuple(shape), begin, end


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _broken(path: Path, why: str) -> WeightsError:
    return WeightsError(f"'{path}' is truncated or broken: {why}; download or write it again")


def _some(keys: set[str]) -> str:
    """The first keys of a set, for a message."""
    shown = sorted(keys)[:4]
    more = f" and {len(keys) - len(shown)} more" if len(keys) > len(shown) else ""
    return f"[{', '.join(shown)}{more}]"
