"""docs/architectures.md is made from the classes, and the states and costs that it prints are those of `cost`.

An architecture's `Description` has its formulas in the page's notation, where neighbours are multiplied:
`4 W (H + G) D`.
"""

from __future__ import annotations

import importlib
import math
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ttbench.models.base import COMMON_LETTERS, Description
from ttbench.models.transformer import Transformer
from ttbench.registry import ARCHITECTURES

PAGE = (Path(__file__).parents[1] / "docs" / "architectures.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |^<!-- end|\Z)", PAGE, re.M | re.S))
# All but mixtures of others.
ALONE = [name for name in SECTIONS if ARCHITECTURES.load(name).DESCRIPTION.state is not None]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`scripts/architectures.py`."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    return importlib.import_module("architectures")


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


def test_formulas_are_read_as_they_are_meant() -> None:
    letters = {"W": 5.0, "H": 2.0, "D": 3.0, "P": 7.0, "P_1": 1.0}
    assert value("4 W (H + D) D", letters) == 300
    assert value("12 P - 2 P_1 + (D + 1) (D + 2) / 3", letters) == 82 + 20 / 3
    assert value("8 W²", letters) == 200


class Reader:
    """Formulas of one architecture, at the sizes of its `tiny()`, where `seen` tokens can be read."""

    def __init__(self, name: str, *, seen: float) -> None:
        self.model_class = ARCHITECTURES.load(name)
        self.about: Description = self.model_class.DESCRIPTION
        self.config: Any = self.model_class.tiny().config
        found: dict[str, float] = {"T": seen}
        for letter, source in {**COMMON_LETTERS, **self.about.letters}.items():
            if isinstance(source, str):
                if hasattr(self.config, source):
                    found[letter] = getattr(self.config, source)
            # a letter of a variant that has no such part is used by none of its formulas
            elif letter != "window" or hasattr(self.config, "window"):
                found[letter] = source(self.config, seen)
        self.letters = found

    def __call__(self, formula: str) -> float:
        return value(formula, self.letters)


def test_the_page_is_made_from_the_code(script: ModuleType) -> None:
    assert script.page(PAGE) == PAGE, "make columns"


def test_a_new_architecture_comes_on_the_page_by_one_file_and_one_line(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Transformer.DESCRIPTION
    assert known is not None

    class Madeup(Transformer):
        DIALECTS = ()
        DESCRIPTION = replace(
            known, section="Made up.\n\nState: $state each.", published="on the moon", grows="<tokens>"
        )

    monkeypatch.setitem(globals(), "Madeup", Madeup)
    monkeypatch.setitem(ARCHITECTURES._built_in, "made-up", f"{__name__}:Madeup")
    made = script.page(PAGE)
    added = [line for line in made.splitlines() if line not in PAGE.splitlines()]
    parameters = f"{Transformer.tiny().num_params()[0]:,}"
    assert added[0] == "| [`made-up`](#made-up) | <tokens> | 2 G D a token | on the moon |"
    assert added[1].startswith(f"| `made-up` (`tiny`) | yes | {parameters} |")
    assert added[2:] == ["## made-up", "Made up.", "State: 2 G D each."]
    assert script.page(made) == made
    # one that says nothing of itself is named, and so is a formula that is not there
    monkeypatch.setattr(Madeup, "DESCRIPTION", None)
    with pytest.raises(LookupError, match="'made-up' has no DESCRIPTION"):
        list(script.sections())
    monkeypatch.setattr(Madeup, "DESCRIPTION", replace(known, section="$nothing"))
    with pytest.raises(KeyError, match="nothing"):
        list(script.sections())


def test_every_architecture_has_a_section_and_a_row_and_no_other_has() -> None:
    assert list(SECTIONS) == list(ARCHITECTURES)
    assert re.findall(r"^\| \[`(\S+)`\]\(#\1\) \|", PAGE, re.M) == list(SECTIONS)


@pytest.mark.parametrize("name", list(SECTIONS))
def test_a_section_says_what_is_kept_what_it_costs_and_what_is_ours(name: str) -> None:
    for words in ("State: ", "Cost: ", "Faithful"):
        assert words in " ".join(SECTIONS[name].split()), f"{name}: no '{words}'"
    assert "reading" in SECTIONS[name] or "eparture" in SECTIONS[name]
    assert re.search(r"^    \S", SECTIONS[name], re.M), f"{name}: no equation"


@pytest.mark.parametrize("name", list(SECTIONS))
def test_every_formula_of_the_work_is_on_the_page_in_its_section_or_in_one_that_it_names(name: str) -> None:
    text, left = "", [name]
    while left:
        here = left.pop()
        text += " ".join(SECTIONS[here].split()) + "\n"
        left += [other for other in re.findall(r"as `(\S+?)`", SECTIONS[here]) if SECTIONS[other] not in text]
        assert len(text) < 100_000, f"{name}: sections that name each other"
    for term in ARCHITECTURES.load(name).DESCRIPTION.work.values():
        assert re.search(rf"(?<![\w²]){re.escape(term.formula)}(?![\w²])", text), term.formula


@pytest.mark.parametrize("name", ALONE)
def test_the_states_on_the_page_are_those_of_cost(name: str) -> None:
    page = Reader(name, seen=math.inf)
    c, about = page.config, page.about
    cost = page.model_class.cost(c, dtype_bytes=4)
    # int64 are two elements of float32 each
    elements = page(about.state or "") + (0 if about.int64 is None else page(about.int64))
    grows = page.model_class.tiny().state_grows
    fixed, each = (0, elements) if grows else (elements, 0)
    fixed += max(getattr(c, "conv_kernel", 0) - 1, 0) * page(about.kept_channels)
    layers = c.num_hidden_layers
    assert (cost.state_bytes, cost.state_bytes_per_token) == (4 * layers * fixed, 4 * layers * each)


@pytest.mark.parametrize("name", ALONE)
def test_the_costs_on_the_page_are_those_of_cost(name: str) -> None:
    assert (
        "The SwiGLU of width I that follows most mixers costs 6 W I, a short convolution 2 K a channel, the head 2 W V"
        in (" ".join(PAGE.split()))
    )
    for seen in (1, 7, 1000):
        page = Reader(name, seen=seen)
        c, about = page.config, page.about
        expected = sum(
            page(term.formula) * (page(term.times) if isinstance(term.times, str) else term.times(c))
            for term in about.work.values()
        )
        expected += page("6 W I") if about.swiglu else 0
        expected += 2 * getattr(c, "conv_kernel", 0) * page(about.convolved or about.kept_channels)
        found = page.model_class.cost(c, dtype_bytes=4).decode_flops(seen - 1)
        whole = c.num_hidden_layers * expected + 2 * c.hidden_size * c.vocab_size
        assert found == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("name", list(SECTIONS))
def test_a_state_grows_where_the_page_says_so(name: str) -> None:
    row = re.search(rf"^\| \[`{name}`\]\(#{name}\) \|([^|]*)\|", PAGE, re.M)
    assert row is not None
    assert ARCHITECTURES.load(name).tiny().state_grows is (row[1].strip() != "no")


def test_a_made_part_goes_between_its_marks_or_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    put = importlib.import_module("made").put
    begin, end = "<!-- sizes: made by `make columns` -->\n", "<!-- end of sizes -->\n"
    page = f"before\n{begin}old\n{end}after\n"
    assert put(page, "sizes", ["new \\1", "lines"]) == f"before\n{begin}new \\1\nlines\n{end}after\n"
    for text in (page.replace(end, ""), page.replace(begin, ""), page + page, f"{end}{begin}", ""):
        with pytest.raises(ValueError, match="not one part 'sizes'"):
            put(text, "sizes", [])
