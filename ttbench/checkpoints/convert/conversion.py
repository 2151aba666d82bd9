"""One conversion: find the weights, write them with config.json and tokenizer into a new folder, see what reads it.

source -> format by its first bytes -> weights, one shard at a time -> config.json -> strict fit -> the folder appears
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttbench.checkpoints.checkpoint import CONFIG, fitted, identify, read_config
from ttbench.checkpoints.convert.gguf_file import convert_gguf
from ttbench.checkpoints.convert.output import SHARD_BYTES, WeightWriter
from ttbench.checkpoints.convert.titans_pytorch import refuse_titans_pytorch
from ttbench.checkpoints.convert.torch_file import convert_torch, tensor_names
from ttbench.checkpoints.convert.ttt_jax import convert_stream, presets, ttt_config
from ttbench.checkpoints.files import MAX_CONFIG_BYTES, member, read_json
from ttbench.checkpoints.folder import refuse_taken, whole_folder
from ttbench.checkpoints.loading import write_config
from ttbench.checkpoints.sources import Source, find_source
from ttbench.checkpoints.special_tokens import GENERATION, SETTINGS, SLOW, TOKENIZER, TOKENS_MAP, WRITE_FAST
from ttbench.errors import CheckpointError

# What lies beside weights and says which ids a text has, and which of them end one.
BESIDE = (TOKENIZER, SETTINGS, GENERATION, TOKENS_MAP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What a conversion wrote."""

    folder: str
    format: str  # of the source
    num_tensors: int
    num_elements: int  # tied tensors as often as they are written
    weight_bytes: int
    num_skipped: int  # tensors of the source that are no weights
    architecture: str | None  # that reads it here; None: see remarks
    has_tokenizer: bool
    remarks: tuple[str, ...]


def convert(
    source: Path,
    out: Path,
    *,
    config: Mapping[str, Any] | None,
    report: Callable[[int, int], None],
    shard_bytes: int = SHARD_BYTES,
) -> Converted:
    """Convert what is published at `source` into the new folder `out`, whole or not at all.

    Args:
        source: file or folder.
        out: must not exist yet, or be empty.
        config: config.json's content where the source has none; given where it has one, it replaces it.
        report: told the bytes read so far and in all.
        shard_bytes: weights held in memory and written to one file.

    Raises:
        CheckpointError: the source cannot be read or is incomplete, or `out` cannot be written.
        WeightsError: the source is damaged, or weights and configuration do not fit each other.
    """
    refuse_taken(out)
    found = find_source(source)
    beside = found.path.parent
    if found.format == "gguf" and config is not None:
        raise CheckpointError(f"'{found.path}' carries its own configuration; leave --config out")
    if found.format == "torch":
        refuse_titans_pytorch(tensor_names(found.path), path=found.path)
    if found.format != "gguf":
        config = _configuration(found, config)
    remarks = []
    num_skipped = 0
    with whole_folder(out) as building:
        writer = WeightWriter(building, shard_bytes=shard_bytes)
        if found.format == "jax-stream":
            num_skipped = convert_stream(found.path, writer, report=report)
        elif found.format == "torch":
            convert_torch(found.path, writer, report=report)
        else:
            config, said = convert_gguf(found.path, writer, building, report=report)
            remarks += said
        writer.close()
        write_config(building, config or {})
        if found.format != "gguf":
            for name in BESIDE:
                path = member(beside, name)
                if path is not None:
                    shutil.copyfile(path, building / name)
        architecture = _reader(building, source=found, out=out, remarks=remarks)
        has_tokenizer = member(building, TOKENIZER) is not None
        slow = [name for name in SLOW if member(beside, name)]
        if not has_tokenizer and found.format != "gguf" and slow:
            remarks.append(f"{slow[0]} is not read; {WRITE_FAST}")
    return Converted(
        folder=str(out),
        format=found.format,
        num_tensors=writer.num_tensors,
        num_elements=writer.num_elements,
        weight_bytes=writer.nbytes,
        num_skipped=num_skipped,
        architecture=architecture,
        has_tokenizer=has_tokenizer,
        remarks=tuple(remarks),
    )


def _configuration(source: Source, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """config.json's content: as given, else as it lies beside the weights; checked before anything is written."""
    if given is None:
        path = member(source.path.parent, CONFIG)
        if path is None:
            known = f" or one of {', '.join(presets())}" if source.format == "jax-stream" else ""
            raise CheckpointError(
                f"there is no {CONFIG} beside '{source.path}', and a configuration is never guessed; give it with "
                f"--config FILE{known}"
            )
        given = read_json(path, max_bytes=MAX_CONFIG_BYTES)
    config = dict(given)
    return ttt_config(config) if source.format == "jax-stream" else config


def _reader(folder: Path, *, source: Source, out: Path, remarks: list[str]) -> str | None:
    """The architecture here that reads `folder`; None with a remark when none does.

    `folder` is still being built, under a name that nobody will see again: messages say `out` or the source instead.
    """
    config = read_config(folder)
    try:
        identity = identify(config)
        fitted(folder, config, identity)
    except CheckpointError as error:
        said = str(error)
        if source.format == "jax-stream":
            raise type(error)(said.replace(str(folder), str(source.path))) from error
        remarks.append(f"no architecture here reads it: {said.replace(str(folder), str(out))}")
        return None
    return identity.architecture
