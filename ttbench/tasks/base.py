"""The interface of a task. Torch-free: ids cross the Engine's border as numpy arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from ttbench.declare import ColumnDeclaration, declared_parameters
from ttbench.machine.work import Calls, Texts, Work
from ttbench.tasks.card_scores import CardScore
from ttbench.tasks.view import EvidencePart, RebuiltText, TextSource, rest
from ttbench.types import Cell, Checkpoint, ColumnType, Cost, Figure, Metric, Sample

if TYPE_CHECKING:
    from ttbench.checkpoints.tokenizer import Tokenizer
    from ttbench.corpora.corpus import Corpus
    from ttbench.engines.engine import Engine

# A parameter that counts documents or questions: suites and the command line spell None as `all`.
Limit = Annotated[int | None, {"all": None}]


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
    # What earlier cells of this process left for later ones. It saves time and never changes a number: a cell that
    # finds nothing here measures the same by itself.
    memo: dict[Any, Any] = field(default_factory=dict)

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
    line are validated against it, and `ttbench.declare.parameter` gives each a meaning. `version` is bumped whenever
    the numbers of an unchanged cell would move.

    `columns` declares every key and value of the task's samples, with its meaning, so that all files of its rows have
    one schema; a sample with another name or type fails its cell. A task that declares none has types inferred from
    each file's rows, and a column without a single value has none.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    Params: ClassVar[type[Any]]
    metrics: ClassVar[tuple[Metric, ...]]
    columns: ClassVar[Mapping[str, ColumnDeclaration] | None] = None
    figures: ClassVar[tuple[Figure, ...] | None] = None  # None: a curve for each metric that ranks checkpoints
    isolation: ClassVar[Literal["checkpoint", "cell"]]  # cells of a checkpoint share a process, or one process per cell
    needs_corpus: ClassVar[bool]
    default_ctx: ClassVar[str]  # in the grammar of --ctx
    default_corpus: ClassVar[str] = "code"  # for tasks that need one
    corpus_splits: ClassVar[tuple[str, ...]] = ("test",)  # splits of the corpus that are read
    default_batch_size: ClassVar[int] = 1
    imports: ClassVar[tuple[str, ...]] = ()  # slow modules that a worker imports for it, beside torch
    default_checkpoints: ClassVar[tuple[str, ...] | None] = None  # None: four of the zoo
    any_weights: ClassVar[bool] = False  # whether numbers of weights that nobody trained mean something

    def num_rounds(self, params: Any) -> int:
        """Fresh processes per point; more than 1 only for isolated tasks."""
        return 1

    def check(self, params: Any) -> None:
        """Raise UsageError when a combination of parameters has no meaning. The default accepts all."""

    def corpus_for(self, checkpoints: Sequence[Checkpoint]) -> str:
        """The corpus where none is asked for; one for all checkpoints of a plan, so that they can be compared."""
        return self.default_corpus

    def check_corpus(self, corpus: Corpus) -> None:
        """Raise CorpusError or UsageError when no cell could read this corpus; asked once per plan."""
        for split in self.corpus_splits:
            corpus.documents(split)

    def default_batch_sizes(self, device: str) -> tuple[int, ...]:
        """Sequences of a batch where none are asked for; several are cells of their own."""
        return (self.default_batch_size,)

    def settle(self, params: Any, context_lens: tuple[int, ...]) -> Any:
        """Parameters for a sweep over `context_lens`; called once per plan. The default leaves them as they are."""
        return params

    def tokens(self, params: Any, context_len: int) -> int:
        """Tokens that one cell will push through the model, where its corpus is not known; an estimate from above."""
        return context_len

    def order(self, params: Any, context_lens: tuple[int, ...]) -> tuple[int, ...]:
        """The contexts of a checkpoint in the order they are measured in; by default the shortest comes first."""
        return tuple(sorted(context_lens))

    def shares(self, params: Any) -> bool:
        """Whether a cell takes over what a longer context of the same process has read, so that it reads nothing."""
        return False

    def work(self, params: Any, context_len: int, batch_size: int, *, texts: Texts) -> Work:
        """What one cell does, for the plan's FLOP and seconds; by default as many sequences as its tokens make.

        Args:
            batch_size: sequences that are read at once, as `sequences` tells them.
            texts: sizes of the corpus's documents; empty for a task that reads none.
        """
        reach = self.reach(params, context_len)
        num_sequences = self.tokens(params, context_len) / max(1, reach)
        batch_size = max(1, min(batch_size, round(num_sequences)))
        return Work(calls=(Calls(num=num_sequences / batch_size, num_tokens=reach, batch_size=batch_size),))

    def sequences(self, params: Any, context_len: int, batch_size: int, *, cost: Cost | None) -> int:
        """Sequences that a cell holds at once when `batch_size` are asked for, for the plan's bytes of state.

        Args:
            cost: of the checkpoint; None: it has no formula.
        """
        return batch_size

    def reach(self, params: Any, context_len: int) -> int:
        """Tokens of the longest sequence that a cell reads for a score: never more than `context_len`.

        Targets are among them. Where it is beyond the training context of a checkpoint the rows are extrapolated.
        """
        return context_len

    @classmethod
    def view(cls, evidence: Mapping[str, Any]) -> Iterator[EvidencePart]:
        """The evidence of one sample as `ttbench show RUN CELL --sample N` prints it; by default an entry a line.

        Args:
            evidence: of a sample of this version of the task, as it was kept.
        """
        yield rest(evidence)

    @classmethod
    def rebuild(cls, sample: Sample, source: TextSource) -> RebuiltText | None:
        """The text that a sample is about, where its place or its ids were kept and not the text; by default none.

        Args:
            sample: with the evidence that was kept of it; `source` refuses those of other versions of the task.
            source: the tokenizer and the documents of the cell.
        """
        return None

    @classmethod
    def card(cls, kinds: Sequence[str], *, context_len: int, share: float) -> Iterator[CardScore]:
        """What the card of a checkpoint says of it, trained on rows of these kinds; by default nothing.

        Args:
            kinds: of rows, as recipes name them.
            context_len: of the training, in tokens.
            share: of a recipe that it was trained on, up to 1, and of what it is scored on.
        """
        return iter(())

    @abstractmethod
    def measure(self, bench: Bench) -> Iterator[Sample]:
        """Yield the samples of `bench.cell`. Raises CellAnswer to end with a status such as too_long."""


def declarations(task: type[Task] | Task) -> dict[str, ColumnDeclaration]:
    """A task's columns: its parameters as `param_<name>`, then those of its samples where it declares them."""
    return {**declared_parameters(task.Params), **(task.columns or {})}


def declared_columns(task: type[Task] | Task) -> dict[str, ColumnType]:
    """The types of a task's columns."""
    return {name: declared.kind for name, declared in declarations(task).items()}
