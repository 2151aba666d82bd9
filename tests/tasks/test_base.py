"""What tasks share: columns by type, what a bench opens and keeps, and the defaults of the interface."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest

from ttbench.machine.work import Calls, Texts
from ttbench.tasks.base import Bench, Task, columns, declared_columns
from ttbench.types import ColumnType


@dataclass(frozen=True, kw_only=True)
class Params:
    text: str = ""
    choice: Literal["a", "b"] | None = None
    whole: int | None = None
    real: float = 0.0
    either: int | float = 0
    truth: bool = False
    names: tuple[str, ...] | int = ()


class Read(Task):
    name = "read"
    Params: ClassVar[type[Any]] = Params
    columns = columns(text="a b", whole="c", real="d", truth="e")

    def tokens(self, params: Any, context_len: int) -> int:
        return 10 * context_len

    def measure(self, bench: Bench) -> Any:
        return iter(())


def test_a_column_has_the_type_of_its_parameter_and_none_where_there_are_several() -> None:
    expected: dict[str, ColumnType] = {
        "param_text": "text",
        "param_choice": "text",
        "param_whole": "whole",
        "param_real": "real",
        "param_either": "real",
        "param_truth": "truth",
    }
    samples: dict[str, ColumnType] = {"a": "text", "b": "text", "c": "whole", "d": "real", "e": "truth"}
    assert declared_columns(Read) == declared_columns(Read()) == {**expected, **samples}


def test_a_bench_opens_each_thing_once_and_its_memo_is_its_own() -> None:
    opened: list[str] = []

    def opening(what: str) -> Any:
        return lambda: opened.append(what) or what

    def bench() -> Bench:
        given: dict[str, Any] = {f"open_{what}": opening(what) for what in ("engine", "corpus", "tokenizer")}
        return Bench(cell=SimpleNamespace(), progress=lambda done, total: None, **given)  # pyright: ignore[reportArgumentType]

    one, other = bench(), bench()
    for _ in range(2):
        assert (one.tokenizer, one.engine, one.corpus) == ("tokenizer", "engine", "corpus")
    assert opened == ["tokenizer", "engine", "corpus"]
    one.memo["read"] = 1
    assert other.memo == {}


def test_a_corpus_is_asked_for_every_split_that_the_task_reads() -> None:
    asked: list[str] = []
    corpus: Any = SimpleNamespace(documents=asked.append)
    task = Read()
    task.check_corpus(corpus)
    assert asked == ["test"]
    task.__class__ = type("Both", (Read,), {"corpus_splits": ("train", "valid")})
    task.check_corpus(corpus)
    assert asked == ["test", "train", "valid"]


@pytest.mark.parametrize(("batch_size", "expected"), [(1, 1), (4, 4), (64, 10)])
def test_by_default_a_cell_reads_as_many_sequences_as_its_tokens_make(batch_size: int, expected: int) -> None:
    work = Read().work(Params(), 100, batch_size, texts=Texts())
    assert work.calls == (Calls(num=10 / expected, num_tokens=100, batch_size=expected),)


def test_by_default_contexts_go_from_short_to_long_in_one_process_and_share_nothing() -> None:
    task, params = Read(), Params()
    assert task.order(params, (512, 128, 256)) == (128, 256, 512)
    assert task.num_rounds(params) == 1
    assert task.shares(params) is False
    assert task.settle(params, (1,)) is params
    assert task.reach(params, 100) == 100
    assert task.sequences(params, 100, 3, cost=None) == 3
