"""Checkpoints as others publish them, before `ttbench convert`: which format a file is in, told by its first bytes.

A folder is looked through for the file names that the formats are published under; what a file is, its content says.
Torch-free; nothing is unpickled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ttbench.checkpoints.files import member, refuse_pointer
from ttbench.checkpoints.weights import INDEX, SINGLE
from ttbench.errors import CheckpointError
from ttbench.names import quote

Format = Literal["jax-stream", "torch", "gguf"]

WORDS: dict[Format, str] = {
    "jax-stream": "a JAX train state in the streaming format of ttt-lm-jax",
    "torch": "weights written by torch.save",
    "gguf": "a GGUF file",
}
TORCH_SINGLE = "pytorch_model.bin"
TORCH_INDEX = "pytorch_model.bin.index.json"
# A folder's files under these names are looked at; there must be one, or the parts of one.
PATTERNS = (TORCH_INDEX, TORCH_SINGLE, "streaming_train_state*", "streaming_params*", "*.gguf", "*.pt", "*.pth")
# What trainers leave beside the weights.
_NO_WEIGHTS = re.compile(r"(optimizer|scheduler|scaler)\.pt|rng_state.*\.pth")
_GGUF_PART = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")
_TORCH_MARKS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Weights that `ttbench convert` reads."""

    format: Format
    path: Path  # file with the weights, or the index of several


def find_source(path: Path) -> Source:
    """The weights in a file or folder as somebody published it.

    Raises:
        CheckpointError: nothing is there, nothing or more than one thing is known, or it needs no conversion.
    """
    if path.is_dir():
        if member(path, SINGLE) or member(path, INDEX):
            raise CheckpointError(f"'{path}' holds safetensors already; give it to --checkpoint as it is")
        path = _in_folder(path)
    if not path.is_file():
        raise CheckpointError(f"there is no file or folder '{path}'; give what was downloaded")
    if path.name == TORCH_INDEX:
        return Source(format="torch", path=path)
    found = format_of(path)
    if found is None:
        with path.open("rb") as file:
            start = file.read(64)
        refuse_pointer(start, where=path)
        known = ", ".join(WORDS.values())
        raise CheckpointError(f"'{path}' is in no known format (it begins with {_shown(start)}); read are: {known}")
    return Source(format=found, path=path)


def _shown(start: bytes) -> str:
    return start[:8].hex(" ") or "nothing: it is empty"


def _in_folder(folder: Path) -> Path:
    """The one thing to convert in a folder. Raises CheckpointError when there is none, or more than one."""
    names = {path.name for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file()}
    found = sorted(name for name in names if not _NO_WEIGHTS.fullmatch(name))
    parts = {
        match.group("stem", "count") if match else name
        for name, match in zip(found, map(_GGUF_PART.fullmatch, found), strict=True)
    }
    if len(parts) > 1:
        raise CheckpointError(f"'{folder}' holds {', '.join(found)}; give the one file that is meant")
    if found:
        return folder / found[0]
    raise CheckpointError(
        f"'{folder}' holds nothing to convert; looked for {', '.join(PATTERNS)}. Was the download complete?"
    )


def format_of(path: Path) -> Format | None:
    """The format that a file's first bytes announce; None when they announce none."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror}; check its permissions") from error
    if start == b"GGUF":
        return "gguf"
    if start.startswith(_TORCH_MARKS):
        return "torch"
    # A pair whose first part is a list of up to fifteen words: the key of the first entry.
    if len(start) == 4 and start[0] == 0x92 and start[1] & 0xF0 == 0x90:
        return "jax-stream"
    return None


def conversion_hint(path: Path) -> str | None:
    """What to type for a file or folder that has to be converted first; None when it is nothing of the kind."""
    try:
        source = find_source(path)
    except CheckpointError:
        return None
    config = " --config NAME|FILE" if source.format == "jax-stream" else ""
    words = f"{WORDS[source.format]}, which is converted once: ttbench convert {quote(str(path))}"
    return f"{words} --out DIR{config}, then --checkpoint DIR"
