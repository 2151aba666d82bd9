from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from made_genomes import CORPUS, corpus, dna
from stub_engine import PairTokenizer, StubEngine, corpus_of, run_task, scattered, uniform

from ttbench.corpora.corpus import Corpus, Document
from ttbench.errors import CorpusError, TooLongError, UsageError
from ttbench.tasks.genomics import kmers
from ttbench.tasks.genomics.genomics import Genomics, GenomicsParams
from ttbench.tasks.genomics.markov import ALPHA, ORDER, Markov, bases_of
from ttbench.tasks.perplexity.perplexity import Perplexity

SMALL: dict[str, Any] = {"max_context": 32, "window": 16, "windows": 6}


def measure(engine: StubEngine | None = None, *, text: Corpus = CORPUS, context_len: int = 29, **options):
    return run_task(
        Genomics(), engine=engine or StubEngine(uniform(257)), corpus=text, context_len=context_len, **SMALL, **options
    )


def bits(samples, numerator: str, denominator: str = "num_bases") -> float:
    return sum(s.values[numerator] or 0 for s in samples) / sum(s.values[denominator] or 0 for s in samples)


def by_definition(train: bytes, text: bytes, place: int) -> float:
    """The interpolated share of a base, from counts made with slices."""
    share = 0.25
    for order in range(min(ORDER, place) + 1):
        context = text[place - order : place]
        # every place of the training text counts that has ORDER bases before it, for every order alike
        followers = Counter(train[at : at + 1] for at in range(ORDER, len(train)) if train[at - order : at] == context)
        share = (followers[text[place : place + 1]] + ALPHA * share) / (followers.total() + ALPHA)
    return share


def test_a_uniform_model_of_bytes_pays_for_the_bytes_that_are_no_base() -> None:
    samples = measure()
    assert bits(samples, "nats") / math.log(2) == pytest.approx(math.log2(257))
    assert bits(samples, "even_nats") / math.log(2) == pytest.approx(2.0)
    assert sum(s.values["num_bases"] or 0 for s in samples) == 6 * SMALL["window"]


def test_bits_per_base_are_the_bits_per_byte_that_perplexity_finds_on_the_same_bases() -> None:
    ours = measure(StubEngine(scattered(257)))
    theirs = run_task(
        Perplexity(), engine=StubEngine(scattered(257)), corpus=CORPUS, context_len=29, protocol="fixed", **SMALL
    )
    assert [s.keys["window_start"] for s in ours] == [s.keys["window_start"] for s in theirs]
    assert [s.values["nats"] for s in ours] == [s.values["nats"] for s in theirs]


@pytest.mark.parametrize("place", [0, 1, 5, 12, 40])
def test_markov_is_its_definition(place: int) -> None:
    train, text = dna(400, seed=3, letters="AAC"), dna(60, seed=4, letters="AAC")
    model = Markov([Document(name="a", text=train)])
    found = model.nats(bases_of(Document(name="b", text=text)), place)
    assert len(found) == 60 - place
    assert found[0] == pytest.approx(-math.log(by_definition(train, text, place)), rel=1e-12)


def test_markov_shares_add_up_to_one_and_nothing_after_a_base_moves_it() -> None:
    model = Markov(CORPUS.documents("train"))
    text = np.array([0, 1, 2, 3] * 5)
    last = [model.nats(np.append(text, base), len(text))[0] for base in range(4)]
    assert np.exp(-np.array(last)).sum() == pytest.approx(1.0, rel=1e-12)
    longer = np.append(text, [3, 3, 3])
    assert (model.nats(longer, 4)[: len(text) - 4] == model.nats(text, 4)).all()


def test_markov_learns_from_train_alone_and_beats_two_bits_where_there_is_order() -> None:
    ordered = corpus(train={"a": b"ACGGT" * 2_000}, test={"t": b"ACGGT" * 40})
    found = measure(text=ordered)
    assert bits(found, "markov_nats") / math.log(2) < 0.9
    assert bits(measure(), "markov_nats") / math.log(2) == pytest.approx(2.0, abs=0.1)


def test_a_near_duplicate_is_told_by_its_words_on_either_strand() -> None:
    train = dna(600, seed=5)
    other_strand = train[::-1].translate(bytes.maketrans(b"ACGT", b"TGCA"))
    copies = corpus(train={"a": train}, test={"same": train[100:300], "other": other_strand[100:300]})
    assert bits(measure(text=copies), "seen_bases") == 1.0
    assert bits(measure(), "seen_bases") == 0.0


def test_words_are_those_that_slices_and_their_reverse_complements_give() -> None:
    text = dna(40, seed=6)
    complement = bytes.maketrans(b"ACGT", b"TGCA")
    names = [text[i : i + kmers.K] for i in range(len(text) - kmers.K + 1)]
    low = [min(word, word[::-1].translate(complement)) for word in names]
    expected = [int("".join(str(b"ACGT".index(letter)) for letter in word), 4) for word in low]
    assert kmers.words_of(bases_of(Document(name="a", text=text))).tolist() == expected
    assert len(kmers.words_of(np.zeros(kmers.K - 1, dtype=np.int64))) == 0


def test_tokens_of_two_bases_score_the_same_kind_of_bases_with_references_in_place() -> None:
    tokenizer = PairTokenizer()
    engine = StubEngine(uniform(tokenizer.vocab_size), vocab_size=tokenizer.vocab_size)
    samples = measure(engine, tokenizer=tokenizer)
    assert {(s.values["num_tokens"], s.values["num_bases"]) for s in samples} <= {(16, 32), (16, 31)}
    texts = {document.name: document for document in CORPUS.documents("test")}
    model = Markov(CORPUS.documents("train"))
    for sample in samples:
        first = 2 * int(sample.keys["window_start"] or 0)
        text = bases_of(texts[str(sample.keys["document"])])[: first + int(sample.values["num_bases"] or 0)]
        assert sample.values["markov_nats"] == pytest.approx(float(model.nats(text, first).sum()), rel=1e-12)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 6, 8])
def test_windows_are_the_same_however_many_are_read_at_once(batch_size: int) -> None:
    told: list[tuple[int, int]] = []
    engine = StubEngine(scattered(257))
    samples = measure(engine, batch_size=batch_size, progress=lambda done, total: told.append((done, total)))
    alone = measure(StubEngine(scattered(257)), batch_size=1)
    assert [(s.keys, s.values) for s in samples] == [(s.keys, s.values) for s in alone]
    assert told == [(min(done, 6), 6) for done in range(batch_size, 6 + batch_size, batch_size)]
    assert engine.batch_sizes == [min(batch_size, 6 - done) for done in range(0, 6, batch_size)]


def test_compressors_stand_on_the_first_row_of_a_stretch_only() -> None:
    samples = measure()
    by_document = {
        name: [s.values["bzip2_bytes"] for s in rows]
        for name, rows in itertools.groupby(samples, key=lambda s: s.keys["document"])
    }
    assert len(by_document) == 3
    assert all(first is not None and set(rest) <= {None} for first, *rest in by_document.values())


@pytest.mark.parametrize("train", [b"ACGNT" * 20, b"acgt" * 20, b">x\nACGT" * 20])
def test_letters_that_are_no_bases_are_refused_with_their_place(train: bytes) -> None:
    text = corpus(train={"a": train}, test={"t": dna(200, seed=1)})
    with pytest.raises(UsageError, match=r"document 'a' holds b'.{1,2}' at byte \d; .*--corpus genomes"):
        measure(text=text)


def test_what_cannot_be_measured_says_so() -> None:
    with pytest.raises(TooLongError, match="at most 20"):
        measure(StubEngine(uniform(257), max_context=20))
    with pytest.raises(CorpusError, match="no documents in its train split"):
        measure(text=corpus_of({"t": dna(200, seed=1)}))
    with pytest.raises(UsageError, match="windows is 0"):
        Genomics().check(GenomicsParams(windows=0))
    assert Genomics().settle(GenomicsParams(), (16_384,)).max_context == 16_384
