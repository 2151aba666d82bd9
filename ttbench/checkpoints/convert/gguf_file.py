"""GGUF files: weights unpacked to float32, configuration and tokenizer in JSON.

The values are those that the quantised file stands for; nothing is quantised again. One tensor is unpacked at a time.
Which keys and tensors are known, `gguf_names` says: what is not is refused by name, since a key that is dropped (rotary
scaling, biases, norms) gives another model's numbers without a word. Needs the extra `gguf`.
"""

from __future__ import annotations

import importlib.util
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ttbench.checkpoints.convert.gguf_names import ARCHITECTURES, FREE, PLAIN, ROPE_TENSORS, Change, GgufArchitecture
from ttbench.checkpoints.convert.gguf_tokenizer import end_ids, write_gguf_tokenizer
from ttbench.checkpoints.convert.output import WeightWriter
from ttbench.errors import CheckpointError

# What the library raises on files that it cannot read; it has no errors of its own.
_UNREADABLE = (
    *(ValueError, KeyError, IndexError, TypeError, OSError, RuntimeError, NotImplementedError, AttributeError),
    *(struct.error, OverflowError, MemoryError),
)
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_INSTEAD = "take the model's safetensors instead"


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A GGUF file, or all parts of a split one."""

    keys: Mapping[str, Any]
    tensors: Mapping[str, Any]  # name -> the library's tensor, not unpacked


def convert_gguf(
    path: Path, writer: WeightWriter, folder: Path, *, report: Callable[[int, int], None]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Write the weights, and the tokenizer into `folder`; config.json's content, and what the reader should know.

    Raises:
        CheckpointError: the extra is not installed, the file cannot be read whole, or it holds a key or a tensor that
            is not known.
    """
    if importlib.util.find_spec("gguf") is None:
        raise CheckpointError(
            f"'{path}' is a GGUF file, which needs gguf; install the extra: pip install 'ttbench[gguf]'"
        )
    paths = _parts(path)
    size = sum(part.stat().st_size for part in paths)
    report(0, size)
    try:
        file = _read(paths)
        name = str(file.keys.get("general.architecture"))
        if name not in ARCHITECTURES:
            raise CheckpointError(
                f"it is of architecture {name!r}; read from GGUF are {', '.join(ARCHITECTURES)}; {_INSTEAD}"
            )
        architecture = ARCHITECTURES[name]
        keys = _own_keys(file, name, architecture)
        config = _config(file, keys, architecture)
        _write_tensors(file, architecture, config, writer, lambda done: report(min(done, size), size))
    except CheckpointError as error:
        raise CheckpointError(f"'{path}' cannot be converted: {error}") from error
    except _UNREADABLE as error:
        raise CheckpointError(
            f"'{path}' is truncated or broken ({type(error).__name__}: {error}); download it again"
        ) from error
    report(size, size)
    remarks = []
    if name == "mamba" and "context_length" in keys:
        remarks.append(f"context_length {keys['context_length']} is no training length of a Mamba; not written")
    no_tokenizer = write_gguf_tokenizer(file.keys, folder)
    return config, (*remarks, *([no_tokenizer] if no_tokenizer else []))


def _parts(path: Path) -> list[Path]:
    """The file, or all parts of the split file that it is one of. Raises CheckpointError when one is missing."""
    match = _PART.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    names = [f"{match['stem']}-{number:05d}-of-{match['count']}.gguf" for number in range(1, count + 1)]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"'{path}' is one of {count} parts of a split GGUF, and {missing[0]} is missing beside it; download all of "
            "them"
        )
    return [path.parent / name for name in names]


def _read(paths: list[Path]) -> _File:
    from gguf import GGUFReader

    keys: dict[str, Any] = {}
    tensors: dict[str, Any] = {}
    for number, path in enumerate(paths):
        reader = GGUFReader(path)
        found = {key: field.contents() for key, field in reader.fields.items()}
        if found.get("split.count", len(paths)) not in (0, len(paths)) or found.get("split.no", number) != number:
            raise CheckpointError(
                f"it is part {found.get('split.no', 0) + 1} of {found.get('split.count')} of a split GGUF; give all "
                "parts their names NAME-0000N-of-0000M.gguf back, or join them: llama-gguf-split --merge FIRST WHOLE"
            )
        # only the first part says what the model is
        keys = found | keys
        for tensor in reader.tensors:
            if tensor.name in tensors:
                raise CheckpointError(f"it holds the tensor '{tensor.name}' twice; download it again")
            tensors[tensor.name] = tensor
    if keys.get("split.tensors.count", len(tensors)) not in (0, len(tensors)):
        raise CheckpointError(
            f"it has {len(tensors)} tensors of {keys['split.tensors.count']}; download all parts again"
        )
    return _File(keys=keys, tensors=tensors)


def _own_keys(file: _File, name: str, architecture: GgufArchitecture) -> dict[str, Any]:
    """The architecture's keys without its name, all of them known. Raises CheckpointError."""
    keys = {key.removeprefix(f"{name}."): value for key, value in file.keys.items() if key.startswith(f"{name}.")}
    known = {*architecture.fields, *architecture.read, *FREE, "vocab_size"}
    for key, value in keys.items():
        if key in PLAIN:
            if value == PLAIN[key]:
                continue
            raise CheckpointError(f"it has {name}.{key} = {value!r}; only {PLAIN[key]!r} is read; {_INSTEAD}")
        if key not in known:
            raise CheckpointError(
                f"it has {name}.{key} = {value!r:.40}, which is not read, and what it changes would be lost; {_INSTEAD}"
            )
    missing = [key for key in architecture.fields if key not in keys]
    if missing:
        raise CheckpointError(f"it lacks the keys {', '.join(f'{name}.{key}' for key in missing)}; download it again")
    return keys


def _config(file: _File, keys: Mapping[str, Any], architecture: GgufArchitecture) -> dict[str, Any]:
    """config.json's content. Raises CheckpointError on sizes that contradict the file."""
    for key in architecture.fields:
        if isinstance(keys[key], list):
            raise CheckpointError(f"it has {key} = {keys[key]!r:.40}; only layers that are all alike are read")
    table = file.tensors.get("token_embd.weight")
    rows = None if table is None else int(table.shape[-1])
    stated = {keys.get("vocab_size", rows), len(file.keys.get("tokenizer.ggml.tokens") or ()) or rows}
    if stated != {rows}:
        raise CheckpointError(f"it has {rows} rows of token_embd.weight and a vocabulary of {sorted(map(str, stated))}")
    ends = end_ids(file.keys)
    biased = {
        name: any(f"blk.0.{part}" in file.tensors for part in (key.removeprefix("blk.{i}.") for key in group))
        for name, group in architecture.groups.items()
    }
    return {
        **architecture.about,
        "vocab_size": rows,
        **{theirs: keys[ours] for ours, theirs in architecture.fields.items()},
        **architecture.config(keys),
        **biased,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        # stated even where there is none: transformers' defaults are those of one tokenizer of 2023
        "bos_token_id": file.keys.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": ends[0] if len(ends) == 1 else list(ends) or None,
        "pad_token_id": file.keys.get("tokenizer.ggml.padding_token_id"),
        "dtype": "float32",
    }


def _write_tensors(
    file: _File,
    architecture: GgufArchitecture,
    config: Mapping[str, Any],
    writer: WeightWriter,
    report: Callable[[int], None],
) -> None:
    """Unpack every tensor under its new name. Raises CheckpointError on one too many or too few."""
    from gguf import dequantize

    targets = dict(_targets(architecture, config))
    unknown = sorted(file.tensors.keys() - targets.keys())
    if unknown:
        scaled = [name for name in unknown if name in ROPE_TENSORS]
        why = " (rotary scaling, as in Llama 3.1)" if scaled else ""
        raise CheckpointError(
            f"it holds {len(unknown)} tensors that are not read{why}: {', '.join((scaled or unknown)[:4])}; without "
            f"them the numbers would be wrong, so {_INSTEAD}, with --engine hf"
        )
    absent = sorted(targets.keys() - file.tensors.keys())
    if absent:
        raise CheckpointError(
            f"it lacks {len(absent)} weights, {', '.join(absent[:4])} among them; they would be random numbers"
        )
    done = 0
    for name, tensor in file.tensors.items():
        key, change = targets[name]
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).astype("float32", copy=True))
        writer.add(key, change(values, config))
        done += int(tensor.n_bytes)
        report(done)


def _targets(architecture: GgufArchitecture, config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, Change]]]:
    """Every tensor that a file of this configuration must hold, and what becomes of it."""
    tables = [architecture.tensors, *(group for name, group in architecture.groups.items() if config[name])]
    for table in tables:
        for old, (new, change) in table.items():
            if old == "output.weight" and config["tie_word_embeddings"]:
                continue
            layers = range(config["num_hidden_layers"]) if "{i}" in old else range(1)
            for i in layers:
                yield old.replace("{i}", str(i)), (new.replace("{i}", str(i)), change)
