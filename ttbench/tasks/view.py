"""How a task shows one sample: parts that `ttbench show RUN CELL --sample N` prints one after another.

The two ends of a prompt (`PROMPT`, see `ttbench.tasks.ends`) are printed before them, for every task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int

    from ttbench.checkpoints.tokenizer import Tokenizer

PROMPT = ("prompt_start", "first_ids", "prompt_end", "last_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedValues:
    """Names and what stands under them, one pair a line."""

    title: str
    rows: tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceTable:
    """A table. Columns with "text" in their heads are quoted and wrapped, one called "ids" is wrapped."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """A sentence about what is shown."""

    text: str


EvidencePart = NamedValues | EvidenceTable | Remark


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuiltText:
    """The text that a sample is about, made again from its corpus or from kept ids."""

    ends: Mapping[str, Any]  # of what was read: `ttbench.tasks.ends.prompt_ends`
    data: Mapping[str, Any]  # what `--json` has beside them
    parts: tuple[EvidencePart, ...]  # what is printed beside them


class TextSource(Protocol):
    """What the text of a sample is made from, as it was when the sample was measured.

    Both methods raise a TtbenchError where it is no more: another version of the task, another corpus or tokenizer.
    """

    context_len: int  # tokens

    def tokenizer(self) -> Tokenizer:
        """Of the checkpoint."""
        ...

    def document(self, name: str) -> Int[np.ndarray, "T"]:
        """The tokens of a test document of the cell's corpus, without BOS."""
        ...


def named_values(title: str, evidence: Mapping[str, Any], names: Iterable[str]) -> NamedValues:
    """The entries of these names that are there, with blanks for underscores."""
    found = ((name.replace("_", " "), evidence.get(name)) for name in names)
    return NamedValues(title=title, rows=tuple((name, value) for name, value in found if value is not None))


def rest(evidence: Mapping[str, Any], told: Iterable[str] = ()) -> NamedValues:
    """Every entry but the prompt's and those that were told already."""
    left = {name: value for name, value in evidence.items() if name not in {*PROMPT, *told} and value is not None}
    return NamedValues(title="kept", rows=tuple(left.items()))
