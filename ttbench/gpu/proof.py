"""The stages that prove before anything is timed: fused kernels against float64, engines against eager steps.

An engine that this tree or this device does not have is told as absent.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import torch

from ttbench.checkpoints.checkpoint import resolve
from ttbench.checkpoints.loading import load_model
from ttbench.engines.eager import EagerEngine
from ttbench.engines.kinds import load_engine
from ttbench.gpu.lines import Lines
from ttbench.gpu.stage import Subject
from ttbench.kernels.dispatch.catalogue import FUSED, absent, load_twin
from ttbench.kernels.dispatch.proof import prove
from ttbench.machine.devices import placed, torch_device
from ttbench.models.base import SequenceModel
from ttbench.registry import ENGINES

_STEPS = 36  # more than two mini-batches of 16, of which the last token writes


def kernels(subject: Subject, lines: Lines) -> None:
    """Hold each fused kernel against float64, as `ttbench kernels verify` does, those of one token first."""
    why = absent()
    if why is None and subject.device != "cuda":
        why = "they run on CUDA; ttbench kernels verify interprets them elsewhere"
    if why is not None:
        lines.write("absent", "fused kernels", why=why)
        return
    device, dtypes = torch_device(subject.device), (torch.bfloat16, torch.float32)
    names = sorted(FUSED, key=lambda name: not name.endswith("_step"))
    cases = [(name, case) for name in names for case in load_twin(name).cases]
    # Published sizes, which models have, before odd ones.
    for name, case in sorted(cases, key=lambda item: not item[1].large):
        for dtype in dtypes:
            if lines.left <= 0:
                lines.write("absent", "fused kernels", name=name, case=case.label, why="no time left")
                return
            try:
                proof = prove(load_twin(name), case, device=device, dtype=dtype)
            # A kernel that does not compile or start raises whatever Triton or the driver does.
            except Exception as error:  # a kernel, its compiler or the driver may raise anything
                lines.failed("kernel", error, name=name, case=case.label, dtype=str(dtype))
            else:
                lines.write("verdict", "kernel", ok=proof.holds, **asdict(proof))


def graphs(subject: Subject, lines: Lines) -> None:
    """Steps wait for nothing on the host, states stay where they are, and every engine gives the same logits."""
    for name in subject.checkpoints:
        if lines.left <= 0:
            return
        try:
            _steps_without_waiting(name, subject, lines)
            _engines_agree(name, subject, lines)
        except Exception as error:  # a kernel, its compiler or the driver may raise anything
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
        # what else is raised, as where memory is short, says nothing of waiting
        if "synchroniz" not in str(error):
            raise
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
        except Exception as error:  # a kernel, its compiler or the driver may raise anything
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
    engine.prepare(prompt_len=subject.proof_context)  # else a graph engine reads prompts eagerly
    found = [engine.prefill(prompt)]
    found += [engine.decode(ids) for ids in steps]
    engine.synchronize()
    return torch.cat([each.float().cpu() for each in found])
