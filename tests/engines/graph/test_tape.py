"""A tape alone: what it repeats, what it leaves alone, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ttbench.engines.graph.recording import NotCapturable
from ttbench.engines.graph.tape import Tape


@pytest.fixture(autouse=True)
def _as_an_engine_runs() -> Iterator[None]:
    with torch.inference_mode():
        yield


def test_recording_changes_nothing_and_a_replay_repeats_it() -> None:
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])

    def call() -> None:
        x.mul_(2)
        y[:1].add_(x[:1])

    graph = Tape().capture(call)
    assert x.tolist() == [1.0, 2.0]
    assert y.tolist() == [10.0, 20.0]
    graph.replay()
    graph.replay()
    assert x.tolist() == [4.0, 8.0]
    assert y.tolist() == [16.0, 20.0]


def test_a_replay_reads_what_stands_in_the_inputs_then() -> None:
    x, out = torch.zeros(3), torch.zeros(3)
    graph = Tape().capture(lambda: copied(out, (x + 1) @ torch.eye(3) * 2))
    x.copy_(torch.tensor([1.0, 2.0, 3.0]))
    graph.replay()
    assert out.tolist() == [4.0, 6.0, 8.0]


def copied(into: Tensor, values: Tensor) -> None:
    into.copy_(values)


def test_numbers_of_python_are_those_of_the_recording() -> None:
    out, number = torch.zeros(1), [1.0]
    graph = Tape().capture(lambda: copied(out, out + number[0]))
    number[0] = 100.0
    graph.replay()
    assert out.tolist() == [1.0]


def test_views_products_into_given_memory_and_several_results_are_repeated() -> None:
    x, out = torch.arange(12.0).view(3, 4), torch.zeros(3, 4)

    def call() -> None:
        made = torch.empty(3, 4)
        torch.mul(x, 2, out=made[:])
        parts = made.split(2, dim=1)
        values, _ = torch.cat((parts[1], parts[0]), 1).max(0, keepdim=True)
        out.copy_(made - values)

    expected = torch.zeros(3, 4)
    graph = Tape().capture(call)
    x.add_(1)
    graph.replay()
    twice = 2 * x
    expected = twice - torch.cat((twice[:, 2:], twice[:, :2]), 1).max(0, keepdim=True).values
    assert torch.equal(out, expected)


def test_the_pool_is_poisoned_after_a_capture_and_before_every_replay() -> None:
    kept: list[Tensor] = []
    x = torch.ones(2)
    tape = Tape()
    graph = tape.capture(lambda: kept.append(x * 3))
    assert kept[0].isnan().all()
    graph.replay()
    assert kept[0].tolist() == [3.0, 3.0]
    other = tape.capture(lambda: kept.append(x + kept[0]))
    other.replay()
    # made by the first graph, which has not run again
    assert kept[1].isnan().all()
    assert tape.pool_bytes == 16


def test_memory_that_a_call_only_takes_stays_poisoned() -> None:
    out = torch.zeros(4)

    def call() -> None:
        made = torch.ops.aten.empty.memory_format([4])
        made[:3] = 1.0
        out.copy_(made)

    graph = Tape().capture(call)
    graph.replay()
    assert out[:3].tolist() == [1.0] * 3
    assert out[3:].isnan().all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: x.sum().item(), "hands a value"),
        (lambda x: bool(x.sum()), "hands a value"),
        (lambda x: int(x.sum()), "hands a value"),
        (lambda x: x.nonzero(), "shape depends on values"),
        (lambda x: x[x > 0], "with a mask"),
        (lambda x: x.unique(), "shape depends on values"),
        (lambda x: x.masked_select(x > 0), "shape depends on values"),
        (lambda x: x.index_put_((x > 0,), torch.zeros(())), "with a mask"),
        (lambda x: torch.arange(2).repeat_interleave(x.long()), "without output_size"),
        (lambda x: torch.equal(x, x), "hands a value"),
    ],
)
def test_what_a_graph_cannot_hold_is_refused(call: object, words: str) -> None:
    x = torch.tensor([1.0, 2.0])
    with pytest.raises(NotCapturable, match=words):
        Tape().capture(lambda: call(x))  # type: ignore[operator]
