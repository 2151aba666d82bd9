"""Domains: kinds of prompts with a checkable answer, what experts are trained on and what is scored. Torch-free.

    code, prose   a window of a document; the answer is how it goes on
    dna           the same for a text over ACGT from a Markov chain of order 3 with fixed odds, unlike all training text
    recall        key/value sentences in one wording, then one key again; the answer is its value
    other         random strings, each written again: no expert's; the answer is the rest of the last repetition

An item is a pure function of (domain, seed, split, index, sizes). Splits never meet: documents belong to one split (see
`ttbench.corpora.splits`), synthetic ones are drawn from different streams. Experts are trained on `train`, few-shot
adaptation looks at `valid`, and only `test` is scored. Letters: B items, T tokens,
A tokens of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from ttbench.adapt.experts import OTHER
from ttbench.corpora.corpus import SPLITS, open_corpus
from ttbench.corpora.training_rows.keyed_rows import WORDINGS, copy_row, draw_pair
from ttbench.errors import TooShortError, UnknownNameError
from ttbench.types import digest

if TYPE_CHECKING:
    from ttbench.checkpoints.tokenizer import Tokenizer

VERSION = 1  # bumped when an unchanged request would draw other items
# A text of so many bytes for each token wanted has tokens enough, whatever the tokenizer.
BYTES_PER_TOKEN = 8
DNA_ORDER = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainText:
    """What a domain draws: a prompt and its answer, or (answer None) a text whose end is the answer."""

    source: str  # document, or the item itself where there is none: what is not independent
    prompt: bytes
    answer: bytes | None


Draw = Callable[[np.random.Generator, str, int], DomainText]  # generator, split, bytes that may be filled


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """One kind of prompt."""

    name: str
    label: str  # how a dispatch prompt calls it
    draw: Draw
    texts: bool  # continues a text, which is drawn long and cut by tokens


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Item:
    """A prompt with a checkable answer."""

    name: str
    domain: str
    split: str
    source: str
    prompt: Int[np.ndarray, "T"]  # BOS first, where the tokenizer has one
    answer: Int[np.ndarray, "A"]
    answer_bytes: int


def _document(corpus: str) -> Draw:
    def draw(rng: np.random.Generator, split: str, num_bytes: int) -> DomainText:
        documents = [document for document in open_corpus(corpus).documents(split) if len(document.text) >= num_bytes]
        if not documents:
            raise TooShortError(
                f"no {split} document of corpus '{corpus}' has {num_bytes:,} bytes; ask for less context"
            )
        document = documents[int(rng.integers(len(documents)))]
        start = int(rng.integers(len(document.text) - num_bytes + 1))
        # A window must not begin inside a character.
        text = document.text[start : start + num_bytes].decode(errors="ignore").encode()
        return DomainText(source=document.name, prompt=text, answer=None)

    return draw


@cache
def _dna_odds() -> np.ndarray:
    """Odds of the next base after each three, [64, 4], cumulated; the same everywhere."""
    return np.random.default_rng(20250109).dirichlet(np.full(4, 0.5), size=4**DNA_ORDER).cumsum(axis=1)


def _dna(rng: np.random.Generator, split: str, num_bytes: int) -> DomainText:
    odds, draws = _dna_odds(), rng.random(num_bytes)
    state = int(rng.integers(4**DNA_ORDER))
    bases = bytearray()
    for number in draws:
        base = min(int(np.searchsorted(odds[state], number, side="right")), 3)
        bases.append(b"ACGT"[base])
        state = (state * 4 + base) % 4**DNA_ORDER
    return DomainText(source="", prompt=bytes(bases), answer=None)


def _recall(rng: np.random.Generator, split: str, num_bytes: int) -> DomainText:
    wording = WORDINGS[int(rng.integers(len(WORDINGS)))]
    pairs: dict[str, str] = {}
    prompt = ""
    asked_key = ""
    for _ in range(int(rng.integers(2, 6))):
        key, value = draw_pair(rng)
        sentence = wording.format(key=key, value=value) + " "
        # The longest question that may follow is as long as a sentence.
        if pairs and len(prompt) + 2 * len(sentence) > num_bytes:
            break
        pairs.setdefault(key, value)
        prompt += sentence
    asked_key = list(pairs)[int(rng.integers(len(pairs)))]
    before = wording.format(key=asked_key, value="\0").split("\0")[0]
    # The space before the value goes with it: tokenizers of words write the two as one.
    stripped = before.rstrip(" ")
    answer = before[len(stripped) :] + pairs[asked_key]
    return DomainText(source="", prompt=(prompt + stripped).encode(), answer=answer.encode())


def _other(rng: np.random.Generator, split: str, num_bytes: int) -> DomainText:
    spans = copy_row(rng, num_bytes)
    ends = np.cumsum([len(span.text) for span in spans])
    fits = [i for i, span in enumerate(spans) if span.weight and ends[i] <= num_bytes]
    last = fits[-1] if fits else next(i for i, span in enumerate(spans) if span.weight)
    prompt = b"".join(span.text for span in spans[:last])
    return DomainText(source="", prompt=prompt, answer=spans[last].text[:-1])


DOMAINS: Mapping[str, Domain] = {
    domain.name: domain
    for domain in (
        Domain(name="code", label="program code", draw=_document("code"), texts=True),
        Domain(name="prose", label="a story", draw=_document("kjv"), texts=True),
        Domain(name="recall", label="a list of keys", draw=_recall, texts=False),
        Domain(name="dna", label="DNA", draw=_dna, texts=True),
        Domain(name=OTHER, label="something else", draw=_other, texts=False),
    )
}


def find_domain(name: str) -> Domain:
    """Raises UnknownNameError."""
    if name not in DOMAINS:
        raise UnknownNameError("domain", name, known=DOMAINS)
    return DOMAINS[name]


def data_digest() -> str:
    """Digest of all that items are drawn from."""
    return digest(f"{VERSION}\n{open_corpus('code').digest}\n{open_corpus('kjv').digest}")


def draw_item(
    domain: Domain,
    tokenizer: Tokenizer,
    *,
    seed: int,
    split: str,
    index: int,
    context_len: int,
    answer_tokens: int,
) -> Item:
    """One item of at most `context_len` tokens, prompt and answer together.

    Args:
        answer_tokens: of domains that continue a text; the others' answers are as long as they are.

    Raises:
        TooShortError: no document of the split is long enough.
    """
    # Streams are told apart by place: a new domain at the end of DOMAINS moves no other.
    rng = np.random.default_rng((seed, list(DOMAINS).index(domain.name), SPLITS.index(split), index))
    start = np.asarray([] if tokenizer.bos_id is None else [tokenizer.bos_id], dtype=np.int64)
    room = context_len - len(start)
    text = domain.draw(rng, split, room * BYTES_PER_TOKEN if domain.texts else room)
    if text.answer is None:
        ids = tokenizer.encode(text.prompt)[:room]
        prompt, answer = ids[: room - answer_tokens], ids[room - answer_tokens :]
    else:
        prompt, answer = tokenizer.encode(text.prompt), tokenizer.encode(text.answer)
    name = f"{domain.name}/{split}/{index}"
    return Item(
        name=name,
        domain=domain.name,
        split=split,
        source=text.source or name,
        prompt=np.concatenate([start, prompt]),
        answer=answer,
        answer_bytes=int(tokenizer.byte_lengths(answer).sum()),
    )


def draw_items(
    domain: Domain,
    tokenizer: Tokenizer,
    *,
    seed: int,
    split: str,
    count: int,
    context_len: int,
    answer_tokens: int,
    first: int = 0,
) -> list[Item]:
    """Items `first` to `first + count`; a larger count only adds. Raises TooShortError."""
    return [
        draw_item(
            domain,
            tokenizer,
            seed=seed,
            split=split,
            index=index,
            context_len=context_len,
            answer_tokens=answer_tokens,
        )
        for index in range(first, first + count)
    ]


def read_domains(text: str) -> list[Domain]:
    """Domains by a comma-separated list, each once. Raises UnknownNameError."""
    return [find_domain(name) for name in dict.fromkeys(part.strip() for part in text.split(","))]


def pad(rows: Sequence[Int[np.ndarray, "_"]]) -> Int[np.ndarray, "B T"]:
    """Rows side by side, filled with 0 to the right: what a causal model reads after a row's end changes nothing."""
    filled = np.zeros((len(rows), max(len(row) for row in rows)), dtype=np.int64)
    for place, row in enumerate(rows):
        filled[place, : len(row)] = row
    return filled
