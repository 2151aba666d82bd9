"""Pass 1: dispatch, search, and what adaptation may see."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_experts import make_expert, native

from ttbench.adapt.cem import CemSettings, cross_entropy_search
from ttbench.adapt.decompositions import DecompositionCache
from ttbench.adapt.domains import DOMAINS, draw_items
from ttbench.adapt.experts import OTHER
from ttbench.adapt.item_answers import label_nats, read_answers
from ttbench.adapt.strategies import Dispatch, FewShot, Fixed, label_ids, question_ids
from ttbench.adapt.switch import Switch
from ttbench.adapt.two_pass import TwoPass
from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.errors import UsageError

TOKENIZER = ByteTokenizer()
SETTINGS = CemSettings(population=8, elites=2, iterations=3)
SIZES = {"seed": 0, "count": 3, "context_len": 64, "answer_tokens": 8}


def items(split: str, domain: str = "dna") -> list[Any]:
    return draw_items(DOMAINS[domain], TOKENIZER, split=split, **SIZES)


def make_switch(engine: Any, folder: Path, *names: str) -> Switch:
    experts = [make_expert(engine.model, name, seed=place) for place, name in enumerate(names)]
    return Switch(engine.model, experts, cache=DecompositionCache(folder))


# What adaptation may see


@pytest.mark.parametrize("split", ["test", "train"])
def test_adaptation_refuses_items_that_are_not_held_out(split: str, tmp_path: Path) -> None:
    engine = native()
    with make_switch(engine, tmp_path, "a", "b") as switch:
        few = FewShot(engine, switch, experts=["a", "b"], settings=SETTINGS, seed=0)
        for strategy in (few, Fixed({}), Dispatch(engine, switch, TOKENIZER, experts={"dna": "a"}, classifier=None)):
            with pytest.raises(UsageError, match=f"is of split {split}; adaptation may look at valid items only"):
                strategy.learn([*items("valid"), *items(split)])
        assert few.found is None


# Reading


def test_answers_are_scored_as_the_engine_scores_them_alone() -> None:
    engine = native(dtype="float64")
    mixed = [*items("test"), *items("test", "recall")]
    for item, answer in zip(mixed, read_answers(engine, mixed), strict=True):
        row = np.concatenate([item.prompt, item.answer])
        engine.reset(1, len(row))
        targets = row[1:].copy()
        targets[: len(item.prompt) - 1] = -1
        assert answer.nats == pytest.approx(engine.score(row[None, :-1], targets[None]).sum(), rel=1e-9)
        engine.reset(1, len(row))
        written = engine.generate(item.prompt[None], len(item.answer))[0]
        assert answer.exact == bool((written == item.answer).all())


def test_labels_are_scored_as_continuations_of_the_prompt() -> None:
    engine = native(dtype="float64")
    prompt, labels = items("test")[0].prompt, [np.array([1, 2, 3]), np.array([4])]
    found = label_nats(engine, prompt, labels)
    for nats, label in zip(found, labels, strict=True):
        row = np.concatenate([prompt, label])
        engine.reset(1, len(row))
        assert nats == pytest.approx(engine.score(row[None, :-1], row[None, 1:])[0, -len(label) :].sum(), rel=1e-9)
    assert len(label_nats(engine, prompt[:1], labels)) == 2


# Dispatch


class Scripted:
    """Engine whose nats say which label it likes, and under which weights it was asked."""

    def __init__(self, liked: str, switch: Any) -> None:
        self.liked, self.switch, self.asked = label_ids(liked, TOKENIZER), switch, []

    def reset(self, batch_size: int, max_len: int) -> None: ...

    def prefill(self, ids: Any) -> None:
        self.prompt = np.asarray(ids)[0]

    def snapshot(self) -> None: ...

    def restore(self, snapshot: Any) -> None: ...

    def score(self, ids: Any, targets: Any) -> np.ndarray:
        self.asked.append(dict(self.switch.choice))
        empty = len(self.prompt) < 40
        return np.array([[1.0 if np.array_equal(targets[0], self.liked) and not empty else 5.0]])


@pytest.mark.parametrize("classifier", [None, "judge"])
def test_the_label_that_the_model_likes_names_the_expert_and_other_the_base(
    classifier: str | None, tmp_path: Path
) -> None:
    with make_switch(native(), tmp_path, "a", "b", "judge") as switch:
        for liked, choice in (("dna", {"a": 1.0}), ("code", {"b": 1.0}), (OTHER, {})):
            engine: Any = Scripted(liked, switch)
            dispatch = Dispatch(engine, switch, TOKENIZER, experts={"dna": "a", "code": "b"}, classifier=classifier)
            assert dispatch.choose(items("test")[0].prompt) == choice
            assert all(asked == ({} if classifier is None else {"judge": 1.0}) for asked in engine.asked)


def test_the_question_stands_after_the_prompt() -> None:
    prompt = items("test")[0].prompt
    asked = question_ids(prompt, TOKENIZER)
    np.testing.assert_array_equal(asked[: len(prompt)], prompt)
    assert TOKENIZER.decode(asked[len(prompt) :]) == b"\n\nThe text above is"


# Few-shot


def test_the_search_finds_the_best_shares_and_repeats_itself() -> None:
    wanted = np.array([0.8, 0.1, 0.4])
    settings = CemSettings(population=24, elites=6, iterations=12)

    def search(seed: int) -> Any:
        rng = np.random.default_rng(seed)
        return cross_entropy_search(
            lambda shares: (-float(np.abs(shares - wanted).max()),), num_dims=3, settings=settings, rng=rng
        )

    found = search(0)
    np.testing.assert_allclose(found.shares, wanted, atol=0.05)
    np.testing.assert_array_equal(found.shares, search(0).shares)
    assert found.num_tried == 24 * 12


def test_the_search_stays_between_0_and_1_and_starts_from_the_even_mixture() -> None:
    seen: list[np.ndarray] = []

    def score(shares: np.ndarray) -> tuple[float]:
        seen.append(shares)
        return (float(shares.sum()),)

    cross_entropy_search(score, num_dims=4, settings=SETTINGS, rng=np.random.default_rng(0))
    np.testing.assert_allclose(seen[0], 0.25)
    assert np.stack(seen).min() >= 0
    assert np.stack(seen).max() <= 1


def test_few_shot_takes_the_expert_that_answers_the_held_out_items(tmp_path: Path) -> None:
    engine = native()
    broken = make_expert(engine.model, "broken", value=30.0)
    good = make_expert(engine.model, "good", value=1.0)
    # what the base itself writes, which is what z = 1 writes too
    held_out = []
    for item in items("valid"):
        engine.reset(1, len(item.prompt) + len(item.answer))
        written = engine.generate(item.prompt[None], len(item.answer))[0]
        held_out.append(dataclasses.replace(item, answer=np.asarray(written)))
    with Switch(engine.model, [good, broken], cache=DecompositionCache(tmp_path)) as switch:
        settings = CemSettings(population=16, elites=4, iterations=6)
        few = FewShot(engine, switch, experts=["good", "broken"], settings=settings, seed=0)
        with pytest.raises(UsageError, match=r"after learn\(\) only"):
            few.choose(items("test")[0].prompt)
        few.learn(held_out)
        choice = few.choose(items("test")[0].prompt)
        assert choice == few.choose(items("test")[1].prompt)
        assert choice["good"] > 10 * choice["broken"]
        switch.to({"good": 0.5, "broken": 0.5})
        even = read_answers(engine, held_out)
        hits = sum(answer.num_hits for answer in even) / sum(answer.num_tokens for answer in even)
        assert few.found is not None
        assert few.found.score[0] > hits + 0.2


def test_two_passes_are_told_apart_and_leave_the_weights_that_were_chosen(tmp_path: Path) -> None:
    engine = native()
    with make_switch(engine, tmp_path, "a") as switch:
        adapted = TwoPass(engine, switch, Fixed({"a": 1.0}))
        prompt = items("test")[0].prompt
        assert adapted.choose(prompt).switch_s == 0
        assert switch.choice == {}
        passed = adapted.adapt(prompt)
        assert switch.choice == passed.choice == {"a": 1.0}
        assert passed.pass1_s > 0
        assert passed.switch_s > 0
        assert adapted.adapt(prompt).switch_s == 0
