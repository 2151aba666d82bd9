"""Perplexity: how well a checkpoint predicts real text, as bits per byte, against the context it is given.

Measured: the negative log-likelihood, in nats, of test documents, token by token, with what came before it given.
Protocols:

    fixed (default)   the same targets at every context: what more context is worth

        document      ........................................[  S targets  ]......
        c = 512                                BOS|-- 512 ---||  scored     |
        c = 2048           BOS|-------------- 2048 ----------||  scored     |

    packed            documents end to end, cut in blocks of c, each read from an empty state, every token scored:
                      how the papers of this field report "at length c"
    position          the same pass, its nats summed in buckets of positions 0, 1, 2-3, 4-7, ... within the block
    stream            the same blocks, read `chunk` tokens at a time with the state carried over: memory does not grow
                      with c when the state does not; equals packed at the same c. For the whole text without one
                      reset, ask for a c of all its tokens

Not measured: generation, calibration, anything downstream. A state starts empty, behind BOS; BOS is never scored
and counts 0 bytes. Contexts and windows are in tokens of the checkpoint's tokenizer, bytes are those of the targets.

Statistic: rows are sums of nats, tokens and bytes; bits per byte is the ratio of sums, its interval is over documents,
since windows of one document resemble each other. `bzip2 -9` and `xz -9` of each scored document, whole, stand on the
document's first row only, so that sums over rows are sums over documents.

Traps: perplexity per token cannot be compared between tokenizers, bits per byte can; a curve over contexts that scores
other targets at each length shows the targets (`shared_context` in each row says up to where targets are shared);
`packed` gives the first tokens of each block little context, and `fixed` gives all of them c at least.
"""

from __future__ import annotations

import bz2
import dataclasses
import lzma
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ttbench.errors import TooLongError, UnknownNameError, UsageError
from ttbench.tasks.base import Bench, Task
from ttbench.tasks.blocks import lay_out, score_blocks
from ttbench.tasks.windows import Window, draw_windows, rank
from ttbench.types import Metric, Sample, Scalar

PROTOCOLS = ("fixed", "packed", "position", "stream")
# A batch holds at most this many tokens, whatever --batch-size says: state and activations stay within a few GiB.
MAX_BATCH_TOKENS = 65_536
NO_POSITION: dict[str, Scalar] = {"position": None, "position_end": None}
# For plans only: test documents of a corpus, and tokens of one, when no limit is given.
TYPICAL_DOCUMENTS, TYPICAL_DOCUMENT_LEN = 64, 131_072


@dataclass(frozen=True, slots=True, kw_only=True)
class PerplexityParams:
    """Parameters of the perplexity task."""

    protocol: Literal["fixed", "packed", "position", "stream"] = "fixed"
    limit: int | None = None  # test documents at most, in seeded order; None: all
    window: int = 256  # fixed: targets in one window, tokens
    windows: int = 32  # fixed: windows in all before the limit, dealt over the documents; each gives one at least
    max_context: int = 32_768  # fixed: tokens; contexts up to this one score the same targets
    chunk: int = 2_048  # stream: tokens read at a time


class Perplexity(Task):
    """Nats, tokens and bytes of test documents."""

    name: ClassVar[str] = "perplexity"
    version: ClassVar[int] = 1
    Params: ClassVar[type[Any]] = PerplexityParams
    isolation: ClassVar[Literal["checkpoint", "cell"]] = "checkpoint"
    needs_corpus: ClassVar[bool] = True
    default_ctx: ClassVar[str] = "512..32k"
    default_batch_size: ClassVar[int] = 8
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(
            name="bits_per_byte",
            label="bits per byte",
            unit="bit/byte",
            better="lower",
            statistic="ratio",
            numerator="nats",
            denominator="num_bytes",
            scale=1 / math.log(2),
            cluster="document",
        ),
        Metric(
            name="perplexity",
            label="perplexity per token",
            unit="1",
            better="lower",
            statistic="exp_ratio",
            numerator="nats",
            denominator="num_tokens",
            cluster="document",
        ),
        Metric(
            name="bits_per_byte_by_position",
            label="bits per byte from this position on",
            unit="bit/byte",
            better="lower",
            statistic="ratio",
            numerator="nats",
            denominator="num_bytes",
            scale=1 / math.log(2),
            cluster="document",
            axes=("context_len", "position"),
            where={"param_protocol": "position"},
        ),
        *(
            Metric(
                name=f"{compressor}_bits_per_byte",
                label=f"{compressor} -9 on the same documents",
                unit="bit/byte",
                better="neither",
                statistic="ratio",
                numerator=f"{compressor}_bytes",
                denominator="document_bytes",
                scale=8.0,
                cluster="document",
            )
            for compressor in ("bzip2", "xz")
        ),
    )

    def check(self, params: PerplexityParams) -> None:
        """Raise UsageError on an unknown protocol or a count that is not positive."""
        if params.protocol not in PROTOCOLS:
            raise UnknownNameError("perplexity protocol", params.protocol, known=PROTOCOLS)
        counts = {name: getattr(params, name) for name in ("window", "windows", "max_context", "chunk")}
        if params.limit is not None:
            counts["limit"] = params.limit
        for name, count in counts.items():
            if count < 1:
                raise UsageError(f"perplexity parameter {name} is {count}; it must be at least 1")

    def settle(self, params: PerplexityParams, context_lens: tuple[int, ...]) -> PerplexityParams:
        """A sweep beyond `max_context` raises it, so that all its contexts score the same targets."""
        if params.protocol != "fixed":
            return params
        return dataclasses.replace(params, max_context=max(params.max_context, *context_lens))

    def tokens(self, params: PerplexityParams, context_len: int) -> int:
        """Tokens read: windows with their context, or the documents once."""
        num_documents = params.limit or TYPICAL_DOCUMENTS
        if params.protocol == "fixed":
            return max(params.windows, num_documents) * (context_len + params.window)
        return num_documents * TYPICAL_DOCUMENT_LEN

    def reach(self, params: PerplexityParams, context_len: int) -> int:
        """`fixed` reads its window after the context."""
        return context_len + params.window if params.protocol == "fixed" else context_len

    def measure(self, bench: Bench) -> Iterator[Sample]:
        """Yield one sample per window (`fixed`), or per document and bucket of positions.

        Raises:
            TooShortError: the corpus has no text for this context.
            TooLongError: the checkpoint cannot take it.
        """
        params: PerplexityParams = self.Params(**bench.cell.params)
        self.check(params)
        yield from _measure_fixed(bench, params) if params.protocol == "fixed" else _measure_blocks(bench, params)


def _measure_fixed(bench: Bench, params: PerplexityParams) -> Iterator[Sample]:
    cell, bos_id = bench.cell, bench.tokenizer.bos_id
    # BOS, the context and the window, of which the last token is not read
    num_read = cell.context_len + params.window - (bos_id is None)
    windows = draw_windows(
        bench.corpus,
        bench.tokenizer,
        seed=cell.seed,
        context_len=cell.context_len,
        max_context=params.max_context,
        size=params.window,
        num_windows=params.windows,
        limit=params.limit,
    )
    _require_room(bench, num_read)
    compressed = _OncePerDocument()
    batch_size = _batch_size(cell.batch_size, num_read)
    for first in range(0, len(windows), batch_size):
        batch = windows[first : first + batch_size]
        for window, nats in zip(batch, _score_windows(bench, batch, size=params.window), strict=True):
            yield Sample(
                keys={
                    "document": window.document.name,
                    "window_start": window.start,
                    "shared_context": window.shared_context,
                    **NO_POSITION,
                },
                values={
                    "num_tokens": params.window,
                    "num_bytes": window.num_bytes,
                    "nats": float(nats.sum()),
                    **compressed.sizes(window.document.name, window.document.text),
                },
                evidence={"token_nats": [round(float(value), 5) for value in nats]},
            )
        bench.progress(first + len(batch), len(windows))


def _score_windows(bench: Bench, windows: Sequence[Window], *, size: int) -> np.ndarray:
    """Nats of the targets of windows with equally long contexts, [B, S]."""
    ids = np.stack([window.ids for window in windows])  # [B, context and targets]
    if bench.tokenizer.bos_id is not None:
        ids = np.concatenate([np.full((len(windows), 1), bench.tokenizer.bos_id), ids], axis=1)
    inputs, targets = ids[:, :-1], ids[:, -size:]
    before = inputs.shape[1] - size
    bench.engine.reset(len(windows), inputs.shape[1])
    # Only the targets need the head: what precedes the last token before them is read without it.
    if before:
        bench.engine.prefill(inputs[:, :before])
    return bench.engine.score(inputs[:, before:], targets)


def _measure_blocks(bench: Bench, params: PerplexityParams) -> Iterator[Sample]:
    cell = bench.cell
    text = lay_out(rank(bench.corpus.documents("test"), seed=cell.seed)[: params.limit], bench.tokenizer)
    _require_room(bench, cell.context_len)
    sums = score_blocks(
        text,
        bench.engine,
        context_len=cell.context_len,
        chunk_len=params.chunk if params.protocol == "stream" else cell.context_len,
        batch_size=_batch_size(cell.batch_size, cell.context_len),
        by_position=params.protocol == "position",
        progress=bench.progress,
    )
    compressed = _OncePerDocument()
    for (index, bucket), num_tokens in np.ndenumerate(sums.num_tokens):
        if num_tokens == 0:
            continue
        document, edges = text.documents[index], sums.edges[bucket : bucket + 2]
        position = {"position": edges[0], "position_end": edges[1]} if params.protocol == "position" else NO_POSITION
        yield Sample(
            keys={"document": document.name, "window_start": None, "shared_context": None, **position},
            values={
                "num_tokens": int(num_tokens),
                "num_bytes": int(sums.num_bytes[index, bucket]),
                "nats": float(sums.nats[index, bucket]),
                **compressed.sizes(document.name, document.text),
            },
        )


class _OncePerDocument:
    """Compressed sizes of a document the first time it is seen, and None from then on."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def sizes(self, name: str, text: bytes) -> dict[str, int | None]:
        if name in self._seen:
            return {"document_bytes": None, "bzip2_bytes": None, "xz_bytes": None}
        self._seen.add(name)
        return compressed_sizes(text)


def compressed_sizes(text: bytes) -> dict[str, int | None]:
    """Bytes of a document as it is, and as `bzip2 -9` and `xz -9` write it."""
    # The dictionary of xz -9 is 64 MiB; one as long as the text finds the same matches without 674 MiB of memory.
    dictionary = min(64 * 1024**2, max(4096, 1 << (len(text) - 1).bit_length()))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": dictionary}]
    return {
        "document_bytes": len(text),
        "bzip2_bytes": len(bz2.compress(text, 9)),
        "xz_bytes": len(lzma.compress(text, format=lzma.FORMAT_XZ, filters=filters)),
    }


def _batch_size(asked: int, num_tokens: int) -> int:
    return max(1, min(asked, MAX_BATCH_TOKENS // num_tokens))


def _require_room(bench: Bench, num_tokens: int) -> None:
    most = bench.engine.max_context
    if most is not None and num_tokens > most:
        raise TooLongError(
            f"a context of {bench.cell.context_len:,} needs {num_tokens:,} tokens with its targets; "
            f"checkpoint '{bench.cell.checkpoint.name}' takes at most {most:,}"
        )
