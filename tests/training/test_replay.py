"""A training's first steps, run again from what its folder says; and seeds, by which trainings of one recipe differ."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_training import SCHEDULE

from ttbench.checkpoints.checkpoint import resolve, zoo_names
from ttbench.checkpoints.naming import zoo_folders
from ttbench.cli.commands import checkpoint_commands as checkpoints
from ttbench.errors import CheckpointError, GateError, UsageError
from ttbench.training.card import ship
from ttbench.training.recipe import Recipe, Trainee, find_trainees, recipe_digest
from ttbench.training.replay import EARLY_TOLERANCE, RECORD, read_record, replay, require_own, to_record
from ttbench.training.train import Training, learn, train

SIZE = {"vocab_size": 257, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
MODEL = {"architecture": "transformer", "lr": 0.01, "autocast": False, "config": {"model_type": "llama", **SIZE}}
SETTINGS = {
    "recipe": {
        **SCHEDULE,
        "phases": [{"context_len": 32, "batch_size": 2, "tokens": 64 * 110, "mix": {"copy": 0.5, "prose": 0.5}}],
    },
    "models": {"first": MODEL, "same": MODEL, "other": {**MODEL, "seed": 6}},
}


def trained(name: str, folder: Path) -> tuple[Training, Recipe, Trainee]:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    recipe, trainees = find_trainees([name], path)
    return train(trainees[name], recipe, cache=folder), recipe, trainees[name]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ttbench.training.card.write_card", lambda *args, **options: None)
        return ship(*trained("first", folder), folder / "first")


def changed(shipped: Path, tmp_path: Path, change: Any) -> Path:
    """A copy of the folder whose record has been edited."""
    data = json.loads((shipped / RECORD).read_bytes())
    change(data)
    (tmp_path / RECORD).write_text(json.dumps(data))
    return tmp_path


def test_the_first_steps_of_a_training_run_again_to_the_bit(shipped):
    found = replay(read_record(shipped), num_steps=100)
    assert found.num_steps == 100
    assert found.identical
    assert found.holds
    assert found.early == found.late == 0.0
    assert len(set(found.losses)) > 90
    assert found.losses[-1] < found.losses[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["recipe"].update(seed=7),
        lambda d: d["model"].update(seed=7),
        lambda d: d["recipe"]["phases"][0].update(mix={"copy": 0.4, "prose": 0.6}),
        lambda d: d["data_digests"].update({"50": "0" * 32}),
    ],
)
def test_another_seed_or_mix_reads_other_rows(shipped, tmp_path, change):
    found = replay(read_record(changed(shipped, tmp_path, change)), num_steps=100)
    assert found.other_rows == 50
    assert not found.holds


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["model"].update(lr=0.013),
        lambda d: d["recipe"].update(clip=0.1, warmup=0.5),
        lambda d: d["model"]["config"].update(rope_theta=100.0, intermediate_size=96),
        lambda d: d.update(losses=[0.97 * nats for nats in d["losses"]]),
    ],
)
def test_another_rate_or_model_and_prettier_losses_are_noticed(shipped, tmp_path, change):
    found = replay(read_record(changed(shipped, tmp_path, change)), num_steps=100)
    assert found.other_rows is None
    assert not found.identical
    assert found.early > EARLY_TOLERANCE
    assert not found.holds


def test_losses_that_differ_by_rounding_hold_and_are_not_called_the_same(shipped, tmp_path):
    path = changed(shipped, tmp_path, lambda d: d.update(losses=[nats * (1 + 1e-4) for nats in d["losses"]]))
    found = replay(read_record(path), num_steps=60)
    assert found.holds
    assert not found.identical
    # the steps after the last full fifty belong to it
    assert found.early == pytest.approx(1e-4, rel=1e-2)


def test_trainings_may_part_late_and_not_early(shipped, tmp_path):
    def parted(share, first):
        losses = [nats * (1 + share * (step >= first)) for step, nats in enumerate(read_record(shipped).losses)]
        return replay(read_record(changed(shipped, tmp_path, lambda d: d.update(losses=losses))), num_steps=110)

    apart = parted(0.01, 100)
    assert apart.holds
    assert apart.late == pytest.approx(0.01 / 1.01)
    assert apart.early == 0.0
    assert not parted(0.03, 100).holds
    assert not parted(0.01, 60).holds
    assert not parted(0.001, 0).holds


def test_steps_that_were_not_written_down_are_not_compared(shipped):
    record = read_record(shipped)
    assert len(record.losses) == 110
    for steps in (49, 111):
        with pytest.raises(UsageError, match="50 to 110 can be compared"):
            replay(record, num_steps=steps)


def test_a_folder_without_a_record_and_one_with_another_file_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=f"has no {RECORD}"):
        read_record(tmp_path)
    for text in ("", "[]", '{"recipe": {}}'):
        (tmp_path / RECORD).write_text(text)
        with pytest.raises(CheckpointError, match="not what `ttbench train` writes"):
            read_record(tmp_path)


def test_the_command_says_what_it_found_and_fails_where_it_does_not_hold(shipped, tmp_path, monkeypatch, capsys):
    # which sets variables of the whole process
    monkeypatch.setattr("ttbench.machine.measure.pin_threads", lambda threads: None)
    options = {"num_steps": 50, "threads": None, "as_json": False}
    checkpoints.replay(str(shipped), [], **options)
    assert "50 steps read the same rows, and every loss is the same to the bit" in " ".join(
        capsys.readouterr().err.split()
    )
    for file in shipped.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    changed(shipped, tmp_path, lambda d: d.update(losses=[0.97 * nats for nats in d["losses"]]))
    with pytest.raises(GateError, match="does not learn here as its folder says"):
        checkpoints.replay(str(tmp_path), [], **options)
    for change in (lambda d: d["model"].update(lr=0.02), lambda d: d["recipe"].update(seed=7)):
        changed(shipped, tmp_path, change)
        with pytest.raises(CheckpointError, match="of another training"):
            checkpoints.replay(str(tmp_path), [], **options)
    changed(shipped, tmp_path, lambda d: d["data_digests"].update({"50": "0" * 32}))
    with pytest.raises(GateError, match="they differ by step 50"):
        checkpoints.replay(str(tmp_path), [], **options)
    with pytest.raises(UsageError, match="trains nothing"):
        checkpoints.replay(str(shipped), ["first"], **options)


def test_seeds_make_other_trainings_of_one_recipe_and_names_do_not(shipped, tmp_path):
    first, same, other = (trained(name, tmp_path) for name in ("first", "same", "other"))
    assert first[0].data_digest == same[0].data_digest != other[0].data_digest
    weights = [each[0].model.state_dict()["embed.weight"] for each in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert len({recipe_digest(recipe, trainee) for _, recipe, trainee in (first, same, other)}) == 1
    _, recipe, trainee = first
    assert recipe_digest(recipe, dataclasses.replace(trainee, lr=0.02)) != recipe_digest(recipe, trainee)
    checkpoint = resolve(str(shipped))
    assert (checkpoint.train_seed, checkpoint.train_recipe) == (5, recipe_digest(recipe, trainee))


@pytest.mark.parametrize(("key", "value"), [("train_seed", "5"), ("train_seed", 2**63), ("train_recipe", 5)])
def test_a_seed_or_recipe_of_another_type_is_refused(shipped, tmp_path, key, value):
    for file in shipped.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((shipped / "config.json").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(CheckpointError, match=f"has {key}="):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    "change",
    [{"train_seed": 77}, {"train_recipe": "0" * 32}, {"train_ctx": 4096}, {"rope_theta": 1.5}],
    ids=lambda change: next(iter(change)),
)
def test_a_record_of_another_training_than_the_checkpoint_s_is_refused(shipped, tmp_path, monkeypatch, change):
    folder = tmp_path / "edited"
    shutil.copytree(shipped, folder)
    require_own(read_record(folder), folder)
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    monkeypatch.setattr("ttbench.machine.measure.pin_threads", lambda threads: None)
    with pytest.raises(CheckpointError, match=f"of another training: config.json says {next(iter(change))} "):
        checkpoints.replay(str(folder), [], num_steps=50, threads=None, as_json=False)


@pytest.mark.parametrize("name", zoo_names())
def test_the_records_of_the_zoo_are_of_its_checkpoints_and_its_cards_name_their_weights(name):
    folder = zoo_folders()[name]
    require_own(read_record(folder), folder)
    card = (folder / "card.md").read_text(encoding="utf-8")
    assert f"| weights digest | `{resolve(name).weights_digest}`" in card


@pytest.mark.parametrize("lost", [0, 60, 109])
def test_a_replay_that_diverges_does_not_hold_and_is_still_json(shipped, monkeypatch, capsys, lost):
    record = read_record(shipped)
    steps = iter(range(110))

    def diverging(run, mixture, recipe, trainee):
        nats = learn(run, mixture, recipe, trainee)
        if next(steps) >= lost:
            run.first_losses[-1] = nats = math.nan
        return nats

    monkeypatch.setattr("ttbench.training.replay.learn", diverging)
    monkeypatch.setattr("ttbench.machine.measure.pin_threads", lambda threads: None)
    with pytest.raises(GateError, match="does not learn here as its folder says"):
        checkpoints.replay(str(shipped), [], num_steps=len(record.losses), threads=None, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert not found["holds"]
    assert found["losses"][lost:] == [None] * (110 - lost)


def test_a_training_is_not_gone_on_with_by_other_code_and_says_what_its_first_steps_were_made_with(
    tmp_path, monkeypatch
):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    recipe, trainees = find_trainees(["first"], path)
    half = train(trainees["first"], recipe, cache=tmp_path, stop_after_s=0.0)
    assert 0 < half.step < recipe.num_steps
    with monkeypatch.context() as patch:
        patch.setattr("ttbench.training.train.code_digest", lambda **which: "of other code")
        with pytest.raises(UsageError, match="was begun by other code, at step"):
            train(trainees["first"], recipe, cache=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("torch.get_num_threads", lambda: 77)
        whole = train(trainees["first"], recipe, cache=tmp_path)
    assert whole.step == recipe.num_steps
    record = json.loads(to_record(whole, recipe, trainees["first"]))
    assert record["threads"] == int(half.begun["threads"]) != 77


def test_a_training_that_was_begun_before_its_code_was_written_down_goes_on(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(SETTINGS))
    recipe, trainees = find_trainees(["first"], path)
    train(trainees["first"], recipe, cache=tmp_path, stop_after_s=0.0)
    (saved,) = (tmp_path / "train").glob("first-*.pt")
    held = torch.load(saved, weights_only=True)
    del held["begun"]
    torch.save(held, saved)
    assert train(trainees["first"], recipe, cache=tmp_path).step == recipe.num_steps
