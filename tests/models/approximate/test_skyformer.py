"""Skyformer: bounded at 32k tokens, and its Nystroem form, which is not causal and says so everywhere.

Kernels are tested in tests/kernels; steps, splits, causality and logits against numpy in tests/conformance.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from ttbench.checkpoints.loading import save_checkpoint
from ttbench.cli.app import app
from ttbench.engines.check import check
from ttbench.engines.eager import EagerEngine
from ttbench.engines.kinds import load_engine
from ttbench.errors import CheckpointError, SuiteError, UnsupportedError
from ttbench.kernels.gaussian_attention import NORMALISATIONS
from ttbench.lmeval import social_iqa
from ttbench.machine import measure
from ttbench.models.approximate.skyformer import GaussianMixer, Skyformer, SkyformerConfig
from ttbench.registry import TASKS
from ttbench.runs.options import Options
from ttbench.runs.request import plan_task
from ttbench.runs.worker import Channel, Group, run_cell
from ttbench.training.recipe import Trainee, find_trainees
from ttbench.training.train import build

CONFIG = Skyformer.tiny().config.to_json()
NYSTROM = {"approximation": "nystrom", "num_landmarks": 16}


def ids(num_tokens: int, *, batch_size: int = 1) -> Tensor:
    return torch.randint(257, (batch_size, num_tokens), generator=torch.Generator().manual_seed(num_tokens))


def seeded(**overrides: Any) -> Skyformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Skyformer.tiny(**overrides)


# 1. The exact, causal form


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_32k_tokens_stay_finite_and_where_normalised_as_large_as_the_first_thousand(normalisation: str) -> None:
    num_tokens = 32_768
    model = seeded(normalisation=normalisation, hidden_size=8, num_attention_heads=1, num_hidden_layers=1)
    written: list[Tensor] = []
    mixer = model.get_submodule("layers.0.mixer")
    mixer.register_forward_hook(lambda _m, _i, out: written.append(torch.as_tensor(out)))
    engine = EagerEngine(model, device="cpu", dtype="float32")
    engine.reset(1, num_tokens)
    text = ids(num_tokens).numpy()
    nats = engine.score(text, text)
    assert np.isfinite(nats).all()
    size = torch.cat(written, 1)[0].square().mean(-1).sqrt()  # [T]
    assert torch.isfinite(size).all()
    growth = float(size[-1000:].mean() / size[1000:2000].mean())
    # without normalisation it grows with the keys, here 32000 / 1500 times as many
    low, high = (5.0, 25.0) if normalisation == "none" else (0.1, 2.0)
    assert low < growth < high


def test_flops_of_a_prefill_match_what_torch_counts() -> None:
    model, num_tokens = seeded(), 256
    config = model.config
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.head(model(ids(num_tokens)))
    cost = Skyformer.cost(config, dtype_bytes=4)
    # torch counts both halves of the square, and two more elements of a head in the lifted product
    square = config.num_hidden_layers * num_tokens**2 * (4 * config.hidden_size + 4 * config.num_attention_heads)
    triangle = cost.flops_per_context_token * num_tokens * (num_tokens - 1) / 2
    own = config.num_hidden_layers * 4 * config.hidden_size * num_tokens
    assert counter.get_total_flops() == cost.prefill_flops(num_tokens) - triangle - own + square


def test_flops_of_the_approximation_match_what_torch_counts() -> None:
    model, num_tokens, num_landmarks = seeded(**NYSTROM), 200, NYSTROM["num_landmarks"]
    config, layers, heads = model.config, model.config.num_hidden_layers, model.config.num_attention_heads
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.head(model(ids(num_tokens)))
    cost = Skyformer.cost(config, dtype_bytes=4)
    assert cost.flops_per_context_token == cost.state_bytes == cost.state_bytes_per_token == 0
    lifted = layers * num_tokens * 2 * 2 * 2 * num_landmarks * heads
    once = 2 * num_landmarks**2 * (config.head_dim + 2) + 2 * num_landmarks**2 * config.head_dim
    once += config.inverse_steps * 4 * 2 * num_landmarks**3
    assert counter.get_total_flops() == cost.prefill_flops(num_tokens) + lifted + layers * heads * once


def test_the_row_names_the_form_and_its_normalisation() -> None:
    exact = {"approximation": "none", "num_landmarks": 0}
    assert seeded(normalisation="rows").choices == {"normalisation": "rows", **exact}
    assert seeded().choices == {"normalisation": "none", **exact}
    approximate = {"normalisation": "mean", "approximation": "nystrom", "num_landmarks": 16}
    assert seeded(**NYSTROM, normalisation="mean").choices == approximate


# 2. Configuration


def test_config_survives_its_own_json() -> None:
    for overrides in ({}, {"normalisation": "rows", "rope_theta": 5e5}, {**NYSTROM, "ridge": 0.01, "landmark_seed": 3}):
        config = Skyformer.tiny(**overrides).config
        assert SkyformerConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalisation": "softmax"}, "normalisation='softmax'; available: none, mean, rows"),
        ({"approximation": "svd"}, "approximation='svd'; available: none, nystrom"),
        ({"num_landmarks": 16}, "num_landmarks=16 with approximation='none'"),
        ({"approximation": "nystrom"}, "num_landmarks=0; it must be at least 1"),
        ({**NYSTROM, "ridge": 0.0}, "ridge=0.0; it must be positive"),
        ({"rope_theta": 0.0}, "rope_theta=0.0; it must be positive"),
        ({**NYSTROM, "landmark_seed": -1}, "landmark_seed=-1; it must be at least 0"),
        ({**NYSTROM, "inverse_steps": 0}, "inverse_steps=0; it must be at least 1"),
        ({**NYSTROM, "normalisation": "rows"}, "approximate row sums can be zero or negative"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:24],
)
def test_an_impossible_config_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        SkyformerConfig.from_json(CONFIG | change)


def test_the_normalisation_is_never_guessed() -> None:
    with pytest.raises(CheckpointError, match="lacks normalisation"):
        SkyformerConfig.from_json({key: value for key, value in CONFIG.items() if key != "normalisation"})


# 3. The Nystroem form


def test_whole_texts_come_nearer_to_the_exact_kernel_with_more_landmarks() -> None:
    model = seeded(num_hidden_layers=1).double().eval()
    text, sizes = ids(60), (4, 16, 64, 120)
    with torch.inference_mode():
        found = [_with(model, num_landmarks=size)(text) for size in (*sizes, 1000)]
    assert torch.equal(found[-1], found[-2])
    errors = [float((out - found[-1]).norm()) for out in found[:3]]
    assert errors[0] > errors[1] > errors[2] > 0


def _with(model: Skyformer, **changes: Any) -> Skyformer:
    """The Nystroem form with the same weights."""
    config = dataclasses.replace(model.config, approximation="nystrom", ridge=1e-4, inverse_steps=30, **changes)
    other = Skyformer.from_config(config).double().eval()
    other.load_state_dict(model.state_dict())
    return other


def test_it_is_declared_not_causal_on_the_instance_and_the_exact_form_is_causal() -> None:
    assert seeded().strictly_causal
    assert not seeded(**NYSTROM).strictly_causal
    assert not seeded(**NYSTROM).state_grows
    assert GaussianMixer.slots(seeded(**NYSTROM).config) == {}


def test_a_text_is_read_alike_at_every_call_alone_and_among_others() -> None:
    engine = EagerEngine(seeded(**NYSTROM), device="cpu", dtype="float64")
    text = ids(50, batch_size=3)
    together = engine.logits(text)
    assert torch.equal(engine.logits(text), together)
    torch.testing.assert_close(engine.logits(text[1:2]), together[1:2], rtol=1e-10, atol=1e-11)


@pytest.fixture
def approximate(tmp_path: Path) -> Path:
    save_checkpoint(seeded(**NYSTROM), tmp_path / "sky", dtype="float32", extra={"train_ctx": 64, "tokenizer": "bytes"})
    return tmp_path / "sky"


def test_an_engine_reads_whole_texts_of_it_and_refuses_to_score_or_write(approximate: Path) -> None:
    engine = load_engine(str(approximate), device="cpu", dtype="float32", attention=None)
    assert engine.logits(ids(33)).shape == (1, 33, 257)
    with pytest.raises(UnsupportedError, match="this Skyformer is not causal: its outputs have seen later tokens"):
        engine.reset(1, 64)
    with pytest.raises(UnsupportedError, match="has no state; it reads whole texts only"):
        seeded(**NYSTROM).new_state(1, 64)


def test_the_check_says_that_it_is_not_causal_and_measures_the_leak(approximate: Path) -> None:
    results = {result.name: result for result in check(str(approximate), device="cpu", dtype="float32")}
    assert not [result for result in results.values() if result.passed is False]
    assert results["causality"].passed is None
    assert results["causality"].measured is not None
    assert results["causality"].measured > 1e-3
    assert "NOT CAUSAL: declared not strictly causal, and tasks refuse it" in results["causality"].explanation
    assert results["batch_independence"].passed
    others = set(results) - {"causality", "batch_independence"}
    assert all(results[name].measured is None and "not causal" in results[name].explanation for name in others)
    assert {"step_equals_forward", "state_bytes", "perplexity"} < others
    shown = CliRunner().invoke(app, ["check", str(approximate)])
    assert shown.exit_code == 0
    assert "NOT CAUSAL" in shown.stdout


class Silent(Channel):
    """Tells nobody."""

    def __init__(self) -> None:
        """Leave stdout alone."""

    def progress(self, cell_id: str, done: int, total: int, setup_s: float) -> None: ...


# A probe reads whole sequences, and is what such a model is good for; `adapt` refuses it before, as it has no experts.
@pytest.mark.parametrize("task", [task for task in TASKS if task not in ("probe", "adapt")])
def test_every_task_refuses_it_with_the_reason_in_its_row(
    task: str, approximate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = {"asked": "Ann found a ring. Why?", "answerA": "luck", "answerB": "no", "answerC": "rain", "label": 1}
    monkeypatch.setattr(social_iqa, "questions", lambda: [question])
    # what a worker does to its process before it measures
    monkeypatch.setattr(measure, "prepare_process", lambda: None)
    corpus = None
    if task == "genomics":
        for split in ("train", "test"):
            (tmp_path / "dna" / split).mkdir(parents=True)
            (tmp_path / "dna" / split / "a").write_bytes(b"ACGTTGCA" * 2_000)
        corpus = f"text:{tmp_path / 'dna'}"
    cell = plan_task(task, Options(checkpoints=(str(approximate),), ctx="1k", corpus=corpus)).cells[0]
    group = Group()
    # opened here: the worker's own opening sets threads and denormals of the whole process
    group.engine = load_engine(cell.checkpoint, device=cell.device, dtype=cell.dtype, attention=None)
    record = run_cell(cell, group=group, channel=Silent())
    assert record.status == "unsupported", record.reason
    assert str(record.reason).startswith("this Skyformer is not causal: its outputs have seen later tokens")
    assert record.samples == ()
    assert record.choices["num_landmarks"] == 16


def test_questions_that_are_not_on_this_machine_are_an_answer(approximate: Path) -> None:
    cell = plan_task("commonsense", Options(checkpoints=(str(approximate),), ctx="1k")).cells[0]
    record = run_cell(cell, group=Group(), channel=Silent())
    assert record.status == "unsupported"
    assert str(record.reason).endswith("fetch it once (46 MB): python -m ttbench.lmeval.social_iqa")


def test_generate_refuses_it(approximate: Path) -> None:
    result = CliRunner().invoke(app, ["generate", str(approximate), "In the beginning"])
    assert result.exit_code == 2
    assert "not causal" in " ".join(result.stderr.split())


def test_training_on_the_next_token_refuses_it() -> None:
    recipe, trainees = find_trainees(["skyformer"])
    trainee = trainees["skyformer"]
    assert build(trainee, seed=recipe.seed).num_params()[0] == pytest.approx(1e6, rel=0.1)
    config = {**trainee.config, **NYSTROM, "normalisation": "none"}
    other = Trainee(name="whole", architecture="skyformer", lr=0.002, autocast=False, config=config)
    with pytest.raises(SuiteError, match="zoo model 'whole' is not causal: each of its outputs sees the token that"):
        build(other, seed=recipe.seed)
