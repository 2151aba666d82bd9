"""docs/architectures.md has every architecture, and the states it prints are those of `cost`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ttbench.kernels.neural_memory import layer_shapes
from ttbench.registry import ARCHITECTURES

PAGE = (Path(__file__).parents[1] / "docs" / "architectures.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))


def tails(kernel: int, channels: int) -> int:
    return max(kernel - 1, 0) * channels


def titans(c: Any, *, attended: int = 0, channels: int = 3) -> int:
    shapes = layer_shapes(c.head_dim, num_layers=c.memory_layers, expansion=c.memory_expansion)
    weights, widths = sum(i * o for i, o in shapes), sum(map(sum, shapes))
    memory = c.num_attention_heads * (2 * weights + c.chunk_size * widths + 3 * c.chunk_size)
    return memory + tails(c.conv_kernel, channels * c.hidden_size) + 2 * c.hidden_size * attended


# The page's formulas, in elements per layer: before the first token, and for each token.
STATES: dict[str, Callable[[Any], tuple[int, int]]] = {
    "transformer": lambda c: (
        tails(c.conv_kernel, (c.num_attention_heads + 2 * c.num_key_value_heads) * c.head_dim),
        2 * c.num_key_value_heads * c.head_dim,
    ),
    "s4d": lambda c: (c.hidden_size * c.state_size, 0),
    "titans-lmm": lambda c: (titans(c), 0),
    "titans-mac": lambda c: (titans(c, attended=2 * c.chunk_size + c.num_persistent, channels=4), 0),
    "titans-mag": lambda c: (titans(c, attended=c.window - 1 + c.num_persistent), 0),
    "titans-mal": lambda c: (titans(c, attended=c.window - 1 + c.num_persistent), 0),
    "performer": lambda c: (c.num_attention_heads * c.num_features * (c.head_dim + 2), 0),
    "skyformer": lambda c: (0, 2 * c.hidden_size),
}


def test_every_architecture_has_a_section_and_a_row_and_no_other_has() -> None:
    assert set(SECTIONS) == set(ARCHITECTURES)
    assert re.findall(r"^\| \[`(\S+)`\]\(#\1\)", PAGE, re.M) == list(SECTIONS)


@pytest.mark.parametrize("name", list(SECTIONS))
def test_a_section_says_what_is_kept_what_it_costs_and_what_is_ours(name: str) -> None:
    for words in ("State: ", "Cost: ", "Faithful"):
        assert words in SECTIONS[name], f"{name}: no '{words}'"
    assert "reading" in SECTIONS[name] or "eparture" in SECTIONS[name]
    assert re.search(r"^    \S", SECTIONS[name], re.M), f"{name}: no equation"


@pytest.mark.parametrize("name", list(STATES))
def test_the_states_on_the_page_are_those_of_cost(name: str) -> None:
    model_class = ARCHITECTURES.load(name)
    config = model_class.tiny().config
    cost = model_class.cost(config, dtype_bytes=4)
    fixed, each = STATES[name](config)
    layers = config.num_hidden_layers
    assert (cost.state_bytes, cost.state_bytes_per_token) == (4 * layers * fixed, 4 * layers * each)


@pytest.mark.parametrize("name", list(SECTIONS))
def test_a_state_grows_where_the_page_says_so(name: str) -> None:
    model_class = ARCHITECTURES.load(name)
    (row,) = re.findall(rf"^\| \[`{name}`\].*$", PAGE, re.M)
    assert model_class.tiny().state_grows is (row.split("|")[2].strip() != "no")
