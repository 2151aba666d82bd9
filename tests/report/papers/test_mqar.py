"""Zoology's MQAR, trained for real at toy size: attention recalls stated pairs, and a fixed convolution does not.

`make mqar` trains the same puzzle at the recipe's size. Here: two layers of width 32, 16 tokens, up to four pairs.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

import ttbench
from ttbench.report.papers.preset import find_preset
from ttbench.report.papers.write import fill
from ttbench.training.recipe import Phase, Recipe, Trainee
from ttbench.training.train import train

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
