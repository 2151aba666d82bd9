"""What an engine's name stands for: which checkpoints it reads, and how it opens and checks them.

Torch-free at import: what an engine needs is loaded when it is asked for something. Another package adds an engine
through the entry-point group `ttbench.engines`, as an object with the methods of `EngineKind`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ttbench.errors import UsageError
from ttbench.packages import import_packages
from ttbench.registry import ENGINES
from ttbench.types import Checkpoint

if TYPE_CHECKING:
    from ttbench.engines.check_result import CheckResult
    from ttbench.engines.engine import Engine


class EngineKind(Protocol):
    """What stands under a name in `ttbench.registry.ENGINES`."""

    # Of checkpoints that this engine alone reads; None: it runs the architectures of the registry.
    dialect: str | None
    # Kinds of device that it runs on; None: any.
    devices: tuple[str, ...] | None

    def require(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Raise CheckpointError where no model here is for this config.json; asked before weights are fetched."""
        ...

    def read(
        self, folder: Path, *, provenance: str, dtype: str, name: str | None = None, revision: str | None = None
    ) -> Checkpoint:
        """Identify the checkpoint in a folder. Raises CheckpointError or WeightsError."""
        ...

    def open(
        self, checkpoint: Checkpoint, *, device: str, dtype: str, attention: str | None, unchecked: bool
    ) -> Engine:
        """The engine with the checkpoint's weights in `dtype` on `device`. Raises as `load_engine`."""
        ...

    def check(self, checkpoint: str, *, device: str, dtype: str, ctx: int | None) -> list[CheckResult]:
        """Every probe of `ttbench check`, in a fixed order; `ctx` tokens to look at, None: the engine's choice."""
        ...

    def advice(self, model_type: Any) -> str:
        """What to do with a model_type that no architecture here reads; empty: this engine cannot say."""
        ...


class Eager:
    """Engine `eager`: the architectures of the registry, their own forward and step called one after another."""

    dialect = None
    devices: tuple[str, ...] | None = None

    def require(self, folder: Path, config: Mapping[str, Any]) -> None:
        from ttbench.checkpoints.checkpoint import identify

        identify(config)

    def read(
        self, folder: Path, *, provenance: str, dtype: str, name: str | None = None, revision: str | None = None
    ) -> Checkpoint:
        from ttbench.checkpoints.checkpoint import read_native

        return read_native(folder, provenance=provenance, dtype=dtype, name=name, revision=revision)

    def open(
        self, checkpoint: Checkpoint, *, device: str, dtype: str, attention: str | None, unchecked: bool
    ) -> Engine:
        from ttbench.checkpoints.loading import load_model
        from ttbench.engines.eager import EagerEngine

        model = load_model(checkpoint, device=device, dtype=dtype, attention=attention)
        return EagerEngine(model, device=device, dtype=dtype)

    def check(self, checkpoint: str, *, device: str, dtype: str, ctx: int | None) -> list[CheckResult]:
        from ttbench.engines.check import check

        return check(checkpoint, device=device, dtype=dtype, ctx=ctx)

    def advice(self, model_type: Any) -> str:
        return ""


EAGER = Eager()


def require_device(engine: str, device: str) -> None:
    """Raise UsageError where an engine does not run on such a device; asked before anything is read or started."""
    kind: EngineKind = ENGINES.load(engine)
    if kind.devices is not None and device.partition(":")[0] not in kind.devices:
        places = ", ".join(kind.devices)
        raise UsageError(
            f"engine {engine} runs on {places}, not on {device}; add --device {kind.devices[0]}, or use --engine eager"
        )


def read_device_map(given: str | None, *, engine: str, device: str) -> str | None:
    """Where modules of a model stand, as a cell holds it: a strategy by name, or JSON of modules and their devices.

    Args:
        given: a strategy, or a JSON file; None: everything stands on `device`.

    Raises UsageError where the engine takes none, the file cannot be read, or a device is none that goes with `device`.
    """
    if given is None:
        return None
    kind = ENGINES.load(engine)
    if not hasattr(kind, "read_device_map"):
        takes = [name for name, each in ENGINES.usable() if hasattr(each, "read_device_map")]
        raise UsageError(f"engine {engine} takes no --device-map; use --engine {' or '.join(takes)}, or leave it out")
    return kind.read_device_map(given, device=device)


def load_engine(
    checkpoint: str | Checkpoint,
    *,
    device: str,
    dtype: str,
    attention: str | None,
    engine: str = "eager",
    unchecked: bool = False,
    device_map: str | None = None,
) -> Engine:
    """Open a checkpoint as an Engine.

    Args:
        attention: back end of attention; None takes the checkpoint's default.
        engine: registered name: eager; graph, which replays CUDA graphs; or hf, which is transformers' own code.
        unchecked: let engine hf score a model that looks ahead.
        device_map: where modules stand, as `read_device_map` gives it; engine hf alone.

    Raises:
        UsageError: an unknown device, dtype, engine or attention back end, or a device that the engine does not run on.
        UnsupportedError: the checkpoint cannot run with that back end.
        CheckpointError: it cannot be found, identified or read; WeightsError among them.
    """
    from ttbench.checkpoints.checkpoint import resolve

    import_packages()
    require_device(engine, device)
    kind: EngineKind = ENGINES.load(engine)
    if isinstance(checkpoint, str):
        checkpoint = resolve(checkpoint, dtype=dtype, engine=engine)
    others = {each.dialect for _, each in ENGINES.usable()} - {kind.dialect}
    if checkpoint.dialect in others or (kind.dialect is not None and checkpoint.dialect != kind.dialect):
        raise UsageError(f"'{checkpoint.name}' was resolved for another engine than {engine}; resolve it for {engine}")
    # Engines that take no map have no such argument.
    extra: dict[str, Any] = {} if device_map is None else {"device_map": device_map}
    return kind.open(checkpoint, device=device, dtype=dtype, attention=attention, unchecked=unchecked, **extra)


def check_engine(checkpoint: str, *, device: str, dtype: str, engine: str, ctx: int | None = None) -> list[CheckResult]:
    """Run every probe on a checkpoint under an engine. Raises as `load_engine`."""
    require_device(engine, device)
    kind: EngineKind = ENGINES.load(engine)
    return kind.check(checkpoint, device=device, dtype=dtype, ctx=ctx)
