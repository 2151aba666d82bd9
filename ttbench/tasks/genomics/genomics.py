"""Genomics: bits per base of real genomes, against the context that a checkpoint is given.

Measured: the negative log-likelihood of DNA of a species (corpus `genomes`) or of a second strain of a species
(`genomes-strain`) that training knew, as perplexity's protocol `fixed` does it: the same targets after more and more of
the bases before them, every window from an empty state behind BOS.

    stretch of 131,072 bases   ........................................[  S targets  ]......
    c = 512                                                BOS|------ 512 -|-  scored ---|
    c = 2048                           BOS|--------------- 2048 -----------|-  scored ---|

Bits are over all tokens of the vocabulary: a model of bytes that spends probability on bytes that are no base pays for
it, so its score stands beside that of any other tokenizer, and beside, on the same bases or the same stretches:

    two bits            what any base costs that is written without looking: log2 of four
    Markov, order 12    counts of the corpus's train split, final; the very same targets (`markov.py`)
    bzip2 -9, xz -9     each scored stretch, whole; general compressors of bytes need more than two bits here

`seen_before` is the share of the scored bases that end a word of 24 which stands in the train split, on either strand:
near 0 for a new species, near 1 for a near duplicate, whose bits say what memory does. It is the corpus's own train
split that is looked up: of a checkpoint that was trained elsewhere nobody here knows what it has read.

Statistic: as of perplexity; intervals are over stretches of one genome and say nothing about other species. Not
measured: classification (task `probe`), both strands, anything about genes. Traps: contexts are tokens, bases where the
tokenizer is of bytes; two bits are not to be beaten by much in bacteria (good compressors need about 1.9).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ttbench.corpora.corpus import Corpus
from ttbench.declare import ColumnDeclaration, parameter, real, text, whole
from ttbench.errors import UsageError
from ttbench.machine.work import Texts, Work
from ttbench.tasks.base import Bench, Limit, Task
from ttbench.tasks.compressors import OncePerDocument
from ttbench.tasks.genomics import kmers
from ttbench.tasks.genomics.markov import bases_of, markov_of
from ttbench.tasks.rebuilt import window_text
from ttbench.tasks.view import RebuiltText, TextSource
from ttbench.tasks.windows import (
    Window,
    fit_batch,
    originals,
    score_in_batches,
    window_work,
    windows_of,
)
from ttbench.types import Cost, Figure, Metric, Sample

# For plans: seconds of counting a base of the train split, measured on one core of a server of 2024.
COUNT_S = 2e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class GenomicsParams:
    """Parameters of the genomics task."""

    limit: Limit = parameter(None, "stretches at most, in seeded order; None: all", "stretches")
    window: int = parameter(256, "targets in one window", "tokens")
    windows: int = parameter(64, "windows in all before the limit, dealt over the stretches; each gives one")
    max_context: int = parameter(8_192, "contexts up to this one score the same targets", "tokens")


def _bits(name: str, label: str, numerator: str, denominator: str, *, scale: float, ours: bool = False) -> Metric:
    return Metric(
        name=name,
        label=label,
        unit="bit/base",
        better="lower" if ours else "neither",
        statistic="ratio",
        numerator=numerator,
        denominator=denominator,
        counts="byte" if denominator == "document_bytes" else "base",
        scale=scale,
        cluster="document",
        smallest_effect=0.005,
    )


class Genomics(Task):
    """Nats and bases of windows of genomes."""

    name: ClassVar[str] = "genomics"
    version: ClassVar[int] = 1
    Params: ClassVar[type[Any]] = GenomicsParams
    columns: ClassVar[Mapping[str, ColumnDeclaration] | None] = {
        "document": text("stretch of the genome that was scored"),
        "window_start": whole("place of the window's first target in its stretch", "tokens"),
        "shared_context": whole("the longest context that scores this window's targets", "tokens"),
        "num_tokens": whole("scored tokens", "tokens"),
        "num_bases": whole("bases of the scored tokens", "bases"),
        "seen_bases": whole("scored bases that end a word of 24 which stands in the train split", "bases"),
        "document_bytes": whole("bytes of the whole stretch; on its first row", "bytes"),
        "bzip2_bytes": whole("the whole stretch after bzip2 -9; on its first row", "bytes"),
        "xz_bytes": whole("the whole stretch after xz -9; on its first row", "bytes"),
        "nats": real("negative log-likelihood of the scored tokens", "nats"),
        "even_nats": real("what the bases cost where every base is as likely: ln 4 each", "nats"),
        "markov_nats": real("what the bases cost a Markov model of order 12 of the train split", "nats"),
    }
    figures: ClassVar[tuple[Figure, ...] | None] = (
        Figure(
            name="bits_per_base",
            title="Bits per base against context",
            metric="bits_per_base",
            references=("even_bits_per_base", "markov_bits_per_base", "bzip2_bits_per_base", "xz_bits_per_base"),
        ),
    )
    isolation: ClassVar[Literal["checkpoint", "cell"]] = "checkpoint"
    needs_corpus: ClassVar[bool] = True
    corpus_splits: ClassVar[tuple[str, ...]] = ("train", "test")
    default_ctx: ClassVar[str] = "128..8k"
    default_corpus: ClassVar[str] = "genomes"
    default_checkpoints: ClassVar[tuple[str, ...] | None] = ("dna-transformer", "dna-ttt-linear")
    default_batch_size: ClassVar[int] = 8
    metrics: ClassVar[tuple[Metric, ...]] = (
        _bits("bits_per_base", "bits per base", "nats", "num_bases", scale=1 / math.log(2), ours=True),
        _bits("even_bits_per_base", "two bits: every base alike", "even_nats", "num_bases", scale=1 / math.log(2)),
        _bits("markov_bits_per_base", "Markov, order 12", "markov_nats", "num_bases", scale=1 / math.log(2)),
        _bits("bzip2_bits_per_base", "bzip2 -9 on the stretches", "bzip2_bytes", "document_bytes", scale=8.0),
        _bits("xz_bits_per_base", "xz -9 on the stretches", "xz_bytes", "document_bytes", scale=8.0),
        Metric(
            name="seen_before",
            label="bases that end a 24-mer of the train split",
            unit="share",
            better="neither",
            statistic="proportion",
            numerator="seen_bases",
            denominator="num_bases",
            counts="base",
            cluster="document",
        ),
    )

    def check(self, params: GenomicsParams) -> None:
        """Raise UsageError on a count that is not positive."""
        for name, count in dataclasses.asdict(params).items():
            if count is not None and count < 1:
                raise UsageError(f"genomics parameter {name} is {count}; it must be at least 1")

    def settle(self, params: GenomicsParams, context_lens: tuple[int, ...]) -> GenomicsParams:
        """A sweep beyond `max_context` raises it, so that all its contexts score the same targets."""
        return dataclasses.replace(params, max_context=max(params.max_context, *context_lens))

    def check_corpus(self, corpus: Corpus) -> None:
        for split in self.corpus_splits:
            for document in corpus.documents(split):
                bases_of(document)

    def tokens(self, params: GenomicsParams, context_len: int) -> int:
        return params.windows * context_len

    def work(self, params: GenomicsParams, context_len: int, batch_size: int, *, texts: Texts) -> Work:
        """Windows of the stretches at hand, the compressors on each stretch, and counting in the train split."""
        found = window_work(params, context_len, batch_size, texts=texts)
        if found is None:
            return super().work(params, context_len, batch_size, texts=texts)
        return dataclasses.replace(found, seconds=texts.tokens("train") * texts.token_bytes * COUNT_S)

    def sequences(self, params: GenomicsParams, context_len: int, batch_size: int, *, cost: Cost | None) -> int:
        return fit_batch(batch_size, context_len, cost=cost)

    @classmethod
    def rebuild(cls, sample: Sample, source: TextSource) -> RebuiltText | None:
        # a base is a byte
        return window_text(sample, source, counted="num_bases")

    def measure(self, bench: Bench) -> Iterator[Sample]:
        """Yield one sample per window.

        Raises:
            UsageError: the corpus holds anything but A, C, G and T.
            CorpusError: it has no train split to count in.
            UnsupportedError: the context does not hold a window.
            TooShortError: no stretch holds the context.
            TooLongError: the checkpoint cannot take it.
        """
        params: GenomicsParams = self.Params(**bench.cell.params)
        self.check(params)
        cell = bench.cell
        reference = _Reference(bench)
        windows = windows_of(bench, params).windows
        batch_size = self.sequences(params, cell.context_len, cell.batch_size, cost=cell.checkpoint.cost)
        for window, nats in score_in_batches(bench, windows, size=params.window, batch_size=batch_size):
            yield reference.sample(window, nats)


class _Reference:
    """Samples of one cell, with what stands beside a model's nats."""

    def __init__(self, bench: Bench) -> None:
        train = bench.corpus.documents("train")
        self._tokenizer = bench.tokenizer
        self._markov, self._known = markov_of(train), kmers.vocabulary(train)
        self._originals = originals(bench.corpus.documents("test"))
        self._compressed = OncePerDocument()

    def sample(self, window: Window, nats: np.ndarray) -> Sample:
        text, name = window.document.text, self._originals[window.document.name]
        ids = self._tokenizer.encode(text)
        # targets in bases, where tokens are more than one each
        first = int(self._tokenizer.byte_lengths(ids[: window.start]).sum())
        bases = bases_of(window.document)[: first + window.num_bytes]
        around = bases[max(0, first - kmers.K + 1) :]
        return Sample(
            keys={"document": name, "window_start": window.start, "shared_context": window.shared_context},
            values={
                "num_tokens": len(nats),
                "num_bases": window.num_bytes,
                "nats": float(nats.sum()),
                "even_nats": window.num_bytes * math.log(4),
                "markov_nats": float(self._markov.nats(bases, first).sum()),
                "seen_bases": int(kmers.seen(kmers.words_of(around), self._known).sum()),
                **self._compressed.sizes(name, text),
            },
            evidence={"token_nats": [round(float(value), 5) for value in nats]},
        )
