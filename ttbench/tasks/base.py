"""The interface of a task. Torch-free: ids cross the Engine's border as numpy arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ttbench.types import Cell, Metric, Sample

if TYPE_CHECKING:
    from ttbench.harness.data import Corpus
    from ttbench.harness.engine import Engine
    from ttbench.harness.tokenizer import Tokenizer


@dataclass(kw_only=True)
class Bench:
    """What a task is given: its cell, and the engine, corpus and tokenizer, each opened at first use.

    The engine is opened once per process and shared by the cells of a group; a task that measures loading
    (memory) looks at the clock or the counters before it first touches `engine`.
    """

    cell: Cell
    open_engine: Callable[[], Engine]
    open_corpus: Callable[[], Corpus]
    open_tokenizer: Callable[[], Tokenizer]
    progress: Callable[[int, int], None]  # samples done, samples in all

    @cached_property
    def engine(self) -> Engine:
        return self.open_engine()

    @cached_property
    def corpus(self) -> Corpus:
        return self.open_corpus()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return self.open_tokenizer()


class Task(ABC):
    """One kind of measurement.

    `Params` is a frozen dataclass whose fields are the task's parameters with their defaults: YAML and the command
    line are validated against it. `version` is bumped whenever the numbers of an unchanged cell would move.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    Params: ClassVar[type[Any]]
    metrics: ClassVar[tuple[Metric, ...]]
    isolation: ClassVar[Literal["checkpoint", "cell"]]  # cells of a checkpoint share a process, or one process per cell
    needs_corpus: ClassVar[bool]
    default_ctx: ClassVar[str]  # in the grammar of --ctx
    default_corpus: ClassVar[str] = "code"  # for tasks that need one
    corpus_splits: ClassVar[tuple[str, ...]] = ("test",)  # splits of the corpus that are read
    default_batch_size: ClassVar[int] = 1
    default_checkpoints: ClassVar[tuple[str, ...] | None] = None  # None: the whole zoo

    def num_rounds(self, params: Any) -> int:
        """Fresh processes per point; more than 1 only for isolated tasks."""
        return 1

    def check(self, params: Any) -> None:
        """Raise UsageError when a combination of parameters has no meaning. The default accepts all."""

    def check_corpus(self, corpus: Corpus) -> None:
        """Raise CorpusError or UsageError when no cell could read this corpus; asked once per plan."""
        for split in self.corpus_splits:
            corpus.documents(split)

    def settle(self, params: Any, context_lens: tuple[int, ...]) -> Any:
        """Parameters for a sweep over `context_lens`; called once per plan. The default leaves them as they are."""
        return params

    def tokens(self, params: Any, context_len: int) -> int:
        """Tokens that one cell will push through the model, for the plan's FLOPs; an estimate from above."""
        return context_len

    def sequences(self, params: Any, context_len: int, batch_size: int) -> int:
        """Sequences that a cell holds at once when `batch_size` are asked for, for the plan's bytes of state."""
        return batch_size

    def reach(self, params: Any, context_len: int) -> int:
        """Tokens of the longest sequence that a cell reads; beyond the training context its rows are extrapolated."""
        return context_len

    @abstractmethod
    def measure(self, bench: Bench) -> Iterator[Sample]:
        """Yield the samples of `bench.cell`. Raises CellAnswer to end with a status such as too_long."""
