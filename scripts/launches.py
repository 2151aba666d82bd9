"""docs/launches.md, how many kernels a step of each architecture starts: `make launches`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ttbench.engines import launches

PAGE = Path(__file__).parents[1] / "docs" / "launches.md"
OPENING = """# Kernels that a step starts

How many kernels one token of decoding starts on a GPU, in a layer and in the whole step. Each costs at least about half
a microsecond even inside a CUDA graph, so for a small model their number, not their work, decides how fast it decodes.

Counted on the meta device in bfloat16, without a GPU: an operation of torch counts as one kernel, which is a lower
bound; a fused kernel counts as what it starts; views and allocations count as none. Where an architecture has several
kinds of steps the largest count stands here. "In plain torch" is the same step without the fused kernels of
[Fused kernels](kernels.md). Beside the layers stand the embedding, the positions and the last norm; the head is not
counted. This page is made by `make launches`; a test holds it against the code.

| architecture | layer | kernels of a layer | in plain torch | beside the layers |
| --- | --- | ---: | ---: | ---: |"""


def page() -> str:
    """The text of docs/launches.md."""
    return "\n".join([OPENING, *_rows()]) + "\n"


def _rows() -> Iterator[str]:
    plain = {found.architecture: found for found in launches.table(way="torch")}
    for found in launches.table():
        for kind, number in found.layers.items():
            before = plain[found.architecture].layers[kind]
            yield f"| {found.architecture} | {kind} | {number} | {before} | {found.beside} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
