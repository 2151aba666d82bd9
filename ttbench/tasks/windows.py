"""The targets of the protocol `fixed`: windows of test documents, drawn once for a whole sweep of contexts.

    document   |----------------------------|=====|-------|=====|---------|
                <-- shared_context tokens -->  ^ windows of S targets, disjoint

A window may start only where the longest context of the sweep fits before it, so that every context scores the same
targets, and cells measured on different days stay comparable. The draw depends on the document's name, the seed, S
and `shared_context`; never on the context, the checkpoint or the batch size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from ttbench.errors import TooLongError, TooShortError
from ttbench.harness.data import Corpus, Document
from ttbench.tasks.base import Bench
from ttbench.tasks.draw import deal, generator, shuffled

if TYPE_CHECKING:
    from ttbench.harness.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """S targets of a document and the context before them."""

    document: Document
    start: int  # tokens of the document before the first target
    shared_context: int  # tokens; every context up to this one scores the same targets
    ids: Int[np.ndarray, "T"]  # the context, then the targets; no BOS
    num_bytes: int  # bytes of the targets


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
    *,
    seed: int,
    context_len: int,
    max_context: int,
    size: int,
    num_windows: int,
    limit: int | None,
) -> list[Window]:
    """The windows of one cell, document by document.

    Documents shorter than the longest context plus one window are left out, for every context alike. When none is
    long enough the longest context falls to the largest power of two that the longest document has room for.
    `num_windows` are dealt evenly over the documents; each gives at least one. The limit comes after: it leaves out
    documents and moves no window.

    Raises:
        TooShortError: no document holds a window after `context_len` tokens.
    """
    ranked = rank(corpus.documents("test"), seed=seed)
    # With as many documents as windows each gives one, however many more there are.
    enough = None if limit is None else max(limit, num_windows)
    shared_context = max(max_context, context_len)
    encoded = _encode_long(ranked, tokenizer, num_tokens=shared_context + size, enough=enough)
    if not encoded:
        lengths = {document.name: len(tokenizer.encode(document.text)) for document in ranked}
        shared_context = _largest_shared(lengths, corpus=corpus, context_len=context_len, size=size)
        encoded = _encode_long(ranked, tokenizer, num_tokens=shared_context + size, enough=enough)
    dealt = zip(encoded, deal(max(num_windows, len(encoded)), encoded), strict=True)
    windows = []
    for (document, ids), count in itertools.islice(dealt, limit):
        rng = generator(seed, "perplexity", document.name, size, shared_context)
        for start in draw_starts(len(ids), first=shared_context, size=size, count=count, rng=rng):
            windows.append(
                Window(
                    document=document,
                    start=int(start),
                    shared_context=shared_context,
                    ids=ids[start - context_len : start + size].copy(),
                    num_bytes=int(tokenizer.byte_lengths(ids[start : start + size]).sum()),
                )
            )
    return windows


def score_windows(bench: Bench, windows: Sequence[Window], *, size: int) -> Float[np.ndarray, "B S"]:
    """Nats of the targets of windows with equally long contexts, each read from an empty state behind BOS."""
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


def require_room(bench: Bench, num_tokens: int) -> None:
    """Raise TooLongError when the checkpoint cannot take `num_tokens`."""
    most = bench.engine.max_context
    if most is not None and num_tokens > most:
        raise TooLongError(
            f"a context of {bench.cell.context_len:,} needs {num_tokens:,} tokens with its targets; "
            f"checkpoint '{bench.cell.checkpoint.name}' takes at most {most:,}"
        )


def _encode_long(
    documents: Sequence[Document], tokenizer: Tokenizer, *, num_tokens: int, enough: int | None
) -> list[tuple[Document, Int[np.ndarray, "T"]]]:
    """The first `enough` documents of at least `num_tokens` tokens, with their ids."""
    found: list[tuple[Document, Int[np.ndarray, "T"]]] = []
    for document in documents:
        if enough is not None and len(found) >= enough:
            break
        ids = tokenizer.encode(document.text)
        if len(ids) >= num_tokens:
            found.append((document, ids))
    return found


def _largest_shared(lengths: dict[str, int], *, corpus: Corpus, context_len: int, size: int) -> int:
    room = max(lengths.values()) - size
    shared = 1 << (room.bit_length() - 1) if room > 0 else 0
    if context_len > shared:
        longest = sorted(lengths.items(), key=lambda item: -item[1])[:5]
        listing = ", ".join(f"{name} {num_tokens:,}" for name, num_tokens in longest)
        allowed = f"ask for at most {shared:,} tokens of context" if shared else "give longer text"
        raise TooShortError(
            f"no test document of corpus '{corpus.name}' holds {context_len:,} tokens of context and {size} targets; "
            f"the longest have (tokens): {listing}; {allowed}, or give longer documents"
        )
    return shared
