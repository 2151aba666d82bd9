"""From lm-eval's `--model_args` to an engine and a tokenizer, and how long a text a checkpoint is given."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttbench.checkpoints.checkpoint import resolve
from ttbench.engines.engine import Engine
from ttbench.engines.findings import NEAR
from ttbench.engines.kinds import load_engine
from ttbench.engines.probing import vouch
from ttbench.errors import UnknownNameError, UsageError
from ttbench.lmeval.text import Text, read_text
from ttbench.machine import measure
from ttbench.packages import import_packages
from ttbench.types import NO_ATTENTION, Checkpoint

AUTO_BATCH_SIZE = 8  # continuations; for lm-eval's "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `--model_args` may say, beside lm-eval's own --batch_size and --device."""

    checkpoint: str
    dtype: str = "float32"
    device: str = "cpu"
    engine: str = "eager"
    attention: str | None = None  # None: the checkpoint's default
    max_length: int | None = None  # tokens; None: as the checkpoint allows
    batch_size: int = 1  # continuations side by side
    threads: int | None = None  # None: `measure.default_threads`
    imports: str | None = None  # packages to import first, with + between them
    unchecked: bool = False  # score also what looks ahead or otherwise fails its probes

    @classmethod
    def read(cls, given: Mapping[str, Any], options: Mapping[str, Any]) -> Settings:
        """Check names and kinds; `given` goes before lm-eval's own options.

        Raises:
            UsageError: no checkpoint, an unknown name, or a value of another kind.
        """
        known = [item.name for item in dataclasses.fields(cls)]
        for name in given:
            if name not in known:
                raise UnknownNameError("argument in --model_args", str(name), known=known)
        shared = {name: options[name] for name in ("batch_size", "device") if options.get(name) is not None}
        values: dict[str, Any] = {**shared, **{name: value for name, value in given.items() if value is not None}}
        if "checkpoint" not in values:
            raise UsageError(
                "--model_args names no checkpoint; write --model_args checkpoint=NAME: ttbench list checkpoints shows "
                "what there is"
            )
        for name in ("max_length", "batch_size", "threads"):
            if name in values:
                values[name] = _count(name, values[name])
        if "unchecked" in values and not isinstance(values["unchecked"], bool):
            raise UsageError(f"unchecked={values['unchecked']} must be True or False")
        for name in ("checkpoint", "dtype", "device", "engine", "attention", "imports"):
            if name in values:
                values[name] = str(values[name])
        return cls(**values)


def _count(name: str, value: Any) -> int:
    text = str(value)
    if name == "batch_size" and text.partition(":")[0] == "auto":
        return AUTO_BATCH_SIZE
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{name}={value} must be a whole number of at least 1")
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the lm-eval model is made of."""

    checkpoint: Checkpoint
    engine: Engine
    text: Text
    max_length: int | None  # tokens; None: no limit


def open_parts(settings: Settings) -> Parts:
    """Find and load a checkpoint.

    Raises as `load_engine`, and UnsupportedError without a tokenizer, or when a probe finds that the model looks ahead.
    """
    import_packages(settings.imports.split("+") if settings.imports else ())
    checkpoint = resolve(settings.checkpoint, dtype=settings.dtype, engine=settings.engine)
    # Before the weights: a checkpoint without a tokenizer must not cost their loading.
    text = read_text(Path(checkpoint.path))
    measure.pin_threads(settings.threads or measure.default_threads())
    measure.flush_denormals()
    load = functools.partial(
        load_engine,
        checkpoint,
        device=settings.device,
        attention=settings.attention,
        engine=settings.engine,
        unchecked=settings.unchecked,
    )
    engine = load(dtype=settings.dtype)
    limit = settings.max_length or reading_limit(checkpoint, engine)
    if not settings.unchecked:
        attention = settings.attention or next(iter(checkpoint.attention), NO_ATTENTION)
        # how much lm-eval will ask is not known yet
        looked = min(limit or NEAR, NEAR)
        exact = functools.partial(load, dtype="float64")
        vouch(engine, checkpoint, attention=attention, looked=looked, text=lambda length: None, exact=exact).require()
    return Parts(checkpoint=checkpoint, engine=engine, text=text, max_length=limit)


def reading_limit(checkpoint: Checkpoint, engine: Engine) -> int | None:
    """Tokens that a text may have for a checkpoint: those it was trained on if it attends, else no limit.

    lm-eval takes max_position_embeddings of a model that states it, and 2,048 of one that does not; a model without
    attention has no positions to run out of.
    """
    if engine.max_context is not None:
        return engine.max_context
    return checkpoint.train_ctx if checkpoint.attention else None
