"""The targets of the protocol `fixed`: windows of test documents, drawn once for a whole sweep of contexts.

    document   |----------------------------|=====|-------|=====|---------|
                <----- shared_context tokens ----->  ^ windows of S targets, disjoint

A context of c tokens holds its window: c - S tokens stand before the S targets. A window may end only where the longest
context of the sweep has its room, so that every context scores the same targets, and cells measured on different days
stay comparable. The draw depends on the document's name, the seed, S and `shared_context`; never on the context, the
checkpoint or the batch size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from jaxtyping import Float, Int

from ttbench.corpora.corpus import Corpus, Document
from ttbench.errors import TooLongError, TooShortError, UnsupportedError
from ttbench.machine.work import Calls, Texts, Work
from ttbench.tasks.base import Bench
from ttbench.tasks.draw import deal, generator, shuffled
from ttbench.types import Cost

if TYPE_CHECKING:
    from ttbench.checkpoints.tokenizer import Tokenizer

# Where a state grows, a batch holds at most this many tokens, whatever --batch-size says: states stay within a few GiB.
MAX_BATCH_TOKENS = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """S targets of a document and what is read before them."""

    document: Document
    start: int  # tokens of the document before the first target
    shared_context: int  # tokens; every context up to this one scores the same targets
    ids: Int[np.ndarray, "T"]  # what stands before the targets, then they; no BOS
    num_bytes: int  # bytes of the targets


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """What is scored, and out of how much."""

    windows: Sequence[Window]
    num_documents: int  # long enough, before the limit


class WindowParams(Protocol):
    """What a task that scores windows is asked for."""

    @property
    def limit(self) -> int | None: ...
    @property
    def window(self) -> int: ...
    @property
    def windows(self) -> int: ...
    @property
    def max_context(self) -> int: ...


def rank(documents: Sequence[Document], *, seed: int) -> list[Document]:
    """Documents in seeded order; a limit takes the first, so a larger limit only adds."""
    by_name = {document.name: document for document in documents}
    return [by_name[name] for name in shuffled(by_name, seed, "perplexity")]


def originals(documents: Iterable[Document]) -> dict[str, str]:
    """Each document's name -> the first name, in order, under which the same text stands in the corpus.

    A text that stands there twice is one observation: what is independent is the text, not its name.
    """
    first: dict[bytes, str] = {}
    return {document.name: first.setdefault(document.text, document.name) for document in documents}


def fit_batch(asked: int, num_tokens: int, *, cost: Cost | None) -> int:
    """Sequences of `num_tokens` tokens that are read at once.

    Where the state has one size those are all that were asked for: such a model gains by a batch, whose memory does not
    grow with the tokens.
    """
    if cost is not None and not cost.state_bytes_per_token:
        return asked
    return max(1, min(asked, MAX_BATCH_TOKENS // num_tokens))


def draw_starts(
    num_tokens: int, *, first: int, size: int, count: int, rng: np.random.Generator
) -> Int[np.ndarray, "N"]:
    """Starts of up to `count` disjoint windows of `size` tokens in [first, num_tokens); a larger count only adds."""
    slots = (num_tokens - first) // size
    phase = int(rng.integers(num_tokens - first - slots * size + 1))
    return first + phase + size * rng.permutation(slots)[:count]


def draw_windows(
    corpus: Corpus,
    tokenizer: Tokenizer,
    params: WindowParams,
    *,
    seed: int,
    context_len: int,
    memo: dict[Any, Any],
) -> Windows:
    """The windows of one cell, document by document.

    Documents shorter than the longest context are left out, for every context alike. When none is long enough the
    longest context falls to the largest power of two that the longest document has room for. `windows` are dealt
    evenly over the documents; each gives at least one. The limit comes after: it leaves out documents and moves no
    window.

    Args:
        memo: what earlier cells of this process have left (`Bench.memo`).

    Raises:
        UnsupportedError: a context of `context_len` tokens does not hold a window.
        TooShortError: no document has `context_len` tokens.
    """
    size = params.window
    if context_len < size:
        raise UnsupportedError(
            f"a context of {context_len:,} tokens does not hold a window of {size:,} targets; ask for at least "
            f"{size:,} tokens, or for a smaller window"
        )
    ranked = rank(corpus.documents("test"), seed=seed)
    lengths = _lengths(corpus, tokenizer, memo=memo)
    shared_context = max(params.max_context, context_len)
    if max(lengths.values()) <= shared_context:
        shared_context = _largest_shared(lengths, corpus=corpus, context_len=context_len)
    # One token more than the context has: without BOS it is read first.
    long = [document for document in ranked if lengths[document.name] > shared_context]
    before = context_len - size + (tokenizer.bos_id is None)
    found = []
    counts = deal(max(params.windows, len(long)), long)
    for document, count in itertools.islice(zip(long, counts, strict=True), params.limit):
        ids = tokenizer.encode(document.text)
        rng = generator(seed, "perplexity", document.name, size, shared_context)
        for start in draw_starts(len(ids), first=shared_context - size + 1, size=size, count=count, rng=rng):
            found.append(
                Window(
                    document=document,
                    start=int(start),
                    shared_context=shared_context,
                    ids=ids[start - before : start + size].copy(),
                    num_bytes=int(tokenizer.byte_lengths(ids[start : start + size]).sum()),
                )
            )
    return Windows(windows=found, num_documents=len(long))


def windows_of(bench: Bench, params: WindowParams) -> Windows:
    """The windows of a cell, for which the checkpoint has room. Raises as `draw_windows` and `require_room`."""
    drawn = draw_windows(
        bench.corpus,
        bench.tokenizer,
        params,
        seed=bench.cell.seed,
        context_len=bench.cell.context_len,
        memo=bench.memo,
    )
    require_room(bench)
    return drawn


def score_in_batches(
    bench: Bench, windows: Sequence[Window], *, size: int, batch_size: int
) -> Iterator[tuple[Window, Float[np.ndarray, "S"]]]:
    """Each window with the nats of its targets, `batch_size` of them read at once; tells `bench` how far it is."""
    for first in range(0, len(windows), batch_size):
        batch = windows[first : first + batch_size]
        yield from zip(batch, _score(bench, batch, size=size), strict=True)
        bench.progress(first + len(batch), len(windows))


def _score(bench: Bench, windows: Sequence[Window], *, size: int) -> Float[np.ndarray, "B S"]:
    """Nats of the targets of windows in equally long contexts, each read from an empty state behind BOS.

    As many tokens are read as the context has. Without BOS the first of them is one more of the document.
    """
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


def require_room(bench: Bench) -> None:
    """Raise TooLongError when the checkpoint cannot take the context."""
    most, context_len = bench.engine.max_context, bench.cell.context_len
    if most is not None and context_len > most:
        raise TooLongError(
            f"a context of {context_len:,} tokens was asked for; checkpoint "
            f"'{bench.cell.checkpoint.name}' takes at most {most:,}"
        )


def _lengths(corpus: Corpus, tokenizer: Tokenizer, *, memo: dict[Any, Any]) -> dict[str, int]:
    """Tokens of each test document, counted once for all cells of a process."""
    key = ("lengths", corpus.digest, tokenizer.digest)
    if key not in memo:
        memo[key] = {document.name: len(tokenizer.encode(document.text)) for document in corpus.documents("test")}
    return memo[key]


def _largest_shared(lengths: dict[str, int], *, corpus: Corpus, context_len: int) -> int:
    room = max(lengths.values()) - 1
    shared = 1 << (room.bit_length() - 1) if room > 0 else 0
    if context_len > shared:
        longest = sorted(lengths.items(), key=lambda item: -item[1])[:5]
        listing = ", ".join(f"{name} {num_tokens:,}" for name, num_tokens in longest)
        allowed = f"ask for at most {shared:,} tokens of context" if shared else "give longer text"
        raise TooShortError(
            f"no test document of corpus '{corpus.name}' has more than {context_len:,} tokens; "
            f"the longest have (tokens): {listing}; {allowed}, or give longer documents"
        )
    return shared


def window_work(params: WindowParams, context_len: int, batch_size: int, *, texts: Texts) -> Work | None:
    """Windows as `draw_windows` deals them, and the compressors on their documents; None: no text is known.

    Args:
        params: of the task.
    """
    sizes = texts.sizes.get("test", ())
    if not sizes:
        return None
    # Where no document is long enough the longest context falls, and few documents are left.
    long = texts.at_least(max(params.max_context, context_len)) or (max(sizes),)
    chosen = min(len(long), params.limit or len(long))
    dealt = min(len(long), max(params.limit or len(long), params.windows))
    num = chosen * max(params.windows, dealt) / dealt
    scored = min(params.window, context_len)
    return _read(num, context_len, batch_size, scored=scored, compressed=chosen * sum(long) / len(long))


def block_work(
    context_len: int, batch_size: int, *, stride: int | None, limit: int | None, texts: Texts
) -> Work | None:
    """Documents in blocks of `context_len` tokens, `stride` apart or end to end; None: no text is known."""
    num_tokens = texts.tokens(limit=limit)
    if not num_tokens:
        return None
    length = min(context_len, num_tokens)
    apart = min(stride or length, length)
    compressed = num_tokens * texts.token_bytes
    return _read(num_tokens / (stride or length), length, batch_size, scored=apart, compressed=compressed)


def _read(num: float, num_tokens: float, batch_size: int, *, scored: float, compressed: float) -> Work:
    at_once = max(1, min(batch_size, round(num)))
    calls = Calls(num=num / at_once, num_tokens=num_tokens, batch_size=at_once, scored=scored)
    return Work(calls=(calls,), compressed_bytes=compressed)
