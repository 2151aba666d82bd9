"""Published sizes of models, as `random:NAME`: configurations without weights. Torch-free.

What a call costs depends on the sizes of a model and not on what it has learned, so sizes that papers publish can be
timed and weighed where no weights can be fetched. The weights are the architecture's own start weights, drawn from
SEED in the dtype and on the device that they run on (`ttbench.checkpoints.loading`); nothing is written to disk.

    transformer-, ttt-linear-, ttt-mlp-     125m 350m 760m 1.3b
        Sun et al. 2024, arXiv 2407.04620, whose baseline is the Transformer; sizes: test-time-training/ttt-lm-jax
        @ a9b2904
    mamba-                                  130m 370m 790m 1.4b
        Gu and Dao 2023, arXiv 2312.00752; sizes: config.json of state-spaces/mamba-* on the Hugging Face hub
    mamba2-                                 130m 370m 780m 1.3b
        Dao and Gu 2024, arXiv 2405.21060; sizes: config.json of state-spaces/mamba2-*
    titans-lmm-, -mac-, -mag-, -mal-        125m 350m 760m 1.3b
        widths and depths of the first line, since Behrouz et al. 2025, arXiv 2501.00663, state none; memories as in
        this package's recipe

A name says the size that its source calls it by; `num_params` in a row is what is really there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttbench.checkpoints.sizes import shapes
from ttbench.errors import UnknownNameError
from ttbench.types import RANDOM

SEED = 0
SCHEME = 1  # of how weights are drawn; bumped when the same name would give others

_TTT_PAPER, _MAMBA_PAPER = "Sun et al. 2024, arXiv 2407.04620", "Gu and Dao 2023, arXiv 2312.00752"
_MAMBA2_PAPER, _TITANS_PAPER = "Dao and Gu 2024, arXiv 2405.21060", "widths of arXiv 2407.04620; the memory is ours"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One size of one architecture."""

    config: Mapping[str, Any]  # as config.json has it
    source: str


def sizes() -> dict[str, Size]:
    """All sizes by name."""
    found: dict[str, Size] = {}
    for size, shape in shapes.TTT_SIZES.items():
        found[f"transformer-{size}"] = Size(config=shapes.transformer(*shape), source=_TTT_PAPER)
        for kind in shapes.BASE_LR:
            found[f"ttt-{kind}-{size}"] = Size(config=shapes.ttt(kind, *shape), source=_TTT_PAPER)
    for size, (width, depth) in shapes.MAMBA.items():
        found[f"mamba-{size}"] = Size(config=shapes.mamba(width, depth, shapes.PADDED, {}), source=_MAMBA_PAPER)
    for size, (width, depth) in shapes.MAMBA2.items():
        found[f"mamba2-{size}"] = Size(
            config=shapes.mamba(width, depth, shapes.PADDED2, {"layer": "Mamba2"}), source=_MAMBA2_PAPER
        )
    for kind in ("lmm", "mac", "mag", "mal"):
        for size, shape in shapes.TTT_SIZES.items():
            found[f"titans-{kind}-{size}"] = Size(config=shapes.titans(kind, *shape), source=_TITANS_PAPER)
    return dict(sorted(found.items(), key=lambda item: _order(item[0])))


def _order(name: str) -> tuple[str, float]:
    """By architecture, then by size."""
    architecture, _, size = name.rpartition("-")
    return architecture, float(size[:-1]) * {"m": 1.0, "b": 1000.0}[size[-1]]


def is_random(name: str) -> bool:
    """Whether a name asks for random weights."""
    return name.partition(":")[0] == RANDOM and ":" in name


def find_size(name: str) -> Size:
    """The size that `random:NAME` asks for. Raises UnknownNameError, which lists what there is."""
    found, wanted = sizes(), name.partition(":")[2]
    if wanted not in found:
        raise UnknownNameError("checkpoint", name, known=names())
    return found[wanted]


def names() -> list[str]:
    """All names, as a command takes them."""
    return [f"{RANDOM}:{name}" for name in sizes()]
