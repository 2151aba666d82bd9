"""docs/architectures.md has every architecture, and the states and costs that it prints are those of `cost`.

The formulas are read from the page: those of states from its table, those of costs from its sections, in the page's
notation, where neighbours are multiplied: `4 W (H + G) D`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ttbench.kernels.neural_memory import layer_shapes
from ttbench.registry import ARCHITECTURES

PAGE = (Path(__file__).parents[1] / "docs" / "architectures.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
ROWS = {
    name: (grows.strip(), state.strip())
    for name, grows, state in re.findall(r"^\| \[`(\S+)`\]\(#\1\) \|([^|]*)\|([^|]*)\|", PAGE, re.M)
}


def value(formula: str, letters: dict[str, float]) -> float:
    """A formula in the page's notation, with these values for its letters."""
    tokens: list[str] = re.findall(r"[A-Za-z]\w*|\d+|[²³]|[-+/()]", formula, re.ASCII)
    assert "".join(tokens) == formula.replace(" ", ""), formula
    code, powers = "", {"²": "**2", "³": "**3"}
    for before, token in zip(["", *tokens], tokens, strict=False):
        if re.match(r"[\w)²³]", before) and re.match(r"[A-Za-z\d(]", token):
            code += " * "
        code += powers.get(token, token)
    return eval(code, {"__builtins__": {}}, dict(letters))


def test_the_sizes_on_the_page_are_made_from_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    assert importlib.import_module("architectures").page(PAGE) == PAGE, "make columns"


def test_formulas_are_read_as_they_are_meant() -> None:
    letters = {"W": 5.0, "H": 2.0, "D": 3.0, "P": 7.0, "P_1": 1.0}
    assert value("4 W (H + D) D", letters) == 300
    assert value("12 P - 2 P_1 + (D + 1) (D + 2) / 3", letters) == 82 + 20 / 3
    assert value("8 W²", letters) == 200


@dataclass(frozen=True, slots=True)
class Reader:
    """One architecture's configuration, under the page's letters."""

    name: str
    config: Any

    def letters(self) -> dict[str, float]:
        """The letters of its section."""
        c, found = self.config, {}
        names = {"W": "hidden_size", "H": "num_attention_heads", "D": "head_dim", "G": "num_key_value_heads"}
        names |= {"C": "mini_batch_size", "F": "num_features", "m": "bucket_keys", "window": "window"}
        if self.name.startswith("mamba") or self.name == "s4d":
            names |= {
                "H": "num_heads",
                "G": "n_groups",
                "N": "state_size",
                "R": "time_step_rank",
                "E": "inner_dim",
            }
        if self.name.startswith("titans"):
            names |= {"C": "chunk_size", "N": "num_persistent"}
            shapes = layer_shapes(c.head_dim, num_layers=c.memory_layers, expansion=c.memory_expansion)
            found |= {
                "P": sum(i * o for i, o in shapes),
                "P_1": shapes[0][0] * shapes[0][1],
                "E": sum(map(sum, shapes)),
            }
        if self.name == "reformer":
            names |= {"R": "num_hashes", "N": "num_buckets"}
        if self.name == "mamba2":
            found["E"] = c.num_heads * c.head_dim
        return {**{letter: getattr(c, field) for letter, field in names.items() if hasattr(c, field)}, **found}

    def __call__(self, formula: str, *, of: str | None = None, **letters: float) -> float:
        """A formula that this section, or that `of` another to which it refers, must hold word for word."""
        text = " ".join(SECTIONS[of or self.name].split())
        assert re.search(rf"(?<![\w²]){re.escape(formula)}(?![\w²])", text), (
            f"{of or self.name}: {formula} is not there"
        )
        return value(formula, {**self.letters(), **letters})

    def state(self) -> tuple[float, float]:
        """Elements before the first token and for each one, by the table, but for the convolutions."""
        formula = ROWS[self.name][1]
        if formula.endswith(" a token"):
            return 0, value(formula.removesuffix(" a token"), self.letters())
        total = 0.0
        while match := re.fullmatch(r"as (\w+)(?:, and (.+))?", formula):
            total += 0 if match[2] is None else value(match[2], self.letters())
            formula = ROWS[f"titans-{match[1]}"][1]
        return total + value(formula, self.letters()), 0


# Channels whose K - 1 last inputs are kept, by configuration.
CHANNELS: dict[str, Callable[[Any], int]] = {
    "transformer": lambda c: (c.num_attention_heads + 2 * c.num_key_value_heads) * c.head_dim,
    "ttt-linear": lambda c: (c.share_qk + c.pre_conv) * c.hidden_size,
    "ttt-mlp": lambda c: (c.share_qk + c.pre_conv) * c.hidden_size,
    "mamba": lambda c: c.inner_dim,
    "mamba2": lambda c: c.num_heads * c.head_dim + 2 * c.n_groups * c.state_size,
    "titans-lmm": lambda c: 3 * c.hidden_size,
    "titans-mac": lambda c: 4 * c.hidden_size,
    "titans-mag": lambda c: 3 * c.hidden_size,
    "titans-mal": lambda c: 3 * c.hidden_size,
    "reformer": lambda c: 2 * c.hidden_size,
}


def convolved(name: str, c: Any) -> float:
    """2 K a channel; two convolutions of q and k read the one projection that they share."""
    if name.startswith("ttt"):
        return 2 * c.conv_kernel * (2 * c.share_qk + c.pre_conv) * c.hidden_size
    return 2 * c.conv_kernel * CHANNELS[name](c) if name in CHANNELS else 0


def ttt(page: Reader, inside: str) -> float:
    c, lent = page.config, "ttt-linear"
    gates = page("2 W²", of=lent) * ((not c.share_qk) - (not c.use_gate))
    return page("8 W²", of=lent) + gates + page("2 W H", of=lent) + page(inside)


def titans(page: Reader, projections: str) -> float:
    head = page("12 P - 2 P_1 + E (C + 1) + (C + 1) (C + 2) / 3", of="titans-lmm")
    return page(projections) + page("6 W H", of="titans-lmm") + page.config.num_attention_heads * head


def beside(page: Reader, seen: int) -> float:
    """A window of attention beside or after the memory."""
    return page("4 W (window + N)", of="titans-mag", window=min(seen, page.config.window))


# FLOP of a token and layer where that many tokens can be read, but for convolutions, SwiGLU and head.
COSTS: dict[str, Callable[[Reader, int], float]] = {
    "transformer": lambda page, seen: page("4 W (H + G) D") + page("4 H D") * seen,
    "ttt-linear": lambda page, seen: ttt(page, "6 W D + 2 W (C + 1)"),
    "ttt-mlp": lambda page, seen: ttt(page, "56 W D + 10 W (C + 1)"),
    "mamba": lambda page, seen: page("6 W E") + page("4 E (N + R)") + page("6 E N"),
    "mamba2": lambda page, seen: page("6 W E + 2 W (2 G N + H)") + page("5 E N"),
    "s4d": lambda page, seen: page("4 W²") + page("4 W N + 65 W"),
    "titans-lmm": lambda page, seen: titans(page, "10 W²"),
    "titans-mac": lambda page, seen: (
        titans(page, "20 W²") + page("2 P") * page.config.num_attention_heads + page("4 W (N + C + 1)")
    ),
    "titans-mag": lambda page, seen: titans(page, "14 W²") + beside(page, seen),
    "titans-mal": lambda page, seen: titans(page, "18 W²") + beside(page, seen),
    "performer": lambda page, seen: page("8 W²") + page("4 F D + 5 F (D + 1)") * page.config.num_attention_heads,
    "reformer": lambda page, seen: page("6 W²") + page("R W N") + page("4 R m W"),
    "skyformer": lambda page, seen: page("8 W²") + page("4 W") * seen,
}


def test_every_architecture_has_a_section_and_a_row_and_no_other_has() -> None:
    assert set(SECTIONS) == set(ARCHITECTURES)
    assert list(ROWS) == list(SECTIONS)


@pytest.mark.parametrize("name", list(SECTIONS))
def test_a_section_says_what_is_kept_what_it_costs_and_what_is_ours(name: str) -> None:
    for words in ("State: ", "Cost: ", "Faithful"):
        assert words in SECTIONS[name], f"{name}: no '{words}'"
    assert "reading" in SECTIONS[name] or "eparture" in SECTIONS[name]
    assert re.search(r"^    \S", SECTIONS[name], re.M), f"{name}: no equation"


# All but mixtures of others.
@pytest.mark.parametrize("name", [name for name in SECTIONS if name != "hybrid"])
def test_the_states_on_the_page_are_those_of_cost(name: str) -> None:
    model_class = ARCHITECTURES.load(name)
    page = Reader(name, model_class.tiny().config)
    c, cost = page.config, model_class.cost(page.config, dtype_bytes=4)
    fixed, each = page.state()
    if name == "reformer":
        # codes and counts are int64, two elements of float32 each
        fixed += c.num_attention_heads * c.num_hashes * c.num_buckets * (c.bucket_keys * c.num_hashes + 1)
    fixed += max(c.conv_kernel - 1, 0) * CHANNELS[name](c) if name in CHANNELS else 0
    layers = c.num_hidden_layers
    assert (cost.state_bytes, cost.state_bytes_per_token) == (4 * layers * fixed, 4 * layers * each)


@pytest.mark.parametrize("name", [name for name in SECTIONS if name != "hybrid"])
def test_the_costs_on_the_page_are_those_of_cost(name: str) -> None:
    model_class = ARCHITECTURES.load(name)
    page = Reader(name, model_class.tiny().config)
    c = page.config
    # Mamba's intermediate size is its own width, and no SwiGLU's
    mlp = 0 if name in ("mamba", "mamba2") else value("6 W I", {"W": c.hidden_size, "I": c.intermediate_size})
    assert (
        "The SwiGLU of width I that follows most mixers costs 6 W I, a short convolution 2 K a channel, the head 2 W V"
        in (" ".join(PAGE.split()))
    )
    for seen in (1, 7, 1000):
        found = model_class.cost(c, dtype_bytes=4).decode_flops(seen - 1)
        expected = c.num_hidden_layers * (COSTS[name](page, seen) + convolved(name, c) + mlp)
        assert found == pytest.approx(expected + 2 * c.hidden_size * c.vocab_size, rel=1e-12)


@pytest.mark.parametrize("name", list(SECTIONS))
def test_a_state_grows_where_the_page_says_so(name: str) -> None:
    assert ARCHITECTURES.load(name).tiny().state_grows is (ROWS[name][0] != "no")
