"""The trainer: resumable, the same data in the same order for all, and able to learn."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from tiny_training import SCHEDULE

from ttbench.checkpoints.checkpoint import resolve, zoo_names
from ttbench.checkpoints.naming import zoo_folders
from ttbench.cli.commands import checkpoint_commands as checkpoints
from ttbench.corpora.corpus import Corpus
from ttbench.corpora.training_rows.puzzles import PUZZLES
from ttbench.errors import CheckpointError, SuiteError, UnknownNameError, UsageError
from ttbench.models.base import SequenceModel
from ttbench.training import grid
from ttbench.training import train as trainer
from ttbench.training.card import ship
from ttbench.training.recipe import RECIPE, Recipe, Trainee, find_trainees, read_recipe, recipe_digest
from ttbench.training.train import Training, train

TINY = {
    "recipe": {
        **SCHEDULE,
        "phases": [
            {"context_len": 32, "batch_size": 4, "tokens": 1024, "mix": {"copy": 1.0}},
            {"context_len": 64, "batch_size": 2, "tokens": 1024, "mix": {"prose": 0.5, "recall": 0.5}},
        ],
    },
    "models": {
        name: {
            "architecture": name,
            "lr": 0.01,
            "autocast": False,
            "config": {
                "vocab_size": 257,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "tie_word_embeddings": True,
                **config,
            },
        }
        for name, config in {
            "transformer": {"model_type": "llama"},
            "ttt-linear": {"model_type": "ttt", "ttt_layer_type": "linear", "ttt_base_lr": 1.0},
        }.items()
    },
}


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def find_one(name: str, recipe_path: Path) -> tuple[Recipe, Trainee]:
    recipe, trainees = find_trainees([name], recipe_path)
    return recipe, trainees[name]


def train_one(name: str, recipe_path: Path, **options: Any) -> Training:
    recipe, trainee = find_one(name, recipe_path)
    return train(trainee, recipe, **options)


def test_a_training_cut_short_ends_with_the_weights_and_data_of_an_undisturbed_one(recipe_path, tmp_path):
    whole = train_one("transformer", recipe_path, cache=tmp_path / "a")
    part = train_one("transformer", recipe_path, cache=tmp_path / "b", stop_after_s=0.0)
    assert part.step == 1
    resumed = train_one("transformer", recipe_path, cache=tmp_path / "b")

    assert whole.step == resumed.step == 16
    assert whole.data_digest == resumed.data_digest
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key
    assert resumed.cpu_s > 0
    assert train_one("transformer", recipe_path, cache=tmp_path / "b").step == 16


def test_a_run_that_is_taken_up_says_so_and_one_whose_result_is_written_is_not(
    recipe_path, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("ttbench.training.card.write_card", lambda *args, **options: None)
    # which sets variables of the whole process
    monkeypatch.setattr("ttbench.machine.measure.pin_threads", lambda threads: None)
    train_one("transformer", recipe_path, stop_after_s=0.0)

    def said(out: str) -> str:
        options = {"recipe": recipe_path, "share": 1.0, "threads": 1}
        checkpoints.train(["transformer"], out=tmp_path / out, **options)
        return capsys.readouterr().err

    assert "going on from step 1 of a run that was cut short" in said("first")
    assert not list((tmp_path / "cache").rglob("*.pt"))
    assert "going on" not in said("second")
    weights = [(tmp_path / out / "transformer" / "model.safetensors").read_bytes() for out in ("first", "second")]
    assert weights[0] == weights[1]


def test_every_model_of_a_recipe_sees_the_same_bytes_in_the_same_order(recipe_path, tmp_path):
    digests = {name: train_one(name, recipe_path, cache=tmp_path).data_digest for name in ("transformer", "ttt-linear")}
    assert digests["transformer"] == digests["ttt-linear"] != ""


def test_two_processes_cannot_train_the_same_model_at_once(recipe_path, tmp_path):
    recipe, trainee = find_one("transformer", recipe_path)
    seen: list[str] = []

    def second(progress: trainer.TrainingProgress) -> None:
        with pytest.raises(UsageError, match="another process is training 'transformer'"):
            train(trainee, recipe, cache=tmp_path)
        seen.append(progress.name)

    train(trainee, recipe, cache=tmp_path, report=second, stop_after_s=0.0)
    assert seen
    assert train(trainee, recipe, cache=tmp_path).step == recipe.num_steps


def test_a_phase_with_a_peak_warms_up_and_decays_anew(recipe_path):
    recipe, _ = read_recipe(recipe_path)
    again = trainer.dataclasses.replace(recipe.phases[1], peak=0.5)
    cycled = trainer.dataclasses.replace(recipe, phases=(*recipe.phases, again))
    first, second = recipe.num_steps, cycled.num_steps - recipe.num_steps
    assert [cycled.lr_share(i) for i in range(first)] == [recipe.lr_share(i) for i in range(first)]
    shares = [cycled.lr_share(first + i) for i in range(second)]
    assert max(shares) == pytest.approx(0.5, rel=0.1)
    assert shares[-1] == min(shares[1:]) < 0.1


def test_the_time_that_is_left_knows_that_steps_are_not_of_one_size(recipe_path, tmp_path, monkeypatch):
    """A second a step of the first phase, and of the second what its rows weigh more."""
    recipe, trainee = find_one("transformer", recipe_path)
    cost = type(trainer.build(trainee, seed=0)).cost(trainer.build(trainee, seed=0).config, dtype_bytes=4)
    heavier = 2 * cost.prefill_flops(64) / (4 * cost.prefill_flops(32))
    clock, told = [0.0], []
    monkeypatch.setattr(trainer.time, "monotonic", lambda: clock[0])
    step = trainer.learn

    def slow(run: Any, *rest: Any) -> float:
        clock[0] += 1.0 if run.step < recipe.phases[0].num_steps else heavier
        return step(run, *rest)

    monkeypatch.setattr(trainer, "learn", slow)
    train(trainee, recipe, cache=tmp_path, report=told.append, report_every_s=0.5)
    first, second = recipe.phases[0].num_steps, recipe.phases[1].num_steps
    assert heavier > 1.05
    assert told[0].seconds_left == pytest.approx(first - 1 + second * heavier)
    assert told[first].seconds_left == pytest.approx((second - 1) * heavier)
    assert told[-1].seconds_left == 0.0


def test_training_lowers_the_loss(recipe_path, tmp_path):
    recipe, trainees = read_recipe(recipe_path)
    model = trainer.build(trainees["transformer"], seed=1)
    optimizer = trainer.make_optimizer(model, lr=0.01, recipe=recipe)
    rows = trainer.Mixture(seed=1, answer_weight=6.0).batch(
        {"prose": 1.0}, stream=0, step=0, batch_size=4, num_tokens=64
    )
    losses = []
    for _ in range(20):
        loss = trainer.weighted_loss(model, rows, autocast=False)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(257), abs=1.0)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("name", "decays", "stays"),
    [
        ("mamba", {"layers.0.mixer.in_proj.weight"}, {"mixer.A_log", "mixer.D", "norm.weight"}),
        ("s4d", {"layers.0.mixer.C", "layers.0.mlp.up_proj.weight"}, {"mixer.A_imag", "mixer.log_A_real", "mixer.D"}),
        ("hybrid", {"layers.0.mixer.in_proj.weight", "layers.1.mixer.q_proj.weight"}, {"mixer.A_log"}),
    ],
    ids=["mamba", "s4d", "hybrid"],
)
def test_decay_falls_on_matrices_but_not_on_the_table_or_the_rates_of_a_state_space(name, decays, stays):
    recipe, trainees = read_recipe()
    model = trainer.build(trainees[name], seed=1)
    decayed, rest = (
        {id(p) for p in group["params"]} for group in trainer.make_optimizer(model, lr=0.01, recipe=recipe).param_groups
    )
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert len(decayed) + len(rest) == len(list(model.parameters()))
    assert decays <= names
    assert not names & {"embed.weight", *(f"layers.0.{name}" for name in stays)}


def test_a_model_with_a_mix_of_its_own_sees_that_and_no_other_rows(tmp_path):
    data = yaml.safe_load(yaml.safe_dump(TINY))
    data["models"]["ttt-linear"]["mix"] = {"parity": 1.0}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(data))
    recipe, trainees = read_recipe(path)
    assert recipe.kinds(trainees["ttt-linear"]) == ["parity"]
    assert recipe.kinds(trainees["transformer"]) == ["copy", "prose", "recall"]
    assert trainer.progress_path(recipe, trainees["transformer"], tmp_path).name.startswith("transformer-")
    one, two = (train(trainees[name], recipe, cache=tmp_path).data_digest for name in ("ttt-linear", "transformer"))
    assert one != two
    data["models"]["ttt-linear"]["mix"] = {"parety": 1.0}
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(UnknownNameError, match="did you mean 'parity'"):
        read_recipe(path)


def test_the_recipe_of_synthetic_tasks_trains_every_architecture_of_the_zoo_on_each_of_them():
    recipe, trainees = read_recipe(RECIPE.with_name("recipe-synthetic.yaml"))
    _, zoo = read_recipe()
    trained = {kind: {t.architecture for t in trainees.values() if recipe.kinds(t) == [kind]} for kind in PUZZLES}
    assert all({trainee.architecture for trainee in zoo.values()} <= found for found in trained.values())
    for trainee in trainees.values():
        if recipe.kinds(trainee) == ["parity"]:
            assert 0.1e6 < trainer.build(trainee, seed=0).num_params()[0] < 0.16e6


def test_a_model_trained_on_puzzles_gets_a_card_of_puzzles_and_says_so_to_the_recall_task(tmp_path, monkeypatch):
    monkeypatch.setattr("ttbench.tasks.recall.recall_card.SEQUENCES", 2)
    data = yaml.safe_load(yaml.safe_dump(TINY))
    data["models"]["transformer"]["mix"] = {"parity": 0.5, "mqar": 0.5}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(data))
    recipe, trainee = find_one("transformer", path)
    folder = ship(
        train(trainee, recipe, cache=tmp_path), recipe, trainee, tmp_path / "out", command=["ttbench", "train"]
    )
    card = (folder / "card.md").read_text()
    assert [
        f"| questions of {kind} answered at {ctx} |" in card for kind in ("mqar", "parity") for ctx in (64, 256)
    ] == [*(True, True, True, True)]
    assert "chance: 0.500" in card
    assert "bits per byte" not in card
    assert resolve(str(folder)).train_kinds == ("mqar", "parity")


def test_the_schedule_warms_up_and_decays_to_its_floor_in_each_cycle():
    recipe, _ = read_recipe()
    starts = [i for i, phase in enumerate(recipe.phases) if i == 0 or phase.peak is not None]
    assert len(starts) == 2
    for first, end, top in zip(starts, [*starts[1:], len(recipe.phases)], (1.0, 0.5), strict=True):
        begin = sum(phase.num_steps for phase in recipe.phases[:first])
        num_steps = sum(phase.num_steps for phase in recipe.phases[first:end])
        shares = [recipe.lr_share(begin + step) for step in range(num_steps)]
        peak = shares.index(max(shares))
        assert max(shares) == pytest.approx(top)
        assert peak == pytest.approx(recipe.warmup * num_steps, abs=2)
        assert shares[:peak] == sorted(shares[:peak])
        assert shares[peak:] == sorted(shares[peak:], reverse=True)
        assert shares[-1] == pytest.approx(top * recipe.final_lr, abs=1e-3)


def test_the_shipped_recipe_names_the_shipped_zoo_and_trains_at_a_thousand_tokens_or_more():
    recipe, trainees = read_recipe()
    assert set(zoo_names()) <= set(trainees)
    assert recipe.context_len >= 1024
    _, of_dna = read_recipe(RECIPE.with_name("genomes.yaml"))
    assert set(zoo_folders()) == {*zoo_names(), *of_dna}
    assert {trainee.name for trainee in trainees.values()} == set(trainees)


def test_another_seed_of_the_shipped_recipe_is_another_training_of_the_same_model():
    recipe, trainees = read_recipe()
    again = {name: trainee for name, trainee in trainees.items() if trainee.seed is not None}
    assert again
    for name, trainee in again.items():
        first = trainees[name.rpartition("-seed")[0]]
        assert name.endswith(f"-seed{trainee.seed}")
        assert trainee.seed != recipe.seed
        assert recipe_digest(recipe.seeded(trainee), trainee) == recipe_digest(recipe, first)


def test_models_of_the_shipped_recipe_are_within_five_percent_of_a_million_parameters_of_each_other():
    _, trainees = read_recipe()
    sizes = {name: trainer.build(trainee, seed=0).num_params()[0] for name, trainee in trainees.items()}
    assert max(sizes.values()) <= 1.05 * min(sizes.values()), sizes
    assert all(0.9e6 < size < 1.1e6 for size in sizes.values()), sizes


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda d: d["recipe"].pop("seed"), SuiteError, "key 'seed' is missing"),
        (lambda d: d["recipe"].update(seed=1.5), SuiteError, "seed must be a whole number of at least 0; got 1.5"),
        (lambda d: d["recipe"].update(betas=[0.9]), SuiteError, r"betas must be a list of 2: .*; got \[0.9\]"),
        (
            lambda d: d["recipe"]["phases"][1].update(tokens=0),
            SuiteError,
            "tokens must be a whole number of at least 1",
        ),
        (lambda d: d["recipe"].update(phases=[]), SuiteError, "at least one phase"),
        (lambda d: d["models"]["transformer"].update(lr="fast"), SuiteError, "lr must be .* more than 0; got 'fast'"),
        (lambda d: d["models"]["transformer"].update(autocast=1), SuiteError, "autocast must be true or false; got 1"),
        (lambda d: d["recipe"].update(colour=1), SuiteError, "colour"),
        (lambda d: d["models"]["transformer"].update(lrr=1), SuiteError, "lrr"),
        (lambda d: d["recipe"]["phases"][0].update(mix={"prosa": 1}), UnknownNameError, "did you mean 'prose'"),
        (lambda d: d.pop("models"), SuiteError, "models"),
    ],
)
def test_a_wrong_recipe_is_refused_in_words(tmp_path, change, error, words):
    data = yaml.safe_load(yaml.safe_dump(TINY))
    change(data)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(error, match=words) as caught:
        read_recipe(path)
    assert re.search(r"recipe\.yaml:\d+", str(caught.value))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"vocab_size": 256},
            "vocab_size=256, and its rows hold 257 tokens: 256 bytes, and one that begins a document",
        ),
        (
            {"model_type": "fading"},
            r"none of the dialects of 'transformer' \(.*\) reads its config with model_type='fad",
        ),
    ],
)
def test_a_config_that_no_row_fits_is_refused_before_the_first_step(change, said):
    trainee = read_recipe()[1]["transformer"]
    with pytest.raises(SuiteError, match=said):
        trainer.build(dataclasses.replace(trainee, config={**trainee.config, **change}), seed=1)


@pytest.mark.parametrize(
    ("name", "slip", "meant", "error"),
    [
        ("titans-lmm", "unit_nrom", "unit_norm", CheckpointError),  # its config refuses
        ("transformer", "rope_thta", "rope_theta", CheckpointError),
    ],
)
def test_a_field_that_no_config_has_is_refused_before_its_default_is_trained(name, slip, meant, error):
    given = read_recipe()[1][name]
    changed = dataclasses.replace(given, config={**given.config, slip: 1})
    with pytest.raises(error, match=rf"unknown field '{slip}' in .*; did you mean '{meant}'"):
        trainer.build(changed, seed=0)


@pytest.mark.parametrize("recipe", sorted(RECIPE.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_model_of_every_shipped_recipe_is_built(recipe):
    for trainee in read_recipe(recipe)[1].values():
        assert trainer.build(trainee, seed=0).num_params()[0] > 0


def test_unknown_models_and_missing_recipes_are_refused(recipe_path, tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'transformer'"):
        find_trainees(["transformr"], recipe_path)
    with pytest.raises(SuiteError, match="cannot read"):
        read_recipe(tmp_path / "none.yaml")
    assert RECIPE.exists()


def test_a_loss_that_is_not_finite_stops_the_training(recipe_path, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "learn", lambda run, *_: setattr(run, "step", run.step + 1) or math.nan)
    with pytest.raises(UsageError, match="diverged at step 1"):
        train_one("transformer", recipe_path, cache=tmp_path, report_every_s=0.0)


def test_a_card_is_made_of_what_the_shipped_file_scores(recipe_path, tmp_path, monkeypatch):
    monkeypatch.setattr("ttbench.tasks.needle.needle_card.TRIALS", 1)
    # too short for the question
    monkeypatch.setattr("ttbench.tasks.needle.needle_card.SHORT_CTX", 128)
    data = yaml.safe_load(yaml.safe_dump(TINY))
    data["recipe"]["phases"][1]["context_len"] = 512
    recipe_path.write_text(yaml.safe_dump(data))
    recipe, trainees = read_recipe(recipe_path)
    finished = train_one("transformer", recipe_path, cache=tmp_path)
    folder = ship(
        finished, recipe, trainees["transformer"], tmp_path / "shipped", command=["ttbench", "train", "x"], brief=True
    )

    card = (folder / "card.md").read_text()
    for words in ("ttbench train x", finished.data_digest, "bzip2 -9", "needles retrieved at 512", "FLOPs per token"):
        assert words in card, words
    assert "| needles at 128, in `kjv` | unsupported | |" in card
    assert "of 2 test documents of `code`" in card  # a fifth of ten, and the card says so
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "card.md", "training.json"}


def test_a_checkpoint_whose_card_was_not_made_is_not_there(recipe_path, tmp_path, monkeypatch):
    def killed(*args, **options):
        raise KeyboardInterrupt

    recipe, trainee = find_one("transformer", recipe_path)
    finished = train_one("transformer", recipe_path, cache=tmp_path / "cache")
    monkeypatch.setattr("ttbench.training.card.write_card", killed)
    with pytest.raises(KeyboardInterrupt):
        ship(finished, recipe, trainee, tmp_path / "out" / "transformer")
    assert list((tmp_path / "out").iterdir()) == []


def test_phases_and_steps_add_up(recipe_path):
    recipe, trainees = read_recipe(recipe_path)
    assert isinstance(recipe, Recipe)
    assert isinstance(trainees["transformer"], Trainee)
    assert recipe.num_steps == 8 + 8
    assert recipe.num_tokens == 2048
    assert [recipe.locate(step) for step in (0, 7, 8, 15)] == [(0, 0), (0, 7), (1, 0), (1, 7)]
    with pytest.raises(IndexError):
        recipe.locate(16)


def test_a_grid_trains_each_rate_on_the_same_rows_and_scores_it_on_valid(recipe_path, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ttbench.training.grid.ROWS",
        {"recall": ("recall", 128, 8), "needle": ("needle", 256, 8), "prose": ("prose", 64, 8)},
    )
    recipe, trainee = find_one("transformer", recipe_path)
    trials = list(grid.run_trials(trainee, recipe, [1e-6, 1e-2], share=0.5, cache=tmp_path))
    assert [(trial.lr, trial.num_tokens) for trial in trials] == [(1e-6, 1024), (1e-2, 1024)]
    assert trials[0].data_digest == trials[1].data_digest
    assert trials[0].scores["prose"] > trials[1].scores["prose"] > 0  # bits: the higher rate has learned something
    assert all(0 <= trial.scores[name] <= 1 for trial in trials for name in ("recall", "needle"))
    again = list(grid.run_trials(trainee, recipe, [1e-6, 1e-2], share=0.5, cache=tmp_path))
    assert [trial.scores for trial in again] == [trial.scores for trial in trials]


def test_validation_counts_what_a_known_model_gets_right_and_reads_no_train_or_test_document(monkeypatch):
    opened: set[str] = set()
    documents = Corpus.documents
    monkeypatch.setattr(Corpus, "documents", lambda self, split: (opened.add(split), documents(self, split))[1])
    monkeypatch.setattr(grid, "ROWS", {"needle": ("needle", 256, 8), "code": ("code", 64, 8)})
    model = cast("SequenceModel", UniformModel())
    scores = grid.validate(model, answer_weight=6.0)
    assert opened == {"valid"}
    assert scores["code"] == pytest.approx(math.log2(257))
    rows = trainer.Mixture(seed=grid.VALID_SEED, answer_weight=6.0, split="valid").batch(
        {"needle": 1.0}, stream=0, step=0, batch_size=8, num_tokens=256
    )
    assert scores["needle"] == pytest.approx((rows.targets[rows.weights == 6.0] == 0).mean())


class UniformModel(torch.nn.Module):
    """Gives every token the same logit, so the greedy choice is token 0."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*ids.shape, 1)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*hidden.shape[:-1], 257)


def test_a_mistake_in_a_recipe_is_named_by_its_line(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "recipe:\n  seed: 1\n  betas: [0.9, 0.95]\n  weight_decay: 0.1\n  clip: 1.0\n  warmup: 0.1\n  final_lr: 0.1\n"
        "  answer_weight: 1.0\n  phases:\n    - {context_len: 32, batch_size: 4, tokens: 1024, mix: {copy: 1.0}}\n"
        "    - context_len: 32\n      batch_size: 4\n      tokens: 1024\n"
        "      mix:\n        copy: 0.5\n        prosa: 0.5\n"
        "models: {}\n"
    )
    with pytest.raises(UnknownNameError, match=r"'prosa' in .*recipe\.yaml:16; did you mean 'prose'"):
        read_recipe(path)


@pytest.mark.parametrize("path", sorted(RECIPE.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_is_read_with_every_number_that_its_file_has(path):
    data = yaml.safe_load(path.read_text())
    recipe, trainees = read_recipe(path)
    as_read = json.loads(json.dumps(dataclasses.asdict(recipe)))
    said = {**data["recipe"], "phases": [{"peak": None, **phase} for phase in data["recipe"]["phases"]]}
    assert as_read == said
    for name, trainee in trainees.items():
        entry = {"mix": None, "seed": None, "name": name, **data["models"][name]}
        assert dataclasses.asdict(trainee) == entry
        assert list(trainee.config) == list(entry["config"])
