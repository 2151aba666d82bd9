"""The graph engine's logic, whole, on a CPU: a tape stands in for CUDA graphs. Every architecture, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import capture_faults
import numpy as np
import pytest
import torch
from torch import Tensor

from ttbench.engines import eager
from ttbench.engines.eager import EagerEngine
from ttbench.engines.graph.graph_engine import GraphEngine
from ttbench.engines.graph.recording import Graph
from ttbench.engines.graph.tape import Tape
from ttbench.errors import UnsupportedError, UsageError
from ttbench.kernels.dispatch.running import watching
from ttbench.models.base import SequenceModel
from ttbench.models.transformer import Transformer
from ttbench.registry import ARCHITECTURES

VOCAB = 257
# Past the first bucket of keys, and over three ends of mini-batches of 16, at odd places.
PROMPT, STEPS = 250, 48
# Chunks are read in pieces of 32 tokens in these tests: what may be replayed of 5 pieces and 7 tokens, by hand. The
# rings of 12 places are not full before the second piece; of attention to everything, nothing may.
CHUNK, PIECES = 32, 5
REPLAYED = {
    **dict.fromkeys(("mamba", "mamba2", "s4d", "reformer"), (PIECES + 1, 2)),
    **dict.fromkeys(("ttt-linear", "ttt-mlp", "titans-lmm", "titans-mac"), (PIECES, 1)),
    **dict.fromkeys(("titans-mag", "titans-mal"), (PIECES - 1, 1)),
    **dict.fromkeys(("transformer", "hybrid", "performer", "skyformer"), (0, 0)),
}  # architecture -> chunks that are replayed, graphs that are captured for them


class Watched(Tape):
    """A tape that tells what was asked of it, and refuses a capture that nothing warmed up."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []

    def warm_up(self, call: Callable[[], None], *, times: int) -> None:
        assert times > 0
        self.log.append("warm up")
        super().warm_up(call, times=times)

    def capture(self, call: Callable[[], None]) -> Graph:
        assert self.log[-1] == "warm up"
        self.log.append("capture")
        graph, log = super().capture(call), self.log

        class Told:
            def replay(self) -> None:
                log.append("replay")
                graph.replay()

        return Told()


def model_of(name: str) -> SequenceModel:
    """tiny() with every parameter moved from its start, in float32, as it is run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ARCHITECTURES.load(name).tiny().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def both(model: SequenceModel) -> tuple[GraphEngine, EagerEngine, Watched]:
    tape = Watched()
    graph = GraphEngine(model, device="cpu", dtype="float32", recorder=tape)
    return graph, EagerEngine(model, device="cpu", dtype="float32"), tape


def random_ids(*shape: int) -> Tensor:
    return torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(len(shape)))


def decoded(engine: EagerEngine, ids: Tensor) -> Tensor:
    """Logits as returned, stacked after the last step."""
    return torch.stack([engine.decode(row) for row in ids.T])


@pytest.fixture(params=sorted(ARCHITECTURES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_steps_are_those_of_the_eager_engine_bit_for_bit(name: str) -> None:
    graph, plain, tape = both(model_of(name))
    ids = random_ids(2, PROMPT + STEPS)
    found = []
    for engine in (graph, plain):
        engine.reset(2, PROMPT + STEPS)
        engine.prefill(ids[:, :PROMPT])
        engine.prepare(num_steps=STEPS)
        tape.log.clear()
        found.append(decoded(engine, ids[:, PROMPT:]))
    assert torch.equal(*found)
    assert torch.isfinite(found[0]).all()
    # every variant was captured before the first step
    variants = {graph.model.step_variant(n) for n in range(PROMPT, PROMPT + STEPS)}
    assert graph.num_graphs == len(variants)
    assert len(variants) == (1 if name in ("mamba", "mamba2", "s4d", "reformer", "performer") else 2)
    assert graph.num_tokens == plain.num_tokens == PROMPT + STEPS


def test_nothing_is_captured_between_prepared_steps() -> None:
    graph, _, tape = both(model_of("ttt-linear"))
    graph.reset(1, 40)
    graph.prepare(num_steps=40)
    assert tape.log == ["warm up", "capture"] * 2
    tape.log.clear()
    decoded(graph, random_ids(1, 40))
    assert tape.log == ["replay"] * 40


def test_a_step_that_nobody_prepared_is_captured_when_it_comes() -> None:
    graph, plain, tape = both(model_of("ttt-linear"))
    found = []
    for engine in (graph, plain):
        engine.reset(1, 20)
        found.append(decoded(engine, random_ids(1, 20)))
    assert torch.equal(*found)
    # the last of a mini-batch of 16 needs a graph of its own
    first = ["warm up", "capture", "replay"]
    assert tape.log == [*first, *["replay"] * 14, *first, *["replay"] * 4]


def test_chunks_are_those_of_the_eager_engine_bit_for_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "CHUNK_LEN", CHUNK)
    graph, plain, tape = both(model_of(name))
    num_tokens = PIECES * CHUNK + 7
    ids, found = random_ids(2, num_tokens + 3), []
    with watching() as ran:
        for engine in (graph, plain):
            engine.reset(2, num_tokens + 3)
            engine.prepare(prompt_len=num_tokens)
            found.append(torch.stack([engine.prefill(ids[:, :num_tokens]), *decoded(engine, ids[:, num_tokens:])]))
    assert torch.equal(*found)
    num_replayed, num_captured = REPLAYED[name]
    steps = [(num_tokens + n) for n in range(3)]
    num_step_graphs = len({graph.model.step_variant(n) for n in steps})
    assert graph.num_graphs == num_captured + num_step_graphs
    assert tape.log.count("replay") == num_replayed + 3
    ways = [way for way, num in (("eager", PIECES + 1 - num_replayed), ("tape", num_replayed)) if num]
    assert sorted(ran["prefill"].split(" + ")) == ways
    assert ran["decode"] == "tape"


def test_what_a_replay_runs_is_noted_as_if_it_ran_anew() -> None:
    graph, plain, _ = both(model_of("ttt-linear"))
    graph.reset(1, 8)
    graph.prepare(num_steps=8)
    noted = []
    for engine in (graph, plain):
        with watching() as ran:
            engine.reset(1, 8)
            decoded(engine, random_ids(1, 8))
        noted.append(dict(ran))
    assert noted[0] == {**noted[1], "decode": "tape"}
    assert noted[1]


def test_a_prompt_that_nobody_prepared_is_read_eagerly() -> None:
    graph, _, tape = both(model_of("mamba"))
    graph.reset(1, 40)
    graph.prefill(random_ids(1, 40))
    assert tape.log == []


def test_capturing_leaves_the_state_as_it_was(name: str) -> None:
    graph, _, _ = both(model_of(name))
    graph.reset(2, 64)
    graph.prefill(random_ids(2, 21))
    before = graph.snapshot()
    graph.prepare(prompt_len=32, num_steps=11)
    after = graph.snapshot()
    assert before.num_tokens == after.num_tokens == 21
    assert all(torch.equal(before.tensors[key], after.tensors[key]) for key in before.tensors)


def test_addresses_and_graphs_outlast_reset_and_restore(name: str) -> None:
    graph, plain, tape = both(model_of(name))
    ids = random_ids(2, 40)
    graph.reset(2, 40)
    addresses = graph.state_addresses
    first = decoded(graph, ids)
    graph.reset(2, 40)
    graph.prefill(ids[:, :23])
    saved = graph.snapshot()
    decoded(graph, ids[:, 23:])
    graph.restore(saved)
    tape.log.clear()
    again = decoded(graph, ids[:, 23:])
    assert graph.state_addresses == addresses
    assert set(tape.log) == {"replay"}
    plain.reset(2, 40)
    plain.prefill(ids[:, :23])
    assert torch.equal(again, decoded(plain, ids[:, 23:]))
    graph.reset(2, 30)
    assert torch.equal(decoded(graph, ids[:, :30]), first[:30])


def test_another_allocation_means_new_graphs() -> None:
    graph, plain, tape = both(model_of("ttt-linear"))
    for shape in ((2, 20), (2, 60), (3, 20), (2, 20)):
        found = []
        tape.log.clear()
        for engine in (graph, plain):
            engine.reset(*shape)
            found.append(decoded(engine, random_ids(*shape)))
        assert torch.equal(*found)
        assert tape.log.count("capture") == 2


def test_a_weight_that_is_replaced_means_new_graphs_and_one_written_in_place_does_not() -> None:
    graph, plain, tape = both(model_of("ttt-linear"))
    ids = random_ids(1, 10)
    graph.reset(1, 10)
    decoded(graph, ids)
    head = graph.model.lm_head.weight
    for change, captures in ((lambda: head.mul_(2), 0), (lambda: setattr(head, "data", head.data * 2), 1)):
        with torch.no_grad():
            change()
        tape.log.clear()
        found = []
        for engine in (graph, plain):
            engine.reset(1, 10)
            found.append(decoded(engine, ids))
        assert torch.equal(*found)
        assert tape.log.count("capture") == captures


def test_logits_that_were_returned_stay_as_they_are() -> None:
    graph, _, _ = both(model_of("mamba"))
    graph.reset(1, 6)
    ids = random_ids(1, 6)
    first = graph.decode(ids[:, 0])
    kept = first.clone()
    decoded(graph, ids[:, 1:])
    assert torch.equal(first, kept)


def test_writing_and_scoring_are_those_of_the_eager_engine(name: str) -> None:
    graph, plain, _ = both(model_of(name))
    ids, written, nats = random_ids(2, 19), [], []
    for engine in (graph, plain):
        engine.reset(2, 40)
        written.append(engine.generate(ids, 20))
        engine.reset(2, 40)
        nats.append(engine.score(ids[:, :-1], ids[:, 1:]))
    assert np.array_equal(*written)
    assert np.array_equal(*nats)


def test_ids_are_checked_and_the_room_too() -> None:
    graph, _, _ = both(model_of("mamba"))
    graph.reset(2, 4)
    for call in (
        lambda: graph.decode(torch.tensor([1, VOCAB])),
        lambda: graph.decode(torch.tensor([1])),
        lambda: graph.prepare(num_steps=5),
        lambda: graph.prepare(prompt_len=2, num_steps=3),
    ):
        with pytest.raises(UsageError):
            call()
    assert graph.num_tokens == 0


def test_the_last_step_that_there_is_room_for_is_captured_within_it() -> None:
    # a warm-up that went on from the one before would write beyond the keys
    graph, plain, _ = both(model_of("transformer"))
    ids, found = random_ids(1, 4), []
    for engine in (graph, plain):
        engine.reset(1, 4)
        engine.prefill(ids[:, :3])
        found.append(engine.decode(ids[:, 3]))
    assert torch.equal(*found)


def test_forgetting_lets_graphs_go() -> None:
    graph, _, _ = both(model_of("mamba"))
    graph.reset(1, 4)
    graph.prepare(num_steps=1)
    assert graph.num_graphs == 1
    assert graph.pool_bytes > 0
    graph.forget()
    assert graph.num_graphs == 0


def test_attention_without_a_mask_is_refused_by_name() -> None:
    model = Transformer.tiny()
    model.use_attention("flash")
    with pytest.raises(UnsupportedError, match=r"attention flash takes no mask.*use --attention sdpa"):
        GraphEngine(model, device="cpu", dtype="float32", recorder=Tape())


def test_a_processor_has_no_graphs() -> None:
    with pytest.raises(UsageError, match="engine graph replays CUDA graphs and cannot run on cpu"):
        GraphEngine(capture_faults.Sum(), device="cpu", dtype="float32")


def test_memory_that_runs_out_in_a_capture_stays_what_it_is() -> None:
    class Full(Tape):
        def capture(self, call: Callable[[], None]) -> Graph:
            raise torch.OutOfMemoryError("CUDA out of memory")

    engine = GraphEngine(capture_faults.Sum(), device="cpu", dtype="float32", recorder=Full())
    engine.reset(1, 4)
    with pytest.raises(torch.OutOfMemoryError):
        engine.prepare(num_steps=1)
