"""Models in memory, measured in this process: an Engine, a model of an architecture here, or one of transformers.

Cells are planned, vouched for and measured as in a worker, but nothing is stored and nothing is taken over from earlier
runs. Tasks that time or weigh a process of their own cannot be asked for, and threads and denormals stay as they are.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from ttbench.checkpoints.files import json_digest
from ttbench.checkpoints.tokenizer import ByteTokenizer, Tokenizer, read_tokenizer
from ttbench.engines.eager import EagerEngine
from ttbench.errors import UnsupportedError, UsageError
from ttbench.machine.devices import DTYPES
from ttbench.models.base import SequenceModel
from ttbench.registry import ARCHITECTURES, TASKS
from ttbench.runs.executors.base import unmeasured
from ttbench.runs.options import Options, placed
from ttbench.runs.request import plan_task
from ttbench.runs.worker import Group, run_cell
from ttbench.store.collected import table
from ttbench.store.record import now
from ttbench.store.rows import frame
from ttbench.types import Cell, Checkpoint

if TYPE_CHECKING:
    import pandas as pd

    from ttbench.engines.engine import Engine

WORDS = {dtype: name for name, dtype in DTYPES.items()}


class _Silent:
    """Nobody follows the cells of this process."""

    def send(self, kind: str, **fields: Any) -> None: ...

    def progress(self, cell_id: str, done: int, total: int, setup_s: float) -> None: ...


class _InMemory(Group):
    """The cells of one engine that is open already."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer | None, cells: tuple[Cell, ...]) -> None:
        super().__init__(cells)
        self.engine, self._tokenizer = engine, tokenizer

    def _open_tokenizer(self, cell: Cell) -> Tokenizer:
        if self._tokenizer is None:
            raise UnsupportedError(f"task '{cell.task}' reads text; give the model's tokenizer")
        return self._tokenizer


def measure(task: str, model: Any, *, tokenizer: Any = None, name: str = "model", options: Options) -> pd.DataFrame:
    """Measure one task on a model in memory and return its tidy rows.

    Args:
        model: an Engine, a `SequenceModel`, or a causal language model of transformers. Its device and dtype hold.
        tokenizer: "bytes", a folder with a tokenizer.json, a fast tokenizer of transformers, or anything with the
            methods of `ttbench.checkpoints.tokenizer.Tokenizer`; None: tasks on text are `unsupported`.
        name: what the rows call it.
        options: as of a run; checkpoints, device, dtype, engine, attention and threads are the model's.

    Raises UsageError when the request has no meaning, or the task measures a process of its own.
    """
    mine = {"checkpoints", "device", "dtype", "engine", "attention", "threads", "imports", "timeout", "device_map"}
    mine = (mine | set(placed())) & options.keys()
    if mine:
        raise UsageError(f"a model in memory decides its own {', '.join(sorted(mine))}; leave them out")
    if TASKS.load(task).isolation != "checkpoint":
        raise UsageError(f"task '{task}' measures fresh processes; save the model and name its folder as a checkpoint")
    engine = engine_of(model)
    with tempfile.TemporaryDirectory() as scratch:
        opened = _tokenizer_of(tokenizer, Path(scratch), vocab_size=engine.vocab_size)
    checkpoint = _checkpoint(engine, opened, name=name)
    settled = cast(
        Options,
        {
            **options,
            "checkpoints": (checkpoint,),
            "device": engine.device,
            "dtype": engine.dtype,
            "engine": engine.name,
            "threads": torch.get_num_threads(),
        },
    )
    plan = plan_task(task, settled)
    group = _InMemory(engine, opened, plan.cells)
    records = [run_cell(cell, group=group, channel=cast(Any, _Silent())) for cell in plan.cells]
    skipped = [unmeasured(skip.cell, skip.status, skip.reason, started=now(), cell_s=0.0) for skip in plan.skips]
    return frame(table([*records, *skipped]))


def engine_of(model: Any) -> Engine:
    """The engine of a model in memory, or the engine itself. Raises UsageError for anything else."""
    if all(hasattr(model, name) for name in ("reset", "prefill", "score", "snapshot", "choices")):
        return model
    if isinstance(model, SequenceModel):
        first = next(model.parameters())
        return EagerEngine(model, device=str(first.device), dtype=_dtype(first.dtype))
    if any(each.__module__.startswith("transformers.") for each in type(model).__mro__):
        # Late: transformers takes seconds.
        from ttbench.engines.hf.hf_engine import HFEngine

        text = model.config.get_text_config()
        return HFEngine(model.eval(), device=str(model.device), dtype=_dtype(model.dtype), vocab_size=text.vocab_size)
    raise UsageError(
        f"a {type(model).__name__} cannot be measured: give an Engine, a model of an architecture here, or a causal "
        "language model of transformers"
    )


def _dtype(dtype: torch.dtype) -> str:
    if dtype not in WORDS:
        raise UsageError(f"models of {dtype} cannot be measured; available: {', '.join(WORDS.values())}")
    return WORDS[dtype]


def _tokenizer_of(given: Any, scratch: Path, *, vocab_size: int) -> Tokenizer | None:
    if given is None:
        return None
    if isinstance(given, str) and given == "bytes":
        return ByteTokenizer(num_ids=vocab_size)
    if hasattr(given, "byte_lengths"):
        return cast(Tokenizer, given)
    fast = hasattr(given, "backend_tokenizer")
    if fast:
        cast(Any, given).save_pretrained(scratch)
    if fast or isinstance(given, str | Path):
        given = scratch if fast else given
        found = read_tokenizer(Path(given), {}, num_ids=vocab_size)
        if found is None:
            raise UsageError(f"'{given}' holds no tokenizer.json; give its folder, 'bytes', or a fast tokenizer")
        return found
    raise UsageError(f"a {type(given).__name__} is no tokenizer that can be read; give its folder or 'bytes'")


def _checkpoint(engine: Engine, tokenizer: Tokenizer | None, *, name: str) -> Checkpoint:
    """The model as the rows know it: by its tensors and its configuration."""
    model: Any = engine.model
    native = isinstance(model, SequenceModel)
    of_transformers = hasattr(model.config, "to_json_string")
    config = json.loads(model.config.to_json_string(use_diff=False)) if of_transformers else model.config.to_json()
    parameters = {id(each): each.numel() for each in model.parameters()}
    architecture = next((each for each, kind in ARCHITECTURES.usable() if type(model) is kind), type(model).__name__)
    return Checkpoint(
        name=name,
        path="",
        architecture=architecture,
        architecture_version=type(model).version if native else 0,
        dialect="memory",
        provenance="memory",
        revision=None,
        weights_digest=_weights_digest(model),
        config_digest=json_digest(config),
        tokenizer_digest=None if tokenizer is None else tokenizer.digest,
        vocab_size=engine.vocab_size,
        train_ctx=None,
        num_params=sum(parameters.values()),
        num_params_non_embedding=model.num_params()[1] if native else sum(parameters.values()),
        weight_bytes=engine.weight_bytes,
        cost=None,
    )


def _weights_digest(model: torch.nn.Module) -> str:
    """Of every tensor's name, dtype, shape and bytes."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return found.hexdigest()
