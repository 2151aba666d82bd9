"""What `make puzzles` trains: every model is in the recipe, and all of them fit into four hours of one core."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from ttbench.checkpoints.checkpoint import identify
from ttbench.corpora.training_rows.puzzles import PUZZLES, most_pairs
from ttbench.registry import ARCHITECTURES
from ttbench.training.recipe import RECIPE, Recipe, Trainee, read_recipe

ROOT = Path(__file__).parents[2]
PATH = RECIPE.with_name("recipe-synthetic.yaml")
WIDTHS = (32, 64, 128)
HOUR = 3600  # seconds


@pytest.fixture(scope="module")
def recipe() -> tuple[Recipe, dict[str, Trainee]]:
    return read_recipe(PATH)


@pytest.fixture(scope="module")
def goal() -> list[str]:
    """The names that the Makefile gives to `ttbench train`, as make expands them."""
    asked = "include Makefile\nnames:\n\t@echo $(MQAR) $(COPYING) $(TRACKING)\n"
    command = ["make", "--no-print-directory", "-f", "-", "names"]
    return subprocess.run(command, input=asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def split(name: str) -> tuple[str, str, int]:
    """Puzzle, architecture as the recipe calls it, and width: mqar-ttt-linear-32."""
    puzzle, _, rest = name.partition("-")
    solver, _, width = rest.rpartition("-")
    return (puzzle, solver, int(width)) if width.isdecimal() else (puzzle, rest, 64)


def test_the_goal_trains_eight_architectures_on_each_puzzle_and_on_recall_at_three_widths(
    recipe: tuple[Recipe, dict[str, Trainee]], goal: list[str]
) -> None:
    shared, trainees = recipe
    assert set(goal) <= set(trainees)
    assert len(set(goal)) == len(goal) == 48
    found = [split(name) for name in goal]
    solvers = {solver for _, solver, _ in found}
    wanted = {("mqar", width) for width in WIDTHS} | {(puzzle, 64) for puzzle in PUZZLES if puzzle != "mqar"}
    assert {(puzzle, solver, width) for puzzle, width in wanted for solver in solvers} == set(found)
    for name in goal:
        puzzle, solver, width = split(name)
        assert shared.kinds(trainees[name]) == [puzzle]
        assert trainees[name].config["hidden_size"] == width
        # one rate for an architecture, on all puzzles and at all widths
        assert trainees[name].lr == trainees[f"mqar-{solver}"].lr
    for solver in solvers:
        states = []
        for suffix in ("-32", "", "-128"):
            trainee = trainees[f"mqar-{solver}{suffix}"]
            config = identify(trainee.config).config
            states.append(ARCHITECTURES.load(trainee.architecture).cost(config, dtype_bytes=4).state_nbytes(256))
        assert states == sorted(set(states))


def test_rows_grow_until_64_pairs_fit(recipe: tuple[Recipe, dict[str, Trainee]]) -> None:
    lengths = [phase.context_len for phase in recipe[0].phases]
    assert lengths == sorted(lengths)
    assert most_pairs(lengths[-1]) == 64


def test_all_of_it_takes_less_than_four_hours_of_one_core(
    recipe: tuple[Recipe, dict[str, Trainee]], goal: list[str]
) -> None:
    shared = yaml.safe_load(PATH.read_text(encoding="utf-8"))["shared"]
    total_s = len(goal) * shared["seconds_a_model"]
    for name in goal:
        _, solver, width = split(name)
        at_64, at_256 = shared["tokens_per_s"][solver][width]
        # seconds a token, between the two lengths in proportion to their logarithm
        cost = {64: 1 / at_64, 128: (1 / at_64 + 1 / at_256) / 2, 256: 1 / at_256}
        total_s += sum(
            phase.num_steps * phase.batch_size * phase.context_len * cost[phase.context_len]
            for phase in recipe[0].phases
        )
    assert 2 * HOUR < total_s < 4 * HOUR
