"""Engine `hf` by name: what it reads, how it is opened and checked. Torch-free until it is asked."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttbench.declare import ColumnDeclaration, text
from ttbench.errors import UsageError
from ttbench.types import Checkpoint

if TYPE_CHECKING:
    from ttbench.engines.check_result import CheckResult
    from ttbench.engines.engine import Engine


HF_CHOICES: Mapping[str, ColumnDeclaration] = {
    "model": text("engine hf: whose code computes, and its release"),
    "attention": text("engine hf: implementation of attention that the model says it runs"),
    "cache": text("engine hf: how its cache is continued: chunks, steps, or whole, which reads all again"),
    "steady_tokens": text("engine hf: tokens up to which the model's tables of positions do not change"),
    "leak": text("engine hf: change of earlier logits when later tokens change; null: the model is causal"),
    "placement": text("engine hf with a device map: how many of its entries stand on each device"),
    "unprobed_sliding_window": text("engine hf: window of the model that is longer than what probes read, in tokens"),
}


class HF:
    """Engine `hf`: any causal language model of transformers. See `ttbench.engines.kinds.EngineKind`.

    Each method raises UsageError where transformers is not installed.
    """

    dialect = "transformers"
    devices: tuple[str, ...] | None = None

    def require(self, folder: Path, config: Mapping[str, Any]) -> None:
        _need_transformers()
        from ttbench.engines.hf.hf_checkpoint import hf_config

        hf_config(folder, config)

    def read(
        self, folder: Path, *, provenance: str, dtype: str, name: str | None = None, revision: str | None = None
    ) -> Checkpoint:
        _need_transformers()
        from ttbench.engines.hf.hf_checkpoint import read_hf_checkpoint

        return read_hf_checkpoint(folder, dialect=self.dialect, provenance=provenance, name=name, revision=revision)

    def open(
        self,
        checkpoint: Checkpoint,
        *,
        device: str,
        dtype: str,
        attention: str | None,
        unchecked: bool,
        device_map: str | None = None,
    ) -> Engine:
        _need_transformers()
        from ttbench.engines.hf.hf_engine import load_hf_engine

        return load_hf_engine(
            checkpoint, device=device, dtype=dtype, attention=attention, unchecked=unchecked, device_map=device_map
        )

    def read_device_map(self, given: str, *, device: str) -> str:
        """A map of devices as a cell holds it. Raises UsageError; see `ttbench.engines.kinds.read_device_map`."""
        from ttbench.engines.hf.hf_devices import read_device_map

        return read_device_map(given, device=device)

    def check(self, checkpoint: str, *, device: str, dtype: str, ctx: int | None) -> list[CheckResult]:
        _need_transformers()
        from ttbench.engines.hf.hf_check import check_hf

        return check_hf(checkpoint, device=device, dtype=dtype, ctx=ctx)

    def advice(self, model_type: Any) -> str:
        if importlib.util.find_spec("transformers") is None:
            return "transformers may: pip install 'ttbench[hf]', then add --engine hf"
        from ttbench.engines.hf.hf_checkpoint import knows, predicts, transformers

        version = f"transformers {transformers.__version__}"
        if predicts(model_type):
            return "transformers' own code does: add --engine hf"
        if knows(model_type):
            return f"{version} has no causal language model of it, and only models that predict the next token can run"
        return f"neither does {version}"


def _need_transformers() -> None:
    if importlib.util.find_spec("transformers") is None:
        raise UsageError("engine hf needs transformers, which is not installed; pip install 'ttbench[hf]'")


KIND = HF()
