"""Engines without a model: a rule says the next token's distribution from all that was read. numpy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from stored import ok_record

from ttbench.checkpoints.tokenizer import ByteTokenizer, Tokenizer
from ttbench.corpora.corpus import Corpus, Document, make_corpus
from ttbench.store.record import cell_text, require_declared
from ttbench.tasks.base import Bench, Task, declared_columns
from ttbench.types import Cell, Checkpoint, Cost, Sample, Scalar, digest

Rule = Callable[[tuple[int, ...]], np.ndarray]


def uniform(vocab_size: int) -> Rule:
    """Every token alike."""
    return lambda history: np.full(vocab_size, -np.log(vocab_size))


def scattered(vocab_size: int) -> Rule:
    """A distribution that depends on every token read and on their number, like a seeded model's."""

    def log_probs(history: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng(int(digest(np.array(history, np.int32).tobytes()), 16))
        logits = rng.normal(size=vocab_size)
        return logits - np.log(np.exp(logits).sum())

    return log_probs


class StubEngine:
    """An Engine over a rule: the state is the history itself. `calls` and `num_read` say what was asked of it."""

    name = "eager"
    device = "cpu"
    dtype = "float64"
    weight_bytes = 0
    choices: ClassVar[dict[str, str]] = {}

    def __init__(self, rule: Rule, *, vocab_size: int = 257, max_context: int | None = None) -> None:
        self.rule, self.vocab_size, self.max_context = rule, vocab_size, max_context
        self.histories: list[list[int]] = []
        self.max_len = 0
        self.num_read = 0
        self.batch_sizes: list[int] = []
        self.prompts_scored: list[tuple[int, ...]] = []
        self.longest_call = 0
        self.longest_sequence = 0

    def reset(self, batch_size: int, max_len: int) -> None:
        self.histories = [[] for _ in range(batch_size)]
        self.max_len = max_len
        self.batch_sizes.append(batch_size)

    def _read(self, ids: Any) -> np.ndarray:
        rows = np.asarray(ids)
        assert rows.shape[0] == len(self.histories), "ids must have the batch size of reset"
        assert len(self.histories[0]) + rows.shape[1] <= self.max_len, "more tokens than reset made room for"
        self.longest_call = max(self.longest_call, rows.shape[1])
        self.longest_sequence = max(self.longest_sequence, len(self.histories[0]) + rows.shape[1])
        self.num_read += rows.size
        return rows

    def prefill(self, ids: Any) -> Any:
        for history, row in zip(self.histories, self._read(ids), strict=True):
            history.extend(int(index) for index in row)
        return None

    def score(self, ids: Any, targets: Any, lengths: Any = None) -> np.ndarray:
        rows, targets = self._read(ids), np.asarray(targets)
        assert rows.shape == targets.shape
        nats = np.zeros(rows.shape)
        for b, (history, row) in enumerate(zip(self.histories, rows, strict=True)):
            for t, index in enumerate(row):
                history.append(int(index))
                if t == 0:
                    self.prompts_scored.append(tuple(history))
                if targets[b, t] >= 0:
                    nats[b, t] = -self.rule(tuple(history))[targets[b, t]]
        return nats

    def score_top(self, ids: Any, targets: Any, lengths: Any = None) -> tuple[np.ndarray, np.ndarray]:
        before = [list(history) for history in self.histories]
        nats, rows, targets = self.score(ids, targets, lengths), np.asarray(ids), np.asarray(targets)
        top = np.zeros(rows.shape, dtype=bool)
        for b, t in np.ndindex(*rows.shape):
            read = (*before[b], *(int(index) for index in rows[b, : t + 1]))
            top[b, t] = targets[b, t] >= 0 and int(np.argmax(self.rule(read))) == targets[b, t]
        return nats, top

    def generate(self, ids: Any, num_tokens: int) -> np.ndarray:
        self.prefill(ids)
        written = np.zeros((len(self.histories), num_tokens), np.int64)
        for b, history in enumerate(self.histories):
            for t in range(num_tokens):
                written[b, t] = int(np.argmax(self.rule(tuple(history))))
                if t + 1 < num_tokens:
                    history.append(int(written[b, t]))
            assert len(history) <= self.max_len
        return written

    def snapshot(self) -> Any:
        return [list(history) for history in self.histories]

    def restore(self, snapshot: Any) -> None:
        rows = snapshot * len(self.histories) if len(snapshot) == 1 else snapshot
        self.histories = [list(history) for history in rows]


class PairTokenizer:
    """Two bytes per token where it can, without BOS: token lengths differ, and so do tokens and bytes."""

    name = "pairs"
    vocab_size = 256 + 256 * 256
    bos_id: int | None = None
    end_ids: frozenset[int] = frozenset()
    remark: str | None = None
    digest = "pairs"

    def encode(self, text: bytes) -> np.ndarray:
        pairs = [text[i : i + 2] for i in range(0, len(text), 2)]
        return np.array([256 + 256 * p[0] + p[1] if len(p) == 2 else p[0] for p in pairs], dtype=np.int64)

    def decode(self, ids: np.ndarray) -> bytes:
        return b"".join(bytes([i]) if i < 256 else bytes(divmod(int(i) - 256, 256)) for i in ids)

    def byte_lengths(self, ids: np.ndarray) -> np.ndarray:
        return np.where(ids < 256, 1, 2)


def corpus_of(texts: Mapping[str, bytes]) -> Corpus:
    """A corpus with these test documents."""
    return make_corpus("own", {"test": [Document(name=name, text=text) for name, text in texts.items()]}, source="test")


# A state of some bytes a token, and one of the same bytes however long the text is.
GROWING = Cost(flops_per_token=0, flops_per_context_token=0, state_bytes=0, state_bytes_per_token=4)
CONSTANT = Cost(flops_per_token=0, flops_per_context_token=0, state_bytes=4, state_bytes_per_token=0)


def stored(task: Task, samples: list[Sample]) -> list[Sample]:
    """The samples, which a worker would store: each with the columns that the task declares."""
    for sample in samples:
        require_declared(task.name, declared_columns(task), sample)
    return samples


def run_task(
    task: Task,
    /,
    *,
    engine: Any,
    corpus: Corpus,
    context_len: int,
    tokenizer: Tokenizer | None = None,
    seed: int = 0,
    batch_size: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
    memo: dict[Any, Any] | None = None,
    cost: Cost = GROWING,
    **params: Scalar,
) -> list[Sample]:
    """The samples of one cell."""
    tokenizer = tokenizer or ByteTokenizer()
    checkpoint = Checkpoint(
        name="stub",
        path="stub",
        architecture="stub",
        architecture_version=1,
        dialect="stub",
        provenance="local",
        revision=None,
        weights_digest="w",
        config_digest="c",
        tokenizer_digest=tokenizer.digest,
        vocab_size=tokenizer.vocab_size,
        train_ctx=None,
        num_params=0,
        num_params_non_embedding=0,
        weight_bytes=0,
        cost=cost,
    )
    cell = Cell(
        task=task.name,
        task_version=task.version,
        checkpoint=checkpoint,
        context_len=context_len,
        params=dataclasses.asdict(task.Params(**params)),
        corpus=corpus.name,
        corpus_digest=corpus.digest,
        seed=seed,
        dtype="float64",
        device="cpu",
        engine="eager",
        attention="sdpa",
        batch_size=batch_size,
        threads=1,
    )
    bench = Bench(
        cell=cell,
        open_engine=lambda: engine,
        open_corpus=lambda: corpus,
        open_tokenizer=lambda: tokenizer,
        progress=progress,
        memo={} if memo is None else memo,
    )
    samples = list(task.measure(bench))
    # What a worker would refuse to store is refused here too.
    record = ok_record(task, cell, samples, figures=task.figures, columns=declared_columns(task))
    assert cell_text(record).count("\n") == 2 + len(samples)
    return samples
