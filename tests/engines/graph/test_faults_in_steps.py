"""Faults that a GPU would repeat without a word, each found by the lint, by a tape, or by the engine itself."""

from __future__ import annotations

import capture_faults as faults
import pytest
import torch
from torch import Tensor

from ttbench.engines.eager import EagerEngine
from ttbench.engines.graph.graph_engine import GraphEngine
from ttbench.engines.graph.lint import lint_forward, lint_step
from ttbench.engines.graph.tape import Tape
from ttbench.errors import NotFiniteError, UnsupportedError
from ttbench.models.base import SequenceModel

PROMPT, STEPS = 3, 11


def ids() -> Tensor:
    return torch.randint(faults.VOCAB, (2, PROMPT + STEPS), generator=torch.Generator().manual_seed(1))


def read(engine: EagerEngine, *, prepared: bool = True) -> Tensor:
    """Logits as the engine returned them, stacked only after the last step."""
    engine.reset(2, PROMPT + STEPS)
    if prepared:
        engine.prepare(prompt_len=PROMPT, num_steps=STEPS)
    logits = [engine.prefill(ids()[:, :PROMPT]), *(engine.decode(row) for row in ids()[:, PROMPT:].T)]
    return torch.stack(logits)


def eager(model: SequenceModel) -> EagerEngine:
    return EagerEngine(model, device="cpu", dtype="float64")


def taped(model: SequenceModel, kind: type[GraphEngine] = GraphEngine) -> GraphEngine:
    return kind(model, device="cpu", dtype="float64", recorder=Tape())


def test_the_sound_model_passes_everything() -> None:
    assert lint_step(faults.Sum()) == []
    assert lint_forward(faults.Sum(), 8) == []
    assert torch.equal(read(taped(faults.Sum())), read(eager(faults.Sum())))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (faults.HostPosition, "step, variant 0: after 0 and 598 tokens aten::mul.Tensor differs"),
        (faults.GrowingShape, "tokens aten::select.int differs"),
        (faults.HiddenItem, " add: aten::_local_scalar_dense hands a value of the device"),
        (faults.MaskedStore, "with a mask makes a tensor whose shape depends on values"),
        (faults.MaskedStore, "state.total[state.total > 100] is written under a mask"),
        (faults.HostConstant, "torch.tensor on a device copies from the host"),
        (faults.CopyToHost, "copies between host and device"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_the_lint_names_the_fault_of_a_step(model: type[SequenceModel], words: str) -> None:
    found = lint_step(model.tiny())
    assert any(words in finding for finding in found), found


def test_the_lint_names_the_fault_of_a_forward() -> None:
    found = lint_forward(faults.FrozenForward(), 5)
    assert found is not None
    assert any("prefill, variant 0: after 0 and" in finding for finding in found), found


@pytest.mark.parametrize("model", [faults.HostPosition, faults.GrowingShape], ids=lambda model: model.__name__)
def test_a_tape_repeats_what_was_frozen(model: type[SequenceModel]) -> None:
    found, expected = read(taped(model.tiny())), read(eager(model.tiny()))
    assert not torch.equal(found, expected)


def test_a_tape_repeats_the_offset_of_a_frozen_forward() -> None:
    engine, plain = taped(faults.FrozenForward()), eager(faults.FrozenForward())
    logits = []
    for each in (engine, plain):
        each.reset(2, 9)
        each.prepare(prompt_len=3)
        each.prefill(ids()[:, :3])
        logits.append(each.prefill(ids()[:, 3:6]))
    assert not torch.equal(*logits)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (faults.StateAnew, "StateAnew puts its state or a weight elsewhere in a step"),
        (faults.HiddenItem, "HiddenItem cannot be captured in a graph: aten::item hands a value"),
        (faults.MaskedStore, "MaskedStore cannot be captured in a graph: aten::index_put_ with a mask"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_the_engine_refuses_what_it_cannot_replay(model: type[SequenceModel], words: str) -> None:
    engine = taped(model.tiny())
    engine.reset(2, 4)
    with pytest.raises(UnsupportedError, match=words):
        engine.prepare(num_steps=1)


def test_a_kernel_that_skips_its_tail_reads_the_poison_of_the_pool() -> None:
    with pytest.raises(NotFiniteError):
        read(taped(faults.SkippedTail()))


def test_what_was_made_in_a_capture_is_of_no_use_outside() -> None:
    engine = taped(faults.TableInPool())
    engine.reset(2, 20)
    # three warm-ups and the capture, which makes the table
    engine.prepare(num_steps=1)
    with pytest.raises(NotFiniteError):
        engine.prefill(ids()[:, :1])


@pytest.mark.parametrize("kind", [faults.WrongVariant, faults.AliasedLogits], ids=lambda kind: kind.__name__)
def test_a_tape_finds_an_engine_that_replays_wrongly(kind: type[GraphEngine]) -> None:
    assert not torch.equal(read(taped(faults.Sum(), kind)), read(eager(faults.Sum())))


def test_a_tape_finds_graphs_of_a_state_that_is_gone() -> None:
    found = []
    for kind in (GraphEngine, faults.StaleGraphs):
        engine = taped(faults.Sum(), kind)
        read(engine)
        # more room: another allocation
        engine.reset(2, 50)
        found.append(torch.stack([engine.decode(row) for row in ids().T]))
    plain = eager(faults.Sum())
    plain.reset(2, 50)
    expected = torch.stack([plain.decode(row) for row in ids().T])
    assert torch.equal(found[0], expected)
    assert not torch.equal(found[1], expected)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.zeros(3, dtype=torch.int64), r"ids of shape torch.Size\(\[2\]\); got torch.Size\(\[3\]\)"),
        (torch.zeros(2, dtype=torch.int32), "ids of dtype torch.int64; got torch.int32"),
        (torch.zeros(2, dtype=torch.int64, device="meta"), "ids of device cpu; got meta"),
    ],
)
def test_a_graph_refuses_inputs_that_it_was_not_captured_for(given: Tensor, words: str) -> None:
    engine = taped(faults.Sum())
    engine.reset(2, 8)
    engine.prepare(num_steps=1)
    with torch.inference_mode(), pytest.raises(ValueError, match=words):
        engine._step(0)(given)
