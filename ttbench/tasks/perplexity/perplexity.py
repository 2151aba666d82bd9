"""Perplexity: how well a checkpoint predicts real text, as bits per byte, against the context it is given.

Measured: the negative log-likelihood, in nats, of test documents, token by token, with what came before it given.
Protocols:

    fixed (default)   the same targets at every context: what more context is worth

        document      ........................................[  S targets  ]......
        c = 512                                BOS|------ 512 -|-  scored ---|
        c = 2048           BOS|--------------- 2048 -----------|-  scored ---|

    packed            documents end to end, cut in blocks of c, each read from an empty state, every token scored:
                      how the papers of this field report "at length c"
    position          the same pass, its nats summed in buckets of positions 0, 1, 2-3, 4-7, ... within the block
    stream            the same blocks, one at a time, read `chunk` tokens at once with the state carried over: memory
                      does not grow with c when the state does not; equals packed at the same c. For the whole text
                      without one reset, ask for a c of all its tokens
    hf-stride         the loop of Hugging Face's page on perplexity: windows of c tokens, `stride` apart
    lme-rolling       lm-eval's rolling log-likelihood with max_length c: each document in disjoint windows

A context of c tokens is all that is read for a score, the targets among it: at its training length a checkpoint reads
no token beyond that length.

Not measured: generation, calibration, anything downstream. A state starts empty, behind BOS; BOS is never scored
and counts 0 bytes. Contexts and windows are in tokens of the checkpoint's tokenizer, bytes are those of the targets.

By default 12 documents are scored, one window each; `limit` takes another count, or `all`. A larger limit adds
documents and windows and moves none. `num_documents` of each row is what the limit chose from.

One pass serves every context that its definition lets it serve: of `packed`, `position` and `lme-rolling`, a stretch
of c tokens is the beginning of one of 2c at the same place, so the cells of a process go from the longest context to
the shortest and take over what has been read (`reused_tokens`, which took none of the cell's seconds). Windows of
`fixed` begin elsewhere at each context and share nothing; nor does `hf-stride`, which scores only the end of a window,
nor `stream`, whose memory is that of its own reading.

Statistic: rows are sums of nats, tokens and bytes; bits per byte is the ratio of sums, its interval is over documents,
since windows of one document resemble each other. `bzip2 -9` and `xz -9` of each scored document, whole, stand on the
document's first row only, so that sums over rows are sums over documents. `mixer_nats` is what a context mixer, which
counts bytes, needs for the same window of `fixed` in the same context, where `make gain` has counted it.

`peak_rss_bytes` of `stream` is the highest resident memory of the process while it read: torch, model, text and what
cells before it have left included. It stands on the first row.

Traps: perplexity per token cannot be compared between tokenizers, bits per byte can; a curve over contexts that scores
other targets at each length shows the targets (`shared_context` in each row says up to where targets are shared);
`packed` gives the first tokens of each block little context, and `fixed` gives all of them c at least; two documents
with the same text are one document to an interval, whatever their names.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ttbench.corpora.corpus import Document
from ttbench.declare import ColumnDeclaration, parameter, real, text, whole
from ttbench.errors import UnknownNameError, UsageError
from ttbench.machine import measure
from ttbench.machine.work import Texts, Work
from ttbench.tasks.base import Bench, Limit, Task
from ttbench.tasks.card_scores import CardScore
from ttbench.tasks.compressors import OncePerDocument
from ttbench.tasks.perplexity import perplexity_card
from ttbench.tasks.perplexity.blocks import Nats, lay_out, score_blocks
from ttbench.tasks.perplexity.counted import values_of
from ttbench.tasks.perplexity.perplexity_metrics import METRICS
from ttbench.tasks.perplexity.rolling import lay_rolling, lay_strided, score_spans
from ttbench.tasks.rebuilt import document_text, window_text
from ttbench.tasks.view import RebuiltText, TextSource
from ttbench.tasks.windows import (
    block_work,
    fit_batch,
    originals,
    rank,
    require_room,
    score_in_batches,
    window_work,
    windows_of,
)
from ttbench.types import Checkpoint, Cost, Figure, Metric, Sample, Scalar

PROTOCOLS = ("fixed", "packed", "position", "stream", "hf-stride", "lme-rolling")
# Those whose longer contexts serve the shorter ones.
SHARED = ("packed", "position", "lme-rolling")
NO_KEYS: dict[str, Scalar] = dict.fromkeys(
    ("window_start", "shared_context", "position", "position_end", "stride", "bos")
)
NO_VALUES: dict[str, int | float | None] = {
    **dict.fromkeys(("num_words", "mixer_bytes", "mixer_nats", "page_nats", "page_tokens", "peak_rss_bytes")),
    "reused_tokens": 0,
}
# For plans only: test documents of a corpus, and tokens of one, when no limit is given.
TYPICAL_DOCUMENTS, TYPICAL_DOCUMENT_LEN = 64, 131_072


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexityParams:
    """Parameters of the perplexity task."""

    protocol: Literal["fixed", "packed", "position", "stream", "hf-stride", "lme-rolling"] = parameter(
        "fixed", "how text is cut into what is read and what is scored"
    )
    limit: Limit = parameter(12, "test documents at most, in seeded order; None: all", "documents")
    window: int = parameter(256, "fixed: targets in one window", "tokens")
    windows: int = parameter(12, "fixed: windows in all before the limit, dealt over the documents; each gives one")
    max_context: int = parameter(32_768, "fixed: contexts up to this one score the same targets", "tokens")
    chunk: int = parameter(2_048, "stream: how much is read at a time", "tokens")
    stride: int | None = parameter(None, "hf-stride: from one window to the next; None: half a window", "tokens")


class Perplexity(Task):
    """Nats, tokens and bytes of test documents."""

    name: ClassVar[str] = "perplexity"
    version: ClassVar[int] = 2
    Params: ClassVar[type[Any]] = PerplexityParams
    columns: ClassVar[Mapping[str, ColumnDeclaration] | None] = {
        "document": text("test document that was scored; the first of those with the same text"),
        "bos": text("what a BOS was read before: none, window, document, or block and document"),
        "window_start": whole("fixed: place of the window's first target in its document", "tokens"),
        "shared_context": whole("fixed: the longest context that scores this window's targets", "tokens"),
        "position": whole("position: first position of the bucket within its block", "tokens"),
        "position_end": whole("position: the position after the last of the bucket", "tokens"),
        "stride": whole("hf-stride: from one window to the next", "tokens"),
        "num_tokens": whole("scored tokens", "tokens"),
        "num_bytes": whole("bytes of the scored tokens", "bytes"),
        "num_words": whole("lme-rolling: words of the document, as lm-eval counts them", "words"),
        "peak_rss_bytes": whole("stream: highest resident memory while it read; on the first row", "bytes"),
        "document_bytes": whole("bytes of the whole document; on its first row", "bytes"),
        "bzip2_bytes": whole("the whole document after bzip2 -9; on its first row", "bytes"),
        "xz_bytes": whole("the whole document after xz -9; on its first row", "bytes"),
        "mixer_bytes": whole("fixed: bytes of a window that the context mixer was counted on", "bytes"),
        "num_documents": whole("documents that the limit chose from", "documents"),
        "reused_tokens": whole("scored tokens that a longer context of the same process had read", "tokens"),
        "nats": real("negative log-likelihood of the scored tokens", "nats"),
        "mixer_nats": real("fixed: the context mixer on the same window and context; null: it was not counted", "nats"),
        "page_nats": real("hf-stride: nats with the weights of the page that it follows", "nats"),
        "page_tokens": real("hf-stride: tokens that the page takes itself to score", "tokens"),
    }
    figures: ClassVar[tuple[Figure, ...] | None] = (
        Figure(
            name="bits_per_byte",
            title="Bits per byte against context",
            metric="bits_per_byte",
            references=("mixer_bits_per_byte", "bzip2_bits_per_byte", "xz_bits_per_byte"),
        ),
    )
    isolation: ClassVar[Literal["checkpoint", "cell"]] = "checkpoint"
    needs_corpus: ClassVar[bool] = True
    default_ctx: ClassVar[str] = "512..32k"
    default_batch_size: ClassVar[int] = 8
    metrics: ClassVar[tuple[Metric, ...]] = METRICS

    def check(self, params: PerplexityParams) -> None:
        """Raise UsageError on an unknown protocol or a count that is not positive."""
        if params.protocol not in PROTOCOLS:
            raise UnknownNameError("perplexity protocol", params.protocol, known=PROTOCOLS)
        counts = {name: getattr(params, name) for name in ("window", "windows", "max_context", "chunk")}
        counts |= {name: count for name in ("limit", "stride") if (count := getattr(params, name)) is not None}
        for name, count in counts.items():
            if count < 1:
                raise UsageError(f"perplexity parameter {name} is {count}; it must be at least 1")

    def settle(self, params: PerplexityParams, context_lens: tuple[int, ...]) -> PerplexityParams:
        """A sweep beyond `max_context` raises it, so that all its contexts score the same targets.

        Raises UsageError when windows of `hf-stride` would leave out tokens between them.
        """
        shortest = min(context_lens, default=0)
        if params.protocol == "hf-stride" and params.stride is not None and params.stride > shortest:
            raise UsageError(
                f"a stride of {params.stride:,} leaves out tokens between windows of {shortest:,}; "
                f"give a stride of at most {shortest:,}, or longer contexts"
            )
        if params.protocol != "fixed":
            return params
        return dataclasses.replace(params, max_context=max(params.max_context, *context_lens))

    def corpus_for(self, checkpoints: Sequence[Checkpoint]) -> str:
        """Languages that nobody has read, where all checkpoints were trained on others, as the zoo's are; else code."""
        read = [checkpoint.train_kinds or () for checkpoint in checkpoints]
        return "languages" if read and all("languages" in kinds for kinds in read) else self.default_corpus

    def tokens(self, params: PerplexityParams, context_len: int) -> int:
        """Tokens read: windows with their context, or the documents once."""
        num_documents = params.limit or TYPICAL_DOCUMENTS
        if params.protocol == "fixed":
            return max(params.windows, num_documents) * context_len
        num_tokens = num_documents * TYPICAL_DOCUMENT_LEN
        strided = params.protocol == "hf-stride"
        return num_tokens * context_len // _stride(params, context_len) if strided else num_tokens

    def order(self, params: PerplexityParams, context_lens: tuple[int, ...]) -> tuple[int, ...]:
        """The longest context first where it serves the shorter ones."""
        return tuple(sorted(context_lens, reverse=params.protocol in SHARED))

    def shares(self, params: PerplexityParams) -> bool:
        return params.protocol in SHARED

    def work(self, params: PerplexityParams, context_len: int, batch_size: int, *, texts: Texts) -> Work:
        """Windows or blocks of the documents at hand, and the compressors on each document."""
        if params.protocol == "fixed":
            found = window_work(params, context_len, batch_size, texts=texts)
        else:
            stride = _stride(params, context_len) if params.protocol == "hf-stride" else None
            found = block_work(context_len, batch_size, stride=stride, limit=params.limit, texts=texts)
        return found or super().work(params, context_len, batch_size, texts=texts)

    def sequences(self, params: PerplexityParams, context_len: int, batch_size: int, *, cost: Cost | None) -> int:
        """`stream` reads one sequence at a time, for its memory."""
        return 1 if params.protocol == "stream" else fit_batch(batch_size, context_len, cost=cost)

    @classmethod
    def rebuild(cls, sample: Sample, source: TextSource) -> RebuiltText | None:
        name = sample.keys.get("document")
        if name is None:
            return None
        if sample.keys.get("window_start") is None:
            return document_text(str(name), source)
        return window_text(sample, source, counted="num_bytes")

    @classmethod
    def card(cls, kinds: Sequence[str], *, context_len: int, share: float) -> Iterator[CardScore]:
        return perplexity_card.scores(kinds, context_len=context_len, share=share)

    def measure(self, bench: Bench) -> Iterator[Sample]:
        """Yield one sample per window (`fixed`), or per document and bucket of positions.

        Raises:
            TooShortError: the corpus has no text for this context.
            TooLongError: the checkpoint cannot take it.
            UnsupportedError: the protocol asks for a BOS that the tokenizer does not have, or for a window that has no
                target or is longer than the context.
        """
        params: PerplexityParams = self.Params(**bench.cell.params)
        self.check(params)
        cell = bench.cell
        batch_size = self.sequences(params, cell.context_len, cell.batch_size, cost=cell.checkpoint.cost)
        if params.protocol == "fixed":
            yield from _measure_fixed(bench, params, batch_size)
        elif params.protocol in ("hf-stride", "lme-rolling"):
            yield from _measure_spans(bench, params, batch_size)
        else:
            yield from _measure_blocks(bench, params, batch_size)


def _measure_fixed(bench: Bench, params: PerplexityParams, batch_size: int) -> Iterator[Sample]:
    drawn = windows_of(bench, params)
    windows, bos = drawn.windows, "none" if bench.tokenizer.bos_id is None else "window"
    rows = _Rows(bench, bos=bos, num_documents=drawn.num_documents)
    for window, nats in score_in_batches(bench, windows, size=params.window, batch_size=batch_size):
        yield rows.sample(
            window.document,
            keys={"window_start": window.start, "shared_context": window.shared_context},
            values={
                "num_tokens": params.window,
                "num_bytes": window.num_bytes,
                "nats": float(nats.sum()),
                **values_of(bench, window),
            },
            evidence={"token_nats": [round(float(value), 5) for value in nats]},
        )


def _measure_blocks(bench: Bench, params: PerplexityParams, batch_size: int) -> Iterator[Sample]:
    cell, streams = bench.cell, params.protocol == "stream"
    text = lay_out(_documents(bench, params), bench.tokenizer)
    require_room(bench)
    # Where the system cannot reset the peak, nobody knows the stream's own.
    watched = streams and measure.reset_peak_rss()
    sums = score_blocks(
        text,
        bench.engine,
        context_len=cell.context_len,
        chunk_len=params.chunk if streams else cell.context_len,
        batch_size=batch_size,
        by_position=params.protocol == "position",
        known=None if streams else _known(bench, params),
        progress=bench.progress,
    )
    peak: int | None = measure.peak_rss() if watched else None
    bos = "none" if text.bos_id is None else "block and document"
    rows = _Rows(bench, bos=bos, num_documents=len(bench.corpus.documents("test")))
    for (index, bucket), num_tokens in np.ndenumerate(sums.num_tokens):
        if num_tokens == 0:
            continue
        edges = sums.edges[bucket : bucket + 2]
        yield rows.sample(
            text.documents[index],
            keys={"position": edges[0], "position_end": edges[1]} if params.protocol == "position" else {},
            values={
                "num_tokens": int(num_tokens),
                "num_bytes": int(sums.num_bytes[index, bucket]),
                "nats": float(sums.nats[index, bucket]),
                "peak_rss_bytes": peak,
                "reused_tokens": int(sums.num_reused[index, bucket]),
            },
        )
        peak = None


def _measure_spans(bench: Bench, params: PerplexityParams, batch_size: int) -> Iterator[Sample]:
    context_len, strided = bench.cell.context_len, params.protocol == "hf-stride"
    stride = _stride(params, context_len) if strided else None
    documents = _documents(bench, params)
    if stride is None:
        tape, spans = lay_rolling(documents, bench.tokenizer, max_len=context_len)
    else:
        tape, spans = lay_strided(documents, bench.tokenizer, max_len=context_len, stride=stride)
    require_room(bench)
    known = {} if strided else _known(bench, params)
    totals = score_spans(tape, spans, bench.engine, batch_size=batch_size, known=known, progress=bench.progress)
    rows = _Rows(bench, bos="none" if strided else "document", num_documents=len(bench.corpus.documents("test")))
    for index, document in enumerate(tape.documents):
        if totals.num_tokens[index] == 0:
            continue
        page = {"page_nats": float(totals.page_nats[index]), "page_tokens": float(totals.page_tokens[index])}
        # lm-eval counts the pieces between runs of white space, empty ones at the ends included
        words = None if strided else len(re.split(r"\s+", document.text.decode()))
        yield rows.sample(
            document,
            keys={"stride": stride},
            values={
                "num_tokens": int(totals.num_tokens[index]),
                "num_bytes": int(totals.num_bytes[index]),
                "nats": float(totals.nats[index]),
                "num_words": words,
                "reused_tokens": int(totals.num_reused[index]),
                # a stride of 1 leaves the page no weight beyond the first window
                **(page if strided and page["page_tokens"] else {}),
            },
        )


def _documents(bench: Bench, params: PerplexityParams) -> list[Document]:
    return rank(bench.corpus.documents("test"), seed=bench.cell.seed)[: params.limit]


def _known(bench: Bench, params: PerplexityParams) -> dict[int, Nats]:
    """Nats that longer contexts of this process gave, by the place that their stretch begins at."""
    layout = "rolling" if params.protocol == "lme-rolling" else "blocks"
    key = ("nats", layout, bench.cell.corpus_digest, bench.tokenizer.digest, bench.cell.seed, params.limit)
    return bench.memo.setdefault(key, {})


class _Rows:
    """Samples of one cell: the columns of every protocol, and each document under the name of its text."""

    def __init__(self, bench: Bench, *, bos: str, num_documents: int) -> None:
        self._bos = bos  # before what BOS stands
        self._num_documents = num_documents  # that the limit chose from
        self._originals = originals(bench.corpus.documents("test"))
        self._compressed = OncePerDocument()

    def sample(
        self,
        document: Document,
        *,
        keys: Mapping[str, Scalar],
        values: Mapping[str, int | float | None],
        evidence: Mapping[str, Any] | None = None,
    ) -> Sample:
        name = self._originals[document.name]
        return Sample(
            keys={"document": name, **NO_KEYS, "bos": self._bos, **keys},
            values={
                **NO_VALUES,
                "num_documents": self._num_documents,
                **values,
                **self._compressed.sizes(name, document.text),
            },
            evidence=evidence,
        )


def _stride(params: PerplexityParams, context_len: int) -> int:
    """As on the page, where windows of 1,024 tokens are 512 apart."""
    return max(1, context_len // 2) if params.stride is None else params.stride
