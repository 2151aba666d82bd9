"""Zoology's MQAR, trained for real at toy size: attention recalls stated pairs, and a fixed convolution does not.

`make puzzles` trains the same puzzle at the recipe's size. Here: two layers of width 32, 16 tokens, up to four pairs.
Then the figures of the three papers whose puzzles that goal trains, from models that were not trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import ttbench
from ttbench.report.papers.curves import PaperLine
from ttbench.report.papers.preset import find_preset
from ttbench.report.papers.write import fill
from ttbench.training.recipe import Phase, Recipe, Trainee
from ttbench.training.train import build, train

TOKENS = 80_000
SIZE = {"vocab_size": 257, "hidden_size": 32, "num_hidden_layers": 2, "tie_word_embeddings": True}
SIZE |= {"rms_norm_eps": 1e-6, "intermediate_size": 64}
CONFIGS = {
    "transformer": {"model_type": "llama-conv", "conv_kernel": 4, "num_attention_heads": 2, "head_dim": 16},
    "s4d": {"model_type": "s4d", "state_size": 16},
}


def recalled(architecture: str, cache: Path) -> pd.DataFrame:
    """Rows of a model that was trained here."""
    phase = Phase(context_len=16, batch_size=32, tokens=TOKENS, mix={"mqar": 1.0})
    recipe = Recipe(
        seed=1,
        betas=(0.9, 0.95),
        weight_decay=0.1,
        clip=1.0,
        warmup=0.05,
        final_lr=0.05,
        answer_weight=1.0,
        phases=(phase,),
    )
    config = {**SIZE, **CONFIGS[architecture]}
    trainee = Trainee(name=architecture, architecture=architecture, lr=0.015, autocast=False, config=config)
    model = train(trainee, recipe, cache=cache).model
    asked = {"kind": "mqar", "form": "symbols"}
    return ttbench.measure(
        "recall", model, tokenizer="bytes", name=f"mqar-{architecture}", ctx=16, params=asked, limit=16, batch_size=16
    )


def test_attention_learns_to_recall_and_the_figure_shows_it_as_a_stand_in(tmp_path: Path) -> None:
    torch.manual_seed(0)
    parts = [recalled(architecture, tmp_path) for architecture in CONFIGS]
    rows = pd.concat(parts, ignore_index=True)
    rows.attrs = parts[0].attrs
    filled = {figure.name: panels for figure, panels in fill(find_preset("zoology"), [rows])}
    (panel,) = filled["recall_by_length"]
    lines = {line.name: line for line in panel.lines if line.word == "stand-in"}
    share = {name: line.points[0].value for name, line in lines.items()}
    # chance is 1/128, and naming a value that was stated at random 1/4 at four pairs
    assert share["mqar-transformer"] > 0.9
    assert share["mqar-s4d"] < 0.4
    assert [point.at for point in lines["mqar-transformer"].points] == [16]
    missing = {line.name for line in panel.lines if line.word == "not run"}
    assert {"Attention", "gated convolution", "Mamba"} <= missing


def stand_ins(paper: str, rows: list[pd.DataFrame]) -> dict[str, list[PaperLine]]:
    """Lines of our models by the title of their panel, where it has any."""
    panels = [panel for _, panels in fill(find_preset(paper), rows) for panel in panels]
    return {panel.panel.title: panel.of("stand-in") for panel in panels if panel.of("stand-in")}


def untrained(width: int, **asked: Any) -> pd.DataFrame:
    config = {**SIZE, **CONFIGS["transformer"], "hidden_size": width, "head_dim": width // 2}
    trainee = Trainee(name="x", architecture="transformer", lr=1.0, autocast=False, config=config)
    model = build(trainee, seed=0)
    params = {"form": "symbols", "limit": 2, **asked.pop("params")}
    return ttbench.measure("recall", model, tokenizer="bytes", name=f"width-{width}", params=params, **asked)


def together(parts: list[pd.DataFrame], **columns: Any) -> pd.DataFrame:
    rows = pd.concat(parts, ignore_index=True).assign(**columns)
    rows.attrs = parts[0].attrs
    return rows


def test_three_sizes_of_an_architecture_are_one_line_along_their_state() -> None:
    rows = together([untrained(width, ctx="64", params={"kind": "mqar"}) for width in (8, 32, 16)])
    drawn = stand_ins("zoology", [rows])
    # there is no room for 32 pairs
    assert {title for title in drawn if "pairs" in title} == {f"MQAR, {n} pairs in 64 tokens" for n in (4, 8, 16)}
    for pairs in (4, 16):
        (line,) = drawn[f"MQAR, {pairs} pairs in 64 tokens"]
        assert line.name == "transformer"
        assert (line.checkpoint or "").split(", ") == ["width-8", "width-32", "width-16"]
        assert line.weights is None
        mine = [row for row in rows.to_dict("records") if row["pairs"] == pairs]
        states = sorted({row["state_bytes"] for row in mine})
        assert [point.at for point in line.points] == states
        for point, state in zip(line.points, states, strict=True):
            hits, asked = (
                sum(r[name] for r in mine if r["state_bytes"] == state) for name in ("hits", "num_questions")
            )
            assert point.value == pytest.approx(hits / asked)
    # along the length each checkpoint stays a line of its own
    assert [line.name for line in drawn["MQAR"]] == ["width-8", "width-32", "width-16"]


def test_copying_is_drawn_against_length_and_word_problems_of_models_trained_for_them_alone() -> None:
    copied = [untrained(8, ctx="32,64", params={"kind": "copy"})]
    (line,) = stand_ins("repeat-after-me", copied)["copying of strings"]
    assert [point.at for point in line.points] == [32, 64]
    tracked = [untrained(8, ctx="16,32", params={"kind": kind}) for kind in ("s5", "parity")]
    assert stand_ins("illusion-of-state", [together(tracked, trained_format=False)]) == {}
    drawn = stand_ins("illusion-of-state", [together(tracked, trained_format=True)])
    assert {title: [point.at for point in lines[0].points] for title, lines in drawn.items()} == {
        "word problem of a group that is not solvable": [16, 32],
        "parity": [16, 32],
    }
