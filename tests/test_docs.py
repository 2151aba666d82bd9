"""docs/architectures.md has every architecture, and the states and costs it prints are those of `cost`."""

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


def ttt(c: Any, *, held: int) -> int:
    return c.num_attention_heads * held + tails(c.conv_kernel, (c.share_qk + c.pre_conv) * c.hidden_size)


def reformer(c: Any) -> float:
    """Of which the integers take the place of two in float32."""
    slots = c.num_attention_heads * c.num_hashes * c.num_buckets
    numbers = slots * c.bucket_keys * 2 * c.head_dim + 2 * slots * (c.bucket_keys * c.num_hashes + 1)
    return numbers + tails(c.conv_kernel, 2 * c.hidden_size)


# The page's formulas, in elements per layer: before the first token, and for each token.
STATES: dict[str, Callable[[Any], tuple[float, int]]] = {
    "transformer": lambda c: (
        tails(c.conv_kernel, (c.num_attention_heads + 2 * c.num_key_value_heads) * c.head_dim),
        2 * c.num_key_value_heads * c.head_dim,
    ),
    "ttt-linear": lambda c: (ttt(c, held=c.head_dim**2 + c.head_dim + 2 * c.mini_batch_size * c.head_dim), 0),
    "ttt-mlp": lambda c: (ttt(c, held=8 * c.head_dim**2 + 5 * c.head_dim + 10 * c.mini_batch_size * c.head_dim), 0),
    "mamba": lambda c: (c.intermediate_size * c.state_size + tails(c.conv_kernel, c.intermediate_size), 0),
    "mamba2": lambda c: (
        c.num_heads * c.head_dim * c.state_size
        + tails(c.conv_kernel, c.num_heads * c.head_dim + 2 * c.n_groups * c.state_size),
        0,
    ),
    "s4d": lambda c: (c.hidden_size * c.state_size, 0),
    "titans-lmm": lambda c: (titans(c), 0),
    "titans-mac": lambda c: (titans(c, attended=2 * c.chunk_size + c.num_persistent, channels=4), 0),
    "titans-mag": lambda c: (titans(c, attended=c.window - 1 + c.num_persistent), 0),
    "titans-mal": lambda c: (titans(c, attended=c.window - 1 + c.num_persistent), 0),
    "performer": lambda c: (c.num_attention_heads * c.num_features * (c.head_dim + 2), 0),
    "reformer": lambda c: (reformer(c), 0),
    "skyformer": lambda c: (0, 2 * c.hidden_size),
}


def convolved(c: Any, channels: int) -> int:
    return 2 * c.conv_kernel * channels


def ttt_flops(c: Any, inside: int) -> int:
    width, num_convs = c.hidden_size, 2 * c.share_qk + c.pre_conv
    outside = 8 * width**2 - 2 * width**2 * (not c.use_gate) + 2 * width**2 * (not c.share_qk)
    return outside + 2 * width * c.num_attention_heads + inside + convolved(c, num_convs * width)


def titans_flops(c: Any, projections: int, attended: int = 0, *, recall: bool = False) -> float:
    shapes = layer_shapes(c.head_dim, num_layers=c.memory_layers, expansion=c.memory_expansion)
    weights, widths = sum(i * o for i, o in shapes), sum(map(sum, shapes))
    width, size = c.hidden_size, c.chunk_size
    head = 12 * weights - 2 * shapes[0][0] * shapes[0][1] + widths * (size + 1) + (size + 1) * (size + 2) / 3
    outside = projections * width**2 + 6 * width * c.num_attention_heads + 4 * width * attended
    return outside + c.num_attention_heads * (head + 2 * weights * recall) + convolved(c, (3 + recall) * width)


def mamba2_flops(c: Any) -> int:
    inner, groups = c.num_heads * c.head_dim, 2 * c.n_groups * c.state_size
    projections = 6 * c.hidden_size * inner + 2 * c.hidden_size * (groups + c.num_heads)
    return projections + 5 * inner * c.state_size + convolved(c, inner + groups)


def performer_flops(c: Any) -> int:
    head = 4 * c.num_features * c.head_dim + 5 * c.num_features * (c.head_dim + 1)
    return 8 * c.hidden_size**2 + c.num_attention_heads * head


# The page's formulas, in FLOP per token and layer, where that many tokens can be read.
COSTS: dict[str, Callable[[Any, int], float]] = {
    "transformer": lambda c, seen: (
        4 * c.hidden_size * (c.num_attention_heads + c.num_key_value_heads) * c.head_dim
        + 4 * c.num_attention_heads * c.head_dim * seen
        + convolved(c, (c.num_attention_heads + 2 * c.num_key_value_heads) * c.head_dim)
    ),
    "ttt-linear": lambda c, seen: ttt_flops(
        c, 6 * c.hidden_size * c.head_dim + 2 * c.hidden_size * (c.mini_batch_size + 1)
    ),
    "ttt-mlp": lambda c, seen: ttt_flops(
        c, 56 * c.hidden_size * c.head_dim + 10 * c.hidden_size * (c.mini_batch_size + 1)
    ),
    "mamba": lambda c, seen: (
        c.intermediate_size * (6 * c.hidden_size + 4 * (c.state_size + c.time_step_rank) + 6 * c.state_size)
        + convolved(c, c.intermediate_size)
    ),
    "mamba2": lambda c, seen: mamba2_flops(c),
    "s4d": lambda c, seen: 4 * c.hidden_size**2 + 4 * c.hidden_size * c.state_size + 65 * c.hidden_size,
    "titans-lmm": lambda c, seen: titans_flops(c, 10),
    "titans-mac": lambda c, seen: titans_flops(c, 20, c.num_persistent + c.chunk_size + 1, recall=True),
    "titans-mag": lambda c, seen: titans_flops(c, 14, min(seen, c.window) + c.num_persistent),
    "titans-mal": lambda c, seen: titans_flops(c, 18, min(seen, c.window) + c.num_persistent),
    "performer": lambda c, seen: performer_flops(c),
    "reformer": lambda c, seen: (
        6 * c.hidden_size**2
        + c.num_hashes * c.hidden_size * (c.num_buckets + 4 * c.bucket_keys)
        + convolved(c, 2 * c.hidden_size)
    ),
    "skyformer": lambda c, seen: 8 * c.hidden_size**2 + 4 * c.hidden_size * seen,
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


def test_the_page_prints_formulas_for_all_but_mixtures_of_others() -> None:
    assert set(SECTIONS) - set(STATES) == set(SECTIONS) - set(COSTS) == {"hybrid"}


@pytest.mark.parametrize("name", list(COSTS))
def test_the_costs_on_the_page_are_those_of_cost(name: str) -> None:
    model_class = ARCHITECTURES.load(name)
    config = model_class.tiny().config
    # Mamba's intermediate size is its own width, and no SwiGLU's
    mlp = 0 if name in ("mamba", "mamba2") else 6 * config.hidden_size * config.intermediate_size
    for seen in (1, 7, 1000):
        found = model_class.cost(config, dtype_bytes=4).decode_flops(seen - 1)
        expected = config.num_hidden_layers * (COSTS[name](config, seen) + mlp)
        assert found == pytest.approx(expected + 2 * config.hidden_size * config.vocab_size, rel=1e-12)


@pytest.mark.parametrize("name", list(SECTIONS))
def test_a_state_grows_where_the_page_says_so(name: str) -> None:
    model_class = ARCHITECTURES.load(name)
    (row,) = re.findall(rf"^\| \[`{name}`\].*$", PAGE, re.M)
    assert model_class.tiny().state_grows is (row.split("|")[2].strip() != "no")
