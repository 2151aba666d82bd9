"""A folder in which a user could measure: tiny checkpoints that read bytes, and a text of twelve documents."""

from __future__ import annotations

from pathlib import Path

import torch

from ttbench.checkpoints.loading import save_checkpoint
from ttbench.models.transformer import Transformer

# The shortest run there: one cell of bits per byte.
RUN = ["run", "perplexity", "--checkpoint", "tiny", "--corpus", "text:text", "--ctx", "64", "--threads", "1"]
RUN += ["--param", "window=32", "--param", "max_context=64"]


def lay_home(folder: Path, *names: str) -> Path:
    """Write the checkpoints of these names, which differ in their weights, and the text."""
    torch.manual_seed(0)
    for name in names:
        extra = {"train_ctx": 64, "tokenizer": "bytes"}
        save_checkpoint(Transformer.tiny(), folder / name, dtype="float32", extra=extra)
    (folder / "text").mkdir()
    for index in range(12):
        (folder / "text" / f"{index}.txt").write_text(f"{index} lines of text. " * 35)
    return folder
