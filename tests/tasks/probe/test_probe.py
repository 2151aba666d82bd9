from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from stub_engine import run_task

from ttbench.corpora.corpus import Corpus, Document, make_corpus, open_corpus
from ttbench.engines.eager import EagerEngine
from ttbench.engines.hf.hf_engine import HFEngine
from ttbench.errors import CorpusError, UnknownNameError, UnsupportedError, UsageError
from ttbench.registry import ARCHITECTURES
from ttbench.report.statistics.stats import estimate_proportion
from ttbench.tasks.probe.logistic import fit
from ttbench.tasks.probe.probe import Probe, ProbeParams, count_words


class Telling:
    """An engine that shows a vector made from each sequence."""

    choices: ClassVar[dict[str, str]] = {}

    def __init__(self, tell: Any) -> None:
        self.tell = tell
        self.read: list[tuple[np.ndarray, int]] = []

    def features(self, ids: np.ndarray, first: int) -> np.ndarray:
        self.read.append((ids, first))
        return np.stack([np.asarray(self.tell(row), dtype=np.float64) for row in ids])


def sequence(label: str, number: int, *, size: int = 20) -> bytes:
    """Class p has more of C and G."""
    rng = np.random.default_rng((ord(label), number))
    shares = [0.15, 0.35, 0.35, 0.15] if label == "p" else [0.3, 0.2, 0.2, 0.3]
    return "".join(rng.choice(list("ACGT"), size=size + number % 3, p=shares)).encode()


def corpus(*, train: dict[str, int], test: dict[str, int]) -> Corpus:
    splits = {
        split: [
            Document(name=f"{label}/{i}", text=sequence(label, i + offset))
            for label, count in counts.items()
            for i in range(count)
        ]
        for split, counts, offset in (("train", train, 0), ("test", test, 10_000))
    }
    return make_corpus("own", splits, source="test")


CORPUS = corpus(train={"n": 60, "p": 40}, test={"n": 50, "p": 30})


def measure(engine: Any, text: Corpus = CORPUS, *, context_len: int = 64, **options: Any):
    return run_task(Probe(), engine=engine, corpus=text, context_len=context_len, **options)


def share(samples, name: str) -> float:
    return sum(sample.values[name] for sample in samples) / len(samples)


def test_a_model_that_says_nothing_gets_chance_exactly() -> None:
    samples = measure(Telling(lambda row: [1.0, -3.0]))
    assert share(samples, "hits") == share(samples, "chance_hits") == 50 / 80
    assert {sample.evidence["answer"] for sample in samples if sample.evidence} == {"n"}


def test_what_a_model_answers_is_no_key_so_that_all_sequences_are_compared() -> None:
    silent, knowing = (
        measure(Telling(tell)) for tell in (lambda row: [1.0, -3.0], lambda row: [np.isin(row, [67, 71]).mean()])
    )
    assert share(silent, "hits") != share(knowing, "hits")
    told = [
        [{name: value for name, value in sample.keys.items() if isinstance(value, str)} for sample in samples]
        for samples in (silent, knowing)
    ]
    assert told[0] == told[1]
    kept = knowing[0].evidence
    assert kept is not None
    assert kept["prompt_start"].encode() in {document.text for document in CORPUS.documents("test")}
    assert kept["class_nats"][kept["answer"]] == min(kept["class_nats"].values())


def test_a_model_that_says_noise_gets_chance_within_its_interval() -> None:
    rng = np.random.default_rng(0)
    even = corpus(train={"n": 200, "p": 200}, test={"n": 150, "p": 150})
    samples = measure(Telling(lambda row: rng.normal(size=6)), even)
    found = estimate_proportion([float(s.values["hits"] or 0) for s in samples], [1] * len(samples))
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 0.5 <= found.high


def test_a_model_that_knows_gets_all_and_counts_of_words_get_more_than_chance() -> None:
    labels = {document.text: document.name[0] for split in ("train", "test") for document in CORPUS.documents(split)}
    samples = measure(Telling(lambda row: [0.0, labels[bytes(row[1:].astype(np.uint8))] == "p", 5.0]))
    assert share(samples, "hits") == 1.0
    assert share(samples, "counts_hits") > share(samples, "chance_hits")


def test_the_test_split_moves_nothing_that_is_fitted() -> None:
    smaller = corpus(train={"n": 60, "p": 40}, test={"n": 5, "p": 5})
    tell = Telling(lambda row: [float((row == ord("C")).mean()), float(len(row))])
    names = {s.keys["sequence"]: s for s in measure(tell, smaller)}
    both = [(names[s.keys["sequence"]], s) for s in measure(tell) if s.keys["sequence"] in names]
    assert len(both) == 10
    assert all(one.values["nats"] == pytest.approx(other.values["nats"], rel=1e-9) for one, other in both)


def test_sequences_are_read_alone_behind_bos_up_to_the_context_without_padding() -> None:
    engine = Telling(lambda row: [float(row.sum())])
    samples = measure(engine, context_len=21)
    assert all((ids[:, 0] == 256).all() and ids.max() == 256 and ids.shape[1] <= 22 for ids, _ in engine.read)
    assert {first for _, first in engine.read} == {1}
    assert {(s.values["num_tokens"], s.values["cut_tokens"]) for s in samples} == {(20, 0), (21, 0), (21, 1)}
    engine = Telling(lambda row: [float(row.sum())])
    measure(engine, pool="last")
    assert all(first == ids.shape[1] - 1 for ids, first in engine.read)


def test_every_row_says_that_published_numbers_are_of_fine_tuned_models() -> None:
    samples = measure(Telling(lambda row: [1.0]))
    assert {sample.keys["comparable_to_published"] for sample in samples} == {False}
    assert all("fine-tuned" in str(sample.keys["not_comparable_because"]) for sample in samples)


def test_a_sequence_that_stands_in_train_is_marked() -> None:
    twin = Document(name="n/twin", text=sequence("n", 3))
    splits = {split: [*CORPUS.documents(split)] for split in ("train", "test")}
    text = make_corpus("own", {**splits, "test": [*splits["test"], twin]}, source="test")
    assert sum(s.values["in_train"] or 0 for s in measure(Telling(lambda row: [1.0]), text)) == 1


def test_a_limit_draws_the_same_sequences_whatever_reads_them() -> None:
    drawn = [
        {s.keys["sequence"] for s in measure(Telling(lambda row, width=width: [1.0] * width), limit=30)}
        for width in (1, 3)
    ]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 30


def test_corpora_that_cannot_be_probed_are_refused() -> None:
    flat = make_corpus("flat", {s: [Document(name="x", text=b"A")] for s in ("train", "test")}, source="test")
    with pytest.raises(CorpusError, match=r"document 'x' has no class; .* CLASS/NAME"):
        measure(Telling(lambda row: [1.0]), flat)
    with pytest.raises(CorpusError, match=r"these classes .*: n 60/50, p 1/30; .* two sequences to train on"):
        measure(Telling(lambda row: [1.0]), corpus(train={"n": 60, "p": 1}, test={"n": 50, "p": 30}))
    with pytest.raises(CorpusError, match="two classes at least"):
        measure(Telling(lambda row: [1.0]), corpus(train={"n": 6}, test={"n": 5}))


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown pool 'max'"):
        Probe().check(ProbeParams(pool="max"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="limit is 0"):
        Probe().check(ProbeParams(limit=0))


@pytest.mark.parametrize("architecture", ["transformer", "ttt-linear", "skyformer"])
def test_features_are_what_the_head_reads_averaged(architecture: str) -> None:
    model = ARCHITECTURES.load(architecture).tiny(vocab_size=257)
    engine = EagerEngine(model, device="cpu", dtype="float64")
    ids = torch.arange(30).reshape(2, 15)
    found = engine.features(ids, 1)
    with torch.inference_mode():
        expected = torch.stack([engine.model(row[None])[0, 1:].mean(dim=0) for row in ids])
        logits = engine.model.head(engine.model(ids)[:, -1])
        last = engine.model.head(torch.from_numpy(engine.features(ids, 14)))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(last, logits)
    with pytest.raises(UsageError, match="first is 15"):
        engine.features(ids, 15)


def test_the_engine_of_transformers_refuses_with_what_to_do() -> None:
    with pytest.raises(UnsupportedError, match="--engine eager"):
        HFEngine.features(object(), [[1]], 0)  # pyright: ignore[reportArgumentType]


def test_a_folder_in_the_benchmarks_layout_is_probed_end_to_end(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for document in CORPUS.documents(split):
            path = tmp_path / split / f"{document.name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(document.text)
    model = ARCHITECTURES.load("ttt-linear").tiny(vocab_size=257)
    engine = EagerEngine(model, device="cpu", dtype="float32")
    samples = measure(engine, open_corpus(f"genomic-benchmarks:{tmp_path}"))
    assert len(samples) == 80
    assert 0.3 < share(samples, "hits") <= 1.0
    assert len(measure(engine, open_corpus(f"text:{tmp_path}"))) == 80


def test_logistic_regression_finds_the_minimum_of_its_loss() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 3)) * [1.0, 10.0, 0.1] + [0.0, 5.0, -2.0]
    labels = (x[:, 0] + 0.5 * rng.normal(size=300) > 0).astype(int) + 2 * (x[:, 1] > 12)
    labels = np.minimum(labels, 2)
    found = fit(x, labels, num_classes=3, seed=0)
    shares = np.exp(found.log_shares(x))
    error = (shares - np.eye(3)[labels]) / len(x)
    scaled = (x - found.mean) * found.scale
    # the derivative of the loss is zero in every weight and intercept
    np.testing.assert_allclose(scaled.T @ error + found.penalty * found.weights, 0, atol=1e-4)
    np.testing.assert_allclose(error.sum(axis=0), 0, atol=1e-4)


def test_words_are_counted_where_all_four_letters_are_bases() -> None:
    counts = count_words([Document(name="a", text=b"ACGTNACGT"), Document(name="b", text=b"AC")])
    assert counts[0, int("0123", 4)] == 1.0
    assert counts[0].sum() == 1.0
    assert counts[1].sum() == 0.0
