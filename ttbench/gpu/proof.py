"""The stages that prove before anything is timed: fused kernels against their references, graphs against eager steps.

What is not installed in this tree yet (fused kernels, engine `graph`) is told as absent.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np
import torch

from ttbench.checkpoints.checkpoint import resolve
from ttbench.checkpoints.loading import load_model
from ttbench.engines.eager import EagerEngine
from ttbench.engines.kinds import load_engine
from ttbench.errors import TtbenchError
from ttbench.gpu.lines import Lines
from ttbench.gpu.stage import Subject
from ttbench.machine.devices import placed
from ttbench.models.base import SequenceModel
from ttbench.registry import ENGINES

FUSED = "ttbench.kernels.fused"
VERIFY = ("kernels", "verify")
# A command line in a process of its own, with what this Python may lack.
_COMMAND = "from ttbench.gpu import bare; bare.stand_in(); from ttbench.cli.app import main; main()"
_STEPS = 36  # more than two mini-batches of 16, of which the last token writes


def kernels(subject: Subject, lines: Lines) -> None:
    """`ttbench kernels verify`, whose lines become lines of the report."""
    if importlib.util.find_spec(FUSED) is None:
        lines.write("absent", FUSED, why="this tree has no fused kernels")
        return
    if importlib.util.find_spec("triton") is None:
        lines.write("absent", "triton", why="not installed, and fused kernels are written in it")
        return
    command = [sys.executable, "-c", _COMMAND, *VERIFY]
    # The stage's time is the parent's to watch: what was said before it ends is kept.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=os.environ
    ) as process:
        for text in process.stdout or ():
            if text.strip():
                lines.write("fact", "verify", text=text.rstrip())
    lines.write("verdict", "kernels_verify", ok=process.returncode == 0, exit_code=process.returncode)


def graphs(subject: Subject, lines: Lines) -> None:
    """Steps wait for nothing on the host, states stay where they are, and every engine gives the same logits."""
    for name in subject.checkpoints:
        if lines.left <= 0:
            return
        try:
            _steps_without_waiting(name, subject, lines)
            _engines_agree(name, subject, lines)
        except (TtbenchError, RuntimeError) as error:
            lines.failed("proof", error, checkpoint=name)
        if subject.device == "cuda":
            torch.cuda.empty_cache()


def _steps_without_waiting(name: str, subject: Subject, lines: Lines) -> None:
    """Decode with torch told to refuse every call that waits for the GPU; then see that the state stayed in place."""
    checkpoint = resolve(name, dtype=subject.dtype)
    model = load_model(checkpoint, device=subject.device, dtype=subject.dtype, attention=None)
    if subject.device == "cuda":
        _refuse_waits(model, name, subject, lines)
    else:
        lines.write("absent", "sync_debug_mode", checkpoint=name, why="it is of CUDA")
    engine = EagerEngine(model, device=subject.device, dtype=subject.dtype)
    engine.reset(1, _STEPS)
    before, snapshot = engine.state_addresses, engine.snapshot()
    for token in range(_STEPS):
        engine.decode(np.array([token]))
    engine.restore(snapshot)
    engine.reset(1, _STEPS)
    lines.write("verdict", "state_stays_in_place", ok=engine.state_addresses == before, checkpoint=name)


@torch.inference_mode()
def _refuse_waits(model: SequenceModel, name: str, subject: Subject, lines: Lines) -> None:
    ids, state = placed(np.arange(_STEPS)[:, None], subject.device), model.new_state(1, _STEPS)
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        for token in ids:
            hidden = model.step(token, state, model.step_variant(state.num_tokens))
            state.num_tokens += 1
            model.head(hidden)
    except RuntimeError as error:
        lines.write("verdict", "step_waits_for_nothing", ok=False, checkpoint=name, message=str(error)[:300])
    else:
        lines.write("verdict", "step_waits_for_nothing", ok=True, checkpoint=name)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def engines_for(subject: Subject) -> list[str]:
    """The engines that run architectures of the registry on this kind of device, eager first."""
    usable = [(name, getattr(kind, "devices", None)) for name, kind in ENGINES.usable() if kind.dialect is None]
    return [name for name, devices in usable if devices is None or subject.device in devices]


def _engines_agree(name: str, subject: Subject, lines: Lines) -> None:
    """Logits of each engine after the same prompt and the same steps, against eager ones; twice for equal bits."""
    wanted: torch.Tensor | None = None
    for engine_name in engines_for(subject):
        try:
            first, again = _logits(name, engine_name, subject), _logits(name, engine_name, subject)
        except (TtbenchError, RuntimeError) as error:
            lines.failed("engine", error, checkpoint=name, engine=engine_name)
            continue
        lines.write("verdict", "same_bits_twice", ok=torch.equal(first, again), checkpoint=name, engine=engine_name)
        if wanted is None:
            wanted = first
            continue
        difference = float((first - wanted).abs().max() / wanted.abs().max())
        words = {"checkpoint": name, "engine": engine_name, "largest_difference": difference}
        lines.write("verdict", "as_eager", ok=difference <= _allowed(subject.dtype), **words)
    if engines_for(subject) == ["eager"]:
        lines.write("absent", "engine graph", checkpoint=name, why="this tree has no engine but eager")


def _allowed(dtype: str) -> float:
    """Largest difference between two engines, as a share of the largest logit: rounding of the dtype, with room."""
    return {"bfloat16": 4e-2, "float16": 1e-2, "float32": 1e-3}[dtype]


def _logits(name: str, engine_name: str, subject: Subject) -> torch.Tensor:
    """Logits [N, V] on the host after a prompt and each of N steps."""
    engine = load_engine(name, device=subject.device, dtype=subject.dtype, attention=None, engine=engine_name)
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, engine.vocab_size, size=(1, subject.proof_context))
    steps = rng.integers(0, engine.vocab_size, size=(_STEPS, 1))
    engine.reset(1, subject.proof_context + _STEPS)
    found = [engine.prefill(prompt)]
    found += [engine.decode(ids) for ids in steps]
    engine.synchronize()
    return torch.cat([each.float().cpu() for each in found])
