"""Training experts: recipes, objectives, and a base that is left alone."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_experts import ENGINES, make_expert, native, some_ids

from ttbench.adapt.decompositions import DecompositionCache
from ttbench.adapt.domains import DOMAINS, Item, draw_items
from ttbench.adapt.expert_training.lessons import Lesson, course_path, read_course
from ttbench.adapt.expert_training.objectives import forward, next_token, reinforce, write_answers
from ttbench.adapt.expert_training.trainable import trainable_lora, trainable_svf
from ttbench.adapt.expert_training.trainer import lesson_items, train_expert
from ttbench.adapt.switch import Switch
from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.errors import SuiteError, UnknownNameError, UsageError
from ttbench.runs.suite import load_suite
from ttbench.types import Checkpoint

TOKENIZER = ByteTokenizer()
BASE = Checkpoint(
    name="tiny",
    path="tiny",
    architecture="transformer",
    architecture_version=1,
    dialect="llama",
    provenance="local",
    revision=None,
    weights_digest="w",
    config_digest="c",
    tokenizer_digest=TOKENIZER.digest,
    vocab_size=257,
    train_ctx=None,
    num_params=0,
    num_params_non_embedding=0,
    weight_bytes=0,
    cost=None,
)


def short(**given: Any) -> Lesson:
    settings: dict[str, Any] = {"domain": "dna", "steps": 6, "batch_size": 2, "context_len": 48, "answer_tokens": 40}
    return Lesson(name="x", **{**settings, "lr": 0.1, **given})


def items(count: int = 4, **given: Any) -> list[Item]:
    sizes = {"seed": 0, "context_len": 32, "answer_tokens": 3, **given}
    return draw_items(DOMAINS["dna"], TOKENIZER, split="train", count=count, **sizes)


LESSONS: dict[str, dict[str, Any]] = {
    "paper": {},
    "repository": {"form": "repository", "lr": 0.5},
    "lora": {"method": "lora", "lr": 0.02},
    "dispatch": {"domain": "dispatch"},
    "reinforce": {"objective": "reinforce", "answer_tokens": 1, "kl": 0.1, "lr": 0.01},
}
# Every lesson natively, and each way to hold a matrix once.
TRIED = [*(("transformer", lesson) for lesson in LESSONS), ("hf-llama", "lora"), ("hf-gpt2", "paper")]


@pytest.mark.parametrize(("engine_name", "lesson_name"), TRIED, ids=["-".join(pair) for pair in TRIED])
def test_an_expert_is_trained_over_any_engine_and_the_base_stays(
    engine_name: str, lesson_name: str, tmp_path: Path
) -> None:
    engine, lesson = ENGINES[engine_name](), short(**LESSONS[lesson_name])
    cache = DecompositionCache(tmp_path)
    held = {name: value.clone() for name, value in engine.model.state_dict().items()}
    modules = {name: type(module) for name, module in engine.model.named_modules()}
    wants = {name: p.requires_grad for name, p in engine.model.named_parameters()}
    expert = train_expert(engine, BASE, TOKENIZER, lesson, cache=cache)
    assert all(torch.equal(held[name], value) for name, value in engine.model.state_dict().items())
    assert {name: type(module) for name, module in engine.model.named_modules()} == modules
    assert {name: p.requires_grad for name, p in engine.model.named_parameters()} == wants
    told = expert.training
    if lesson.objective == "next-token":
        assert told["valid_nats_after"] < told["valid_nats_before"]
    # what was trained is what a switch puts in place
    with Switch(engine.model, [expert], cache=cache) as switch:
        switch.to({"x": 1.0})
        scored = next_token(engine.model, lesson_items(TOKENIZER, lesson, split="valid", first=0, count=16)).shown
    assert scored == pytest.approx(told["valid_nats_after"], abs=1e-3)


def test_lora_is_refused_where_a_matrix_is_no_linear_layer(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no nn\.Linear; LoRA experts are made for these only"):
        train_expert(ENGINES["hf-gpt2"](), BASE, TOKENIZER, short(method="lora"), cache=DecompositionCache(tmp_path))


def test_the_same_lesson_gives_the_same_expert(tmp_path: Path) -> None:
    made = [
        train_expert(native(), BASE, TOKENIZER, short(steps=2), cache=DecompositionCache(tmp_path / str(run)))
        for run in range(2)
    ]
    for matrix, parts in made[0].tensors.items():
        np.testing.assert_array_equal(parts["z"], made[1].tensors[matrix]["z"])


@pytest.mark.parametrize("scale", [2.0, 0.75, 0.2])
def test_a_lora_expert_without_peft_computes_what_peft_computes(scale: float, tmp_path: Path) -> None:
    engine = native(dtype="float64")
    expert = dataclasses.replace(make_expert(engine.model, "a", kind="lora"), scale=scale)
    ids = torch.from_numpy(some_ids())
    with trainable_lora(engine.model, list(expert.shapes), rank=2, scale=scale) as made, torch.no_grad():
        values = [parts[part] for parts in expert.tensors.values() for part in ("A", "B")]
        for parameter, value in zip(made.parameters, values, strict=True):
            parameter.copy_(torch.from_numpy(value))
        by_peft = forward(engine.model, ids)
        with made.off():
            base = forward(engine.model, ids)
    with Switch(engine.model, [expert], cache=DecompositionCache(tmp_path)) as switch:
        torch.testing.assert_close(engine.logits(ids), base, rtol=0, atol=0)
        switch.to({"a": 1.0})
        torch.testing.assert_close(engine.logits(ids), by_peft, rtol=1e-5, atol=1e-6)


def test_inside_off_the_model_is_the_base(tmp_path: Path) -> None:
    engine = native()
    before = forward(engine.model, torch.from_numpy(some_ids()))
    names = ["layers.0.mlp.gate_proj", "layers.1.mlp.down_proj"]
    with trainable_svf(
        engine.model, names, form="paper", cache=DecompositionCache(tmp_path), dtype=torch.float32
    ) as made:
        with torch.no_grad():
            made.parameters[0].fill_(2.0)
        assert not torch.allclose(forward(engine.model, torch.from_numpy(some_ids())), before)
        with made.off():
            assert torch.equal(forward(engine.model, torch.from_numpy(some_ids())), before)


# Objectives


def test_answers_are_written_after_their_own_prompts_and_as_long_as_the_true_ones() -> None:
    engine = native()
    asked = [items(1, context_len=20, answer_tokens=5)[0], items(1, context_len=33, answer_tokens=2)[0]]
    written = write_answers(engine.model, asked, rng=torch.Generator().manual_seed(0))
    alone = write_answers(engine.model, asked[:1], rng=torch.Generator().manual_seed(0))
    assert [len(item.answer) for item in written] == [5, 2]
    for before, after in zip(asked, written, strict=True):
        np.testing.assert_array_equal(before.prompt, after.prompt)
    assert len(alone[0].answer) == 5


def test_the_policy_gradient_raises_what_was_right_and_lowers_what_was_wrong() -> None:
    engine = native(dtype="float64")
    asked = items(8)
    weight = next(iter(engine.model.parameters()))
    for right, sign in ((True, -1), (False, 1)):
        rng = torch.Generator().manual_seed(3)
        outcome = reinforce(
            engine.model,
            asked,
            base=contextlib.nullcontext,
            kl=0.0,
            rng=rng,
            check=lambda item, written, right=right: right,
        )
        written = write_answers(engine.model, asked, rng=torch.Generator().manual_seed(3))
        mean_nats = next_token(engine.model, written).loss * 3
        assert outcome.loss.item() == pytest.approx(-sign * mean_nats.item(), rel=1e-9)
        (gradient,) = torch.autograd.grad(outcome.loss, weight)
        (wanted,) = torch.autograd.grad(mean_nats, weight)
        torch.testing.assert_close(gradient, -sign * wanted)
        assert outcome.shown == float(right)


def test_the_divergence_is_zero_at_the_base_and_counts_away_from_it(tmp_path: Path) -> None:
    engine = native(dtype="float64")
    losses = {}
    with trainable_svf(
        engine.model,
        ["layers.0.mlp.gate_proj"],
        form="paper",
        cache=DecompositionCache(tmp_path),
        dtype=torch.float64,
    ) as made:
        for value in (1.0, 3.0):
            with torch.no_grad():
                made.parameters[0].fill_(value)
            for kl in (0.0, 2.0):
                rng = torch.Generator().manual_seed(0)
                losses[value, kl] = reinforce(engine.model, items(), base=made.off, kl=kl, rng=rng).loss.item()
    assert losses[1.0, 2.0] == pytest.approx(losses[1.0, 0.0], abs=1e-12)
    assert losses[3.0, 2.0] > losses[3.0, 0.0] + 1e-6


def test_reinforcement_learns_an_answer_that_it_sometimes_writes() -> None:
    engine = native()
    asked = items(8, answer_tokens=1)
    rng = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(engine.model.parameters(), lr=0.01)
    shares = []
    for _ in range(50):
        outcome = reinforce(
            engine.model,
            asked,
            base=contextlib.nullcontext,
            kl=0.0,
            rng=rng,
            check=lambda item, written: int(written[0]) % 2 == 0,
        )
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        shares.append(outcome.shown)
    assert np.mean(shares[-10:]) > 0.85 > 0.7 > np.mean(shares[:5])


def test_any_task_with_an_answer_that_can_be_checked_trains_an_expert(tmp_path: Path) -> None:
    engine, asked, checked = native(), [], []

    def sums(*, split: str, first: int, count: int) -> list[Item]:
        asked.append((split, first, count))
        texts = [(f"{index % 5}+{index % 3}=", f"{index % 5 + index % 3}") for index in range(first, first + count)]
        return [
            Item(
                name=f"sums/{split}/{prompt}",
                domain="sums",
                split=split,
                source=prompt,
                prompt=TOKENIZER.encode(prompt.encode()),
                answer=TOKENIZER.encode(answer.encode()),
                answer_bytes=len(answer),
            )
            for prompt, answer in texts
        ]

    def is_written(item: Item, written: np.ndarray) -> bool:
        checked.append(item.domain)
        return len(written) == len(item.answer)

    given = {"cache": DecompositionCache(tmp_path), "draw": sums}
    lesson = short(domain="sums", objective="reinforce", steps=4, batch_size=8, lr=0.05, kl=0.01)
    expert = train_expert(engine, BASE, TOKENIZER, lesson, check=is_written, **given)
    assert expert.domain == "sums"
    # by the check that was given, every answer is right
    assert expert.training["train_shown"] == [1.0] * 4
    assert checked == ["sums"] * 4 * 8
    assert {split for split, _, _ in asked} == {"train", "valid"}
    assert [first for split, first, _ in asked if split == "train"] == [8 * step for step in range(4)]
    told = train_expert(engine, BASE, TOKENIZER, short(domain="sums", steps=20), **given).training
    assert told["valid_nats_after"] < told["valid_nats_before"]


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"training expert 'x' diverged at step \d+; lower its lr"):
        train_expert(native(), BASE, TOKENIZER, short(lr=1e30, steps=8), cache=DecompositionCache(tmp_path))


# Recipes


def test_the_recipe_that_ships_is_read() -> None:
    course = read_course(course_path())
    assert course.base == "transformer"
    assert course.lessons["code"].method == "svf"
    assert {lesson.domain for lesson in course.lessons.values()} == {"code", "prose", "recall", "dna", "dispatch"}


def test_make_real_trains_the_experts_that_its_suite_names() -> None:
    root = Path(__file__).parents[3]
    course = read_course(root / "scripts" / "real-experts.yaml")
    (task,) = load_suite(root / "suites" / "real-adapt.yaml").tasks
    assert str(task.params["experts"]) == f"{course.base}-experts"
    domains = {lesson.domain for lesson in course.lessons.values()}
    assert domains - {"dispatch"} <= set(str(task.params["domains"]).split(","))
    assert {lesson.objective for lesson in course.lessons.values()} == {"next-token"}
    # the strategies that its experts are enough for
    assert not {"lora", "reinforce"} & set(str(task.params["strategies"]).split(","))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("experts: {a: {domain: code}}", "key 'base' is missing"),
        ("base: x\nexperts: {a: {domain: code, stepps: 3}}", "stepps"),
        ("base: x\nexperts: {a: {domain: code, steps: 0}}", ":2: steps must be a whole number of at least 1; got 0"),
        ("base: x\nexperts: {a: {domain: code, lr: fast}}", ":2: lr must be a number of more than 0; got 'fast'"),
        ("base: x\nexperts: {a: {lr: 0.1}}", "expert 'a' names no domain"),
        ("base: x\nrecipe: {context_len: 32}\nexperts: {a: {domain: code}}", "no room for a prompt"),
    ],
)
def test_a_recipe_with_a_mistake_is_refused_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(SuiteError, match=message):
        read_course(path)


def test_other_has_no_expert_since_it_is_answered_with_the_base(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("base: x\nexperts: {a: {domain: other}}")
    with pytest.raises(
        UnknownNameError, match=r"unknown domain 'other'.*available: code, dispatch, dna, prose, recall"
    ):
        read_course(path)


def test_an_unknown_word_in_a_recipe_gets_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("base: x\nexperts: {a: {domain: coed}}")
    with pytest.raises(UnknownNameError, match=r"unknown domain 'coed'.*did you mean 'code'"):
        read_course(path)
