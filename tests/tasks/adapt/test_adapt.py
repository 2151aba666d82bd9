"""The adapt task over a tiny checkpoint and tiny experts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stub_engine import stored

from ttbench.adapt.domains import DOMAINS, Item, draw_items
from ttbench.adapt.experts import DISPATCH, Expert, save_expert
from ttbench.adapt.matrices import choose_matrices
from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.engines.eager import EagerEngine
from ttbench.errors import UnknownNameError, UnsupportedError, UsageError
from ttbench.models.transformer import Transformer
from ttbench.tasks.adapt.adapt import STRATEGIES, Adapt
from ttbench.tasks.adapt.adapt_metrics import METRICS
from ttbench.tasks.base import Bench
from ttbench.types import Cell, Checkpoint, Sample

SMALL: dict[str, Any] = {
    "limit": 3,
    "answer_tokens": 16,
    "shots": 2,
    "population": 3,
    "elites": 1,
    "iterations": 1,
    "rounds": 1,
}
CHECKPOINT = Checkpoint(
    name="tiny",
    path="tiny",
    architecture="transformer",
    architecture_version=1,
    dialect="llama",
    provenance="local",
    revision=None,
    weights_digest="w",
    config_digest="c",
    tokenizer_digest=ByteTokenizer().digest,
    vocab_size=257,
    train_ctx=None,
    num_params=0,
    num_params_non_embedding=0,
    weight_bytes=0,
    cost=None,
)


def make_engine() -> EagerEngine:
    torch.manual_seed(0)
    return EagerEngine(Transformer.tiny(), device="cpu", dtype="float32")


def expert(name: str, domain: str, *, method: Any = "svf", objective: str = "next-token", seed: int = 0) -> Expert:
    rng = np.random.default_rng(seed)
    weights = choose_matrices(make_engine().model, "*.mlp.*")

    def parts(rows: int, columns: int) -> dict[str, np.ndarray]:
        if method == "svf":
            return {"z": rng.normal(1, 0.3, min(rows, columns)).astype(np.float32)}
        return {"A": rng.normal(size=(2, columns)).astype(np.float32), "B": np.ones((rows, 2), np.float32)}

    return Expert(
        name=name,
        method=method,
        form="paper" if method == "svf" else None,
        objective=objective,
        domain=domain,
        base="tiny",
        base_digest="w",
        scale=None if method == "svf" else 0.1,
        tensors={matrix: parts(*weight.shape) for matrix, weight in weights.items()},
        shapes={matrix: (weight.shape[0], weight.shape[1]) for matrix, weight in weights.items()},
        training={},
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    for seed, domain in enumerate(("code", "dna", DISPATCH)):
        save_expert(expert(domain, domain, seed=seed), folder / domain)
    save_expert(expert("lora-dna", "dna", method="lora"), folder / "lora-dna")
    save_expert(expert("rl-dna", "dna", objective="reinforce", seed=5), folder / "rl-dna")
    return folder


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def measure(library: Path, *, engine: EagerEngine | None = None, **given: Any) -> list[Sample]:
    task = Adapt()
    checkpoint = given.pop("checkpoint", CHECKPOINT)
    params = task.settle(task.Params(**{**SMALL, "experts": str(library), **given}), (64,))
    cell = Cell(
        task="adapt",
        task_version=Adapt.version,
        checkpoint=checkpoint,
        context_len=96,
        params=dataclasses.asdict(params),
        corpus=None,
        corpus_digest=None,
        seed=0,
        dtype="float32",
        device="cpu",
        engine="eager",
        attention="sdpa",
        batch_size=1,
        threads=1,
    )
    used = engine or make_engine()
    bench = Bench(
        cell=cell,
        open_engine=lambda: used,
        open_corpus=lambda: pytest.fail("the task names its own texts"),
        open_tokenizer=ByteTokenizer,
        progress=lambda done, total: None,
    )
    return stored(task, list(task.measure(bench)))


@pytest.fixture(scope="module")
def samples(library: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        engine = make_engine()
        held = {name: value.clone() for name, value in engine.model.state_dict().items()}
        found = measure(library, engine=engine)
        assert all(torch.equal(held[name], value) for name, value in engine.model.state_dict().items())
        return found


def of(samples: list[Sample], **keys: str) -> list[Sample]:
    return [sample for sample in samples if keys.items() <= sample.keys.items()]


def test_every_strategy_scores_the_same_items_of_every_domain(samples: list[Sample]) -> None:
    wanted = {sample.keys["item"] for sample in of(samples, phase="item", strategy="base")}
    assert len(wanted) == 3 * len(DOMAINS)
    for strategy in STRATEGIES:
        mine = of(samples, phase="item", strategy=strategy)
        assert {sample.keys["item"] for sample in mine} == wanted
        assert all("/test/" in str(sample.keys["item"]) for sample in mine)
        for sample in mine:
            values = sample.values
            assert 0 <= (values["num_hits"] or 0) <= (values["num_tokens"] or 0)
            assert (values["num_exact"] == 1) == (values["num_hits"] == values["num_tokens"])


def test_the_base_is_what_the_engine_says_without_any_of_this(samples: list[Sample]) -> None:
    from ttbench.adapt.item_answers import read_answers

    items = draw_items(
        DOMAINS["code"], ByteTokenizer(), seed=0, split="test", count=3, context_len=96, answer_tokens=16
    )
    alone = [answer.nats for item in items for answer in read_answers(make_engine(), [item])]
    assert [s.values["nats"] for s in of(samples, phase="item", strategy="base", domain="code")] == alone


def test_without_an_expert_for_its_domain_an_oracle_is_the_base(samples: list[Sample]) -> None:
    def nats(strategy: str, domain: str) -> list[Any]:
        return [s.values["nats"] for s in of(samples, phase="item", strategy=strategy, domain=domain)]

    for strategy in ("oracle", "reinforce", "lora"):
        for domain in ("prose", "recall", "other"):
            assert nats(strategy, domain) == nats("base", domain)
        assert nats(strategy, "dna") != nats("base", "dna")


def test_a_dispatch_sends_each_prompt_to_one_label_and_the_rest_send_none(samples: list[Sample]) -> None:
    for strategy in ("prompt", "classifier"):
        for item in {s.keys["item"] for s in of(samples, phase="item")}:
            rows = of(samples, phase="dispatch", strategy=strategy, item=str(item))
            assert {s.keys["sent_to"] for s in rows} == {"code", "dna", "other"}
            assert sum(s.values["num_picked"] or 0 for s in rows) == 1
        for sample in of(samples, phase="item", strategy=strategy):
            # a domain without an expert is rightly sent to the base
            right = sample.keys["domain"] if sample.keys["domain"] in ("code", "dna") else "other"
            rows = of(samples, phase="dispatch", strategy=strategy, item=str(sample.keys["item"]))
            (picked,) = (s.keys["sent_to"] for s in rows if s.values["num_picked"])
            assert sample.values["num_dispatched_right"] == int(picked == right)
    for strategy in ("base", "few-shot", "oracle", "lora", "reinforce"):
        assert not of(samples, phase="dispatch", strategy=strategy)


def test_pass_1_is_timed_where_there_is_one_and_pass_2_everywhere(samples: list[Sample]) -> None:
    for sample in of(samples, phase="passes"):
        adapts = sample.keys["strategy"] in ("prompt", "classifier", "few-shot")
        assert (sample.values["pass1_s"] is not None) == adapts
        assert sample.values["pass1_s"] is None or sample.values["pass1_s"] > 0
        assert (sample.values["pass2_s"] or 0) > 0
        assert sample.values["num_prompts"] == 3
        assert (sample.values["switch_s"] is None) == (sample.values["num_switches"] == 0)


def test_an_expert_is_counted_and_what_is_held_beside_the_model_too(samples: list[Sample]) -> None:
    memory = {s.keys["strategy"]: s.values for s in of(samples, phase="memory")}
    assert memory["base"]["held_bytes"] == memory["base"]["expert_params"] == 0
    assert memory["oracle"]["expert_params"] == 2 * 3 * 32
    assert memory["lora"]["expert_params"] == 2 * 3 * 2 * (32 + 48)
    assert (memory["oracle"]["held_bytes"] or 0) > (memory["lora"]["held_bytes"] or 0) > 0
    assert memory["oracle"]["num_experts"] == 2
    assert memory["classifier"]["num_experts"] == 3


def test_every_metric_has_rows_to_be_made_of(samples: list[Sample]) -> None:
    for metric in METRICS:
        rows = [{**s.keys, **s.values} for s in samples if metric.where.items() <= s.keys.items()]
        assert rows, metric.name
        for name in filter(None, (metric.numerator, metric.denominator, *metric.axes)):
            if name not in ("context_len", "round"):
                assert any(row.get(name) is not None for row in rows), f"{metric.name}: {name}"
    assert Counter(s.keys["phase"] for s in samples).keys() == {"item", "dispatch", "passes", "memory"}


def test_the_same_cell_gives_the_same_quality(library: Path, samples: list[Sample]) -> None:
    again = measure(library, strategies="few-shot,prompt", domains="dna")
    for strategy in ("few-shot", "prompt"):
        one, two = (of(s, phase="item", strategy=strategy, domain="dna") for s in (samples, again))
        assert [s.values["nats"] for s in one] == [s.values["nats"] for s in two]


def test_experts_of_other_weights_are_unsupported(library: Path) -> None:
    other = dataclasses.replace(CHECKPOINT, weights_digest="other")
    with pytest.raises(UnsupportedError, match=r"trained over other weights .*ttbench train-experts --checkpoint tiny"):
        measure(library, checkpoint=other)


def test_a_strategy_without_its_experts_is_unsupported(tmp_path: Path) -> None:
    save_expert(expert("dna", "dna"), tmp_path / "dna")
    for strategy, lacks in (("classifier", "no expert for 'dispatch'"), ("lora", "no lora experts by next-token")):
        with pytest.raises(UnsupportedError, match=lacks):
            measure(tmp_path, strategies=strategy, domains="dna")


def test_two_experts_for_one_domain_are_an_error(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_expert(expert(name, "dna"), tmp_path / name)
    with pytest.raises(UsageError, match="experts 'a' and 'b' are for the same domain"):
        measure(tmp_path, strategies="oracle", domains="dna")


def test_experts_from_elsewhere_stand_where_those_by_next_token_would(tmp_path: Path) -> None:
    for name, objective in (("ours", "next-token"), ("theirs", "unknown")):
        save_expert(expert("dna", "dna", objective=objective), tmp_path / name / "dna")
    ours, theirs = (
        measure(tmp_path / name, strategies="prompt,oracle", domains="dna,other") for name in ("ours", "theirs")
    )
    assert [s.values.get("nats") for s in ours] == [s.values.get("nats") for s in theirs]
    assert of(theirs, phase="memory", strategy="oracle")[0].values["num_experts"] == 1


def test_an_expert_for_a_domain_that_is_none_of_ours_is_an_error(tmp_path: Path) -> None:
    save_expert(expert("math", "math"), tmp_path / "math")
    with pytest.raises(UnknownNameError, match=r"unknown domain 'math' .*expert 'math'"):
        measure(tmp_path, strategies="prompt", domains="dna")


def test_what_is_chosen_does_not_depend_on_the_answers_that_are_scored(
    library: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_other_answers(*given: Any, split: str, **sizes: Any) -> list[Item]:
        drawn = draw_items(*given, split=split, **sizes)
        if split != "test":
            return drawn
        return [dataclasses.replace(item, answer=np.full_like(item.answer, 7)) for item in drawn]

    monkeypatch.setattr("ttbench.tasks.adapt.adapt.draw_items", with_other_answers)
    adapting = ("prompt", "classifier", "few-shot")
    changed = measure(library, strategies=",".join(adapting))
    for strategy in adapting:
        one, two = (of(found, phase="item", strategy=strategy) for found in (samples, changed))
        assert [(s.evidence or {})["choice"] for s in one] == [(s.evidence or {})["choice"] for s in two]
        assert all(a.values["nats"] != b.values["nats"] for a, b in zip(one, two, strict=True))


def test_what_the_experts_hold_is_part_of_the_cell(library: Path, tmp_path: Path) -> None:
    task = Adapt()
    settled = task.settle(task.Params(experts=str(library)), (64,))
    assert settled.inputs_digest
    save_expert(expert("dna", "dna", seed=9), tmp_path / "dna")
    assert task.settle(task.Params(experts=str(tmp_path)), (64,)).inputs_digest != settled.inputs_digest


def test_tokens_are_those_counted_by_hand() -> None:
    task = Adapt()

    def tokens(strategies: str) -> int:
        sizes = {"limit": 2, "shots": 7, "population": 3, "iterations": 5}
        return task.tokens(task.Params(strategies=strategies, domains="code,dna", **sizes), 10)

    # 4 items of 10 tokens: once by each strategy, and once more by a dispatch
    assert tokens("base") == tokens("oracle") == 40
    assert tokens("base,prompt,classifier") == 200
    # 3 candidates in each of 5 generations read 7 items of both domains
    assert tokens("few-shot") == 40 + 2100


def test_there_are_enough_rounds_for_an_interval_when_none_are_asked_for() -> None:
    assert Adapt().num_rounds(Adapt.Params()) == 3


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"strategies": "oracel"}, UnknownNameError, "did you mean 'oracle'"),
        ({"domains": "poetry"}, UnknownNameError, "unknown domain 'poetry'"),
        ({"shots": 0}, UsageError, "shots is 0; it must be at least 1"),
        ({"elites": 99}, UsageError, "more than population"),
    ],
)
def test_parameters_without_a_meaning_are_refused(given: dict[str, Any], error: Any, message: str) -> None:
    task = Adapt()
    with pytest.raises(error, match=message):
        task.check(task.Params(**given))
