"""`ttbench convert`: what is typed, and what is said while it works."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ttbench.checkpoints import catalogue
from ttbench.checkpoints.convert.conversion import convert as convert_weights
from ttbench.checkpoints.convert.ttt_jax import presets
from ttbench.checkpoints.files import MAX_CONFIG_BYTES, read_json
from ttbench.cli import console
from ttbench.errors import UnknownNameError

SAY_EVERY_S = 5.0


def convert(source: Path, *, out: Path, config: str | None, as_json: bool) -> None:
    """Convert a checkpoint and print what was written."""
    given = None if config is None else configuration(config)
    began = time.monotonic()
    found = convert_weights(source, out, config=given, report=narrator())
    if as_json:
        console.print_json(dataclasses.asdict(found))
        return
    for remark in found.remarks:
        console.say(remark, style="yellow")
    if not found.has_tokenizer:
        console.say(f"it has no tokenizer: put its tokenizer.json into {out}, or only tasks on token ids run")
    console.print_table(
        [
            ("folder", found.folder),
            ("read from", found.format),
            ("tensors", f"{found.num_tensors}, and {found.num_skipped} skipped that are no weights"),
            ("weights", f"{console.count(found.num_elements)}, {console.size(found.weight_bytes)}"),
            ("architecture", found.architecture),
            ("took", console.span(time.monotonic() - began)),
        ],
        [console.Column(""), console.Column("", wrap=True)],
        head=False,
    )
    if found.architecture is not None:
        console.say(f"next: ttbench check {out}")


def configuration(text: str) -> dict[str, Any]:
    """config.json's content for a file, a catalogue name or a preset. Raises UnknownNameError or CheckpointError."""
    if Path(text).is_file():
        return read_json(Path(text), max_bytes=MAX_CONFIG_BYTES)
    known = presets()
    entry = catalogue.find(text)
    if entry is not None and entry.config in known:
        return {**known[entry.config], **({} if entry.train_ctx is None else {"train_ctx": entry.train_ctx})}
    if text in known:
        return known[text]
    listed = [name for name, entry in catalogue.load().items() if entry.config in known]
    raise UnknownNameError("configuration file or preset", text, known=[*known, *listed])


def narrator(every_s: float = SAY_EVERY_S) -> Callable[[int, int], None]:
    """A reporter that says on stderr, now and then, how far the reading is."""
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every_s:
            console.say(f"read {console.size(done)} of {console.size(total)} ({done / max(total, 1):.0%})", style="dim")
            last = now

    return report
