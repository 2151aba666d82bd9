"""Probe: what a linear classifier can read out of the frozen states of a checkpoint.

Measured: the share of test sequences whose class a logistic regression gets right (`logistic.py`), fitted on
the train split, from one vector a sequence: the states that the output head reads, averaged over the sequence's tokens
(`pool: mean`), or that of its last token (`last`). Every sequence is read alone, behind BOS. No weight of the
checkpoint is changed, and nothing is chosen on test sequences.

    BOS G A T T A C A ...      ->  states  ->  mean  ->  logistic regression  ->  promoter | not

The corpus is one of labelled documents: their names begin with the class, `CLASS/NAME`. `genomic-benchmarks:NAME` is
GenomicsBenchmarks in its own folder layout, and `text:FOLDER` any folder with train/CLASS/FILE and test/CLASS/FILE.
Sequences longer than the context are read up to it; `cut_tokens` says how much was left out.

Beneath the checkpoints stand `chance`, the share of test sequences in the class that is the largest in training, and a
logistic regression on counts of words of four letters: what the sequence says without any model.

Statistic: rows are test sequences; intervals are Wilson's, equal texts count as one. Not measured: what a fine-tuned
model would score. Published numbers on these data sets (Titans, table 4, after HyenaDNA) are of models that were
trained on with all their weights, so no number of this task may stand beside them: every row says so. Traps: wide
states score higher for their width alone; a limit takes sequences at random, the same for every checkpoint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int

from ttbench.corpora.corpus import Corpus, Document
from ttbench.declare import ColumnDeclaration, parameter, real, text, truth, whole
from ttbench.errors import CorpusError, UnknownNameError, UsageError
from ttbench.machine.work import Calls, Texts, Work
from ttbench.tasks.base import Bench, Limit, Task
from ttbench.tasks.draw import shuffled
from ttbench.tasks.ends import ENDS_BYTES, readable
from ttbench.tasks.probe.logistic import fit
from ttbench.tasks.windows import originals
from ttbench.types import Cost, Metric, Sample

POOLS = ("mean", "last")
WORD = 4  # letters of the words that are counted
MAX_BATCH_TOKENS = 16_384
# For plans only.
TYPICAL_SEQUENCES, TYPICAL_LEN = 10_000, 512
NOT_COMPARABLE = "a linear probe on frozen states; published numbers are of models fine-tuned on the data set"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeParams:
    """Parameters of the probe task."""

    pool: Literal["mean", "last"] = parameter("mean", "which states are read: their mean, or that of the last token")
    limit: Limit = parameter(None, "sequences of each split at most, in seeded order; None: all", "sequences")


def _share(name: str, label: str, numerator: str, *, ours: bool = False) -> Metric:
    return Metric(
        name=name,
        label=label,
        unit="share",
        better="higher" if ours else "neither",
        statistic="proportion",
        numerator=numerator,
        denominator="num_sequences",
        counts="sequence",
        cluster="sequence",
    )


class Probe(Task):
    """Right answers of a linear probe."""

    name: ClassVar[str] = "probe"
    version: ClassVar[int] = 2
    Params: ClassVar[type[Any]] = ProbeParams
    columns: ClassVar[Mapping[str, ColumnDeclaration] | None] = {
        "sequence": text("test sequence; the first of those with the same text"),
        "label": text("its true class"),
        "not_comparable_because": text("why the row may not stand beside published numbers"),
        "num_classes": whole("classes of the corpus", "classes"),
        "num_train": whole("sequences that the classifier was fitted on", "sequences"),
        "num_sequences": whole("sequences of the row: 1", "sequences"),
        "hits": whole("1 where the probe names the true class", "sequences"),
        "counts_hits": whole("1 where a classifier of counts of four-letter words does", "sequences"),
        "num_tokens": whole("tokens of the sequence that were read", "tokens"),
        "cut_tokens": whole("tokens of the sequence beyond the context, which were not", "tokens"),
        "in_train": whole("1 where the same text is in the train split", "sequences"),
        "chance_hits": real("1 where the class that is the largest in training is the true one", "sequences"),
        "penalty": real("regularisation of the classifier, chosen on the train split"),
        "nats": real("negative log-likelihood of the true class", "nats"),
        "comparable_to_published": truth("whether the row may stand beside published numbers"),
    }
    isolation: ClassVar[Literal["checkpoint", "cell"]] = "checkpoint"
    needs_corpus: ClassVar[bool] = True
    corpus_splits: ClassVar[tuple[str, ...]] = ("train", "test")
    default_ctx: ClassVar[str] = "1k"
    default_corpus: ClassVar[str] = "genomic-benchmarks:human_nontata_promoters"
    default_batch_size: ClassVar[int] = 32
    metrics: ClassVar[tuple[Metric, ...]] = (
        _share("accuracy", "sequences classified rightly", "hits", ours=True),
        _share("chance", "chance: the largest class", "chance_hits"),
        _share("counts_accuracy", f"from counts of words of {WORD}", "counts_hits"),
    )

    def check(self, params: ProbeParams) -> None:
        """Raise UsageError on an unknown pool or a limit that is not positive."""
        if params.pool not in POOLS:
            raise UnknownNameError("pool", params.pool, known=POOLS)
        if params.limit is not None and params.limit < 1:
            raise UsageError(f"probe parameter limit is {params.limit}; it must be at least 1")

    def check_corpus(self, corpus: Corpus) -> None:
        _classes(corpus.name, corpus.documents("train"), corpus.documents("test"))

    def tokens(self, params: ProbeParams, context_len: int) -> int:
        return 2 * (params.limit or TYPICAL_SEQUENCES) * self.reach(params, context_len)

    def work(self, params: ProbeParams, context_len: int, batch_size: int, *, texts: Texts) -> Work:
        """Sequences of both splits, each read once; sequences of one length go together."""
        calls = []
        for split in self.corpus_splits:
            sizes = texts.sizes.get(split, ())
            num = min(len(sizes), params.limit or len(sizes))
            if not num:
                return super().work(params, context_len, batch_size, texts=texts)
            length = min(context_len, sum(sizes) / len(sizes) / texts.token_bytes)
            # Lengths of real sequences seldom agree, unless all of them do.
            at_once = max(1, min(batch_size, num // len(set(sizes))))
            calls.append(Calls(num=num / at_once, num_tokens=length, batch_size=at_once))
        return Work(calls=tuple(calls))

    def sequences(self, params: ProbeParams, context_len: int, batch_size: int, *, cost: Cost | None) -> int:
        return max(1, min(batch_size, MAX_BATCH_TOKENS // self.reach(params, context_len)))

    def reach(self, params: ProbeParams, context_len: int) -> int:
        """A typical sequence; `num_tokens` of each row is the truth."""
        return min(context_len, TYPICAL_LEN)

    def measure(self, bench: Bench) -> Iterator[Sample]:
        """Yield one sample per test sequence.

        Raises:
            CorpusError: documents without classes, fewer than two classes, or a class that train or test lacks.
            UnsupportedError: the engine does not show states.
        """
        params: ProbeParams = self.Params(**bench.cell.params)
        self.check(params)
        train, test = (_draw(bench, split, params.limit) for split in ("train", "test"))
        classes = _classes(bench.corpus.name, train, test)
        labels = np.array([classes.index(class_of(document)) for document in train])
        total = len(train) + len(test)
        known = _states(bench, train, params, done=0, total=total)
        asked = _states(bench, test, params, done=len(train), total=total)
        ours = fit(known, labels, num_classes=len(classes), seed=bench.cell.seed)
        counts = fit(count_words(train), labels, num_classes=len(classes), seed=bench.cell.seed)
        logs, guesses = ours.log_shares(asked), counts.log_shares(count_words(test)).argmax(axis=1)
        largest = int(np.bincount(labels, minlength=len(classes)).argmax())
        names, texts = originals(test), {document.text for document in train}
        for place, document in enumerate(test):
            label = classes.index(class_of(document))
            num_tokens = len(bench.tokenizer.encode(document.text))
            yield Sample(
                keys={
                    "sequence": names[document.name],
                    "label": classes[label],
                    "num_classes": len(classes),
                    "num_train": len(train),
                    "penalty": ours.penalty,
                    "comparable_to_published": False,
                    "not_comparable_because": NOT_COMPARABLE,
                },
                values={
                    "num_sequences": 1,
                    "hits": int(logs[place].argmax() == label),
                    "chance_hits": int(label == largest),
                    "counts_hits": int(guesses[place] == label),
                    "nats": -float(logs[place, label]),
                    "num_tokens": min(num_tokens, bench.cell.context_len),
                    "cut_tokens": max(0, num_tokens - bench.cell.context_len),
                    "in_train": int(document.text in texts),
                },
                # not among the keys: two checkpoints are compared on sequences, whatever they answer
                evidence={
                    "prompt_start": readable(document.text[:ENDS_BYTES]),
                    "prompt_end": readable(document.text[-ENDS_BYTES:]),
                    "answer": classes[int(logs[place].argmax())],
                    "class_nats": {name: round(-float(log), 5) for name, log in zip(classes, logs[place], strict=True)},
                },
            )


def class_of(document: Document) -> str:
    """The class that a document's name begins with. Raises CorpusError when it has none."""
    label, slash, _ = document.name.partition("/")
    if not slash:
        raise CorpusError(
            f"document '{document.name}' has no class; the task probe reads corpora of documents named CLASS/NAME: "
            "genomic-benchmarks:NAME, or text:FOLDER with train/CLASS/FILE and test/CLASS/FILE"
        )
    return label


def count_words(documents: Sequence[Document]) -> Float[np.ndarray, "N D"]:
    """Shares of the 256 words of four among A, C, G, T; words with any other letter count nowhere."""
    codes = np.full(256, -1)
    codes[list(b"ACGT")] = np.arange(4)
    counts = np.zeros((len(documents), 4**WORD))
    for row, document in enumerate(documents):
        digits = codes[np.frombuffer(document.text, dtype=np.uint8)]
        if len(digits) < WORD:
            continue
        runs = np.lib.stride_tricks.sliding_window_view(digits, WORD)
        runs = runs[(runs >= 0).all(axis=1)] @ 4 ** np.arange(WORD)[::-1]
        counts[row] = np.bincount(runs, minlength=4**WORD) / max(1, len(runs))
    return counts


def _draw(bench: Bench, split: str, limit: int | None) -> list[Document]:
    by_name = {document.name: document for document in bench.corpus.documents(split)}
    return [by_name[name] for name in shuffled(by_name, bench.cell.seed, "probe", split)[:limit]]


def _classes(corpus: str, train: Sequence[Document], test: Sequence[Document]) -> list[str]:
    known, asked = (Counter(map(class_of, documents)) for documents in (train, test))
    short = [name for name in known | asked if known[name] < 2 or not asked[name]]
    if len(known) < 2 or short:
        listing = ", ".join(f"{name} {known[name]}/{asked[name]}" for name in sorted(known | asked))
        raise CorpusError(
            f"corpus '{corpus}' has these classes (train/test sequences): {listing}; a probe needs two classes at "
            "least, each with two sequences to train on and one to test on; raise --limit, or look at the folder"
        )
    return sorted(known)


def _states(
    bench: Bench, documents: Sequence[Document], params: ProbeParams, *, done: int, total: int
) -> Float[np.ndarray, "N D"]:
    """One vector a document. Sequences of one length are read together, so that nothing is padded."""
    bos = [] if bench.tokenizer.bos_id is None else [bench.tokenizer.bos_id]
    ids = [bench.tokenizer.encode(document.text)[: bench.cell.context_len] for document in documents]
    order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
    found: dict[int, Float[np.ndarray, "D"]] = {}
    while order:
        size = len(ids[order[0]])
        room = max(1, min(bench.cell.batch_size, MAX_BATCH_TOKENS // (size + 1)))
        batch = [place for place in order[:room] if len(ids[place]) == size]
        order = order[len(batch) :]
        read: Int[np.ndarray, "B T"] = np.stack([np.concatenate([bos, ids[place]]) for place in batch]).astype(np.int64)
        first = len(bos) if params.pool == "mean" else read.shape[1] - 1
        found |= dict(zip(batch, bench.engine.features(read, first), strict=True))
        bench.progress(done + len(found), total)
    return np.stack([found[place] for place in range(len(documents))])
