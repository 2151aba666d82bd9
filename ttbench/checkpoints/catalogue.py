"""The catalogue of published checkpoints, `checkpoints.yaml`: ids, licences, sizes, which ones belong together.

Data only: a fact that nobody has looked up is left out, never guessed. `./suites/checkpoints.yaml` may add entries, and
replaces shipped ones of the same name. Torch-free.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ttbench.errors import CheckpointError, SuiteError, UnknownNameError
from ttbench.strict_yaml.nodes import CATALOGUE, Node, read_yaml, suite_folders
from ttbench.strict_yaml.typed import read

_Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", description="small letters, digits, dots and dashes")]
_HubId = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$", description="org/name")]
_Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$", description="a commit of 40 hexadecimal digits")]
_Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One published checkpoint, or one whose weights nobody has published; null is what nobody knows."""

    name: _Name
    architecture: str  # registry key where there is one, else the name that its authors use
    # the authors' own; the same weights, converted by others; trained anew
    provenance: Literal["official", "port", "reimplementation"]
    hub_id: _HubId | None = None  # org/name on the hub
    revision: _Commit | None = None  # commit; None: not known
    package: str | None = None  # Python package that holds the weights
    format: Literal["safetensors", "torch", "jax-stream", "gguf"] | None = None  # of the weight files; None: not known
    licence: str | None = None
    tokenizer: str | None = None
    train_ctx: _Count | None = None  # tokens
    num_params: _Count | None = None
    download_bytes: _Count | None = None  # of the weight files
    gated: bool | None = None  # whether the hub asks for a log-in
    config: str | None = None  # preset of `ttbench convert --config`
    pairs_with: tuple[str, ...] = ()  # entries trained on the same data, to compare with
    note: str | None = None
    where: str = ""  # file and line

    @property
    def published(self) -> bool:
        return self.hub_id is not None or self.package is not None

    def to_json(self) -> dict[str, Any]:
        data = dataclasses.asdict(self)
        del data["where"]
        return {**data, "pairs_with": list(self.pairs_with)}


def names() -> tuple[str, ...]:
    """Names of all entries, in the order of the files."""
    return tuple(load())


def find(name: str) -> Entry | None:
    """The entry of that name; None when there is none. Raises SuiteError when a catalogue cannot be read."""
    return load().get(name)


def load() -> dict[str, Entry]:
    """All entries by name. Raises SuiteError with file and line."""
    found: dict[str, Entry] = {}
    for path in dict.fromkeys((folder / CATALOGUE).resolve() for folder in suite_folders()):
        if path.is_file():
            found |= read_catalogue(path)
    for entry in found.values():
        for other in entry.pairs_with:
            if other not in found:
                error = UnknownNameError("checkpoint", other, known=found, where=f"pairs_with at {entry.where}")
                raise SuiteError(str(error))
    return found


def read_catalogue(path: Path) -> dict[str, Entry]:
    """The entries of one file. Raises SuiteError with file and line."""
    top = read_yaml(path, noun="catalogue", needs="checkpoints")
    keys = top.mapping(("checkpoints",))
    if "checkpoints" not in keys:
        raise top.error("key 'checkpoints' is missing")
    found: dict[str, Entry] = {}
    for node in keys["checkpoints"].items():
        entry = _read_entry(node)
        if entry.name in found:
            raise node.error(f"checkpoint '{entry.name}' is listed twice; first at {found[entry.name].where}")
        found[entry.name] = entry
    return found


def resolvable(entry: Entry) -> str:
    """The hub id with revision that an entry stands for.

    Raises:
        CheckpointError: nothing is published, or not in a form that can be run without `ttbench convert`.
    """
    note = f" ({entry.note})" if entry.note else ""
    if not entry.published:
        raise CheckpointError(f"'{entry.name}' has no published weights{note}; see: ttbench list checkpoints")
    if entry.hub_id is None:
        raise CheckpointError(
            f"'{entry.name}' comes in the Python package {entry.package}{note}; install it, then: ttbench convert FILE "
            "--out DIR, then --checkpoint DIR"
        )
    if entry.format not in (None, "safetensors"):
        revision = f" --revision {entry.revision}" if entry.revision else ""
        config = f" --config {entry.name}" if entry.config else ""
        raise CheckpointError(
            f"'{entry.name}' is published as {entry.format}, which is converted once: hf download {entry.hub_id}"
            f"{revision} --local-dir SOURCE, then ttbench convert SOURCE --out DIR{config}, then --checkpoint DIR"
        )
    return entry.hub_id if entry.revision is None else f"{entry.hub_id}@{entry.revision}"


def _read_entry(node: Node) -> Entry:
    entry = read(node, Entry, where=node.where)
    if entry.hub_id is not None and entry.package is not None:
        raise node.error("hub_id and package: give the one place that the weights come from")
    published = ("revision", "format", "download_bytes", "gated")
    odd = [key for key in published if getattr(entry, key) is not None and not entry.published]
    if odd:
        raise node.error(f"{', '.join(odd)} without hub_id or package: nothing is published that it could be true of")
    return entry
