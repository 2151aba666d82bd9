"""A report as one file: its structure, its data, its policy, and that no text of a user becomes markup.

Two lines of script stand in for the libraries, so that nothing but rows is needed; `make page` tries the whole in a
browser.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import pandas as pd
import pytest
from rows import Model, make_rows, needle_rows, perplexity_rows, timing_rows

from ttbench.report.page import libraries
from ttbench.report.page.document import build_page, digest
from ttbench.report.page.libraries import Libraries
from ttbench.report.page.sections import PageSource, source_of
from ttbench.store.rows import metadata

VOID = {"br", "meta", "input", "link"}
# What ends elements, scripts and strings; what turns the direction of writing; what no file may hold.
NASTY = "</script><img src=x onerror=alert(1)>\"'`${x}]]><!--\u202e\u0000\u2028 أب"
STAND_IN = Libraries(charts="globalThis.ttbenchEmbed = () => {};", tables="globalThis.ttbenchTables = class {};")


class Reader(HTMLParser):
    """Elements as a browser would nest them, and the text between."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.texts: list[tuple[str, str]] = []  # innermost element, text
        self.unbalanced: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs), tuple(self.open)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _ in self.tags if name == tag]

    def said(self) -> str:
        return " ".join(" ".join(text for tag, text in self.texts if tag not in ("script", "style")).split())


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def block(page: str, name: str) -> Any:
    found = re.search(rf'<script type="application/octet-stream" id="{name}">([A-Za-z0-9+/=]*)</script>', page)
    assert found is not None, name
    return json.loads(gzip.decompress(base64.b64decode(found[1])))


@functools.cache
def source(*, first: str = "ttt-linear", settings: tuple[tuple[str, Any], ...] = ()) -> PageSource:
    models = [
        Model(name=first, bits=1.4, settings=dict(settings)),
        Model(name="transformer", growth=0.5, bits=1.5, loss=0.5, failures={8192: ("too_long", "4k at most")}),
    ]
    rows = make_rows(
        perplexity_rows(models, [512, 2048, 8192], num_documents=12),
        needle_rows(models, [512, 2048], num_haystacks=6, depths=(0.0, 1.0)),
        timing_rows(models, [512, 2048], num_rounds=3, repeats=2),
    )
    rows.attrs["environments"] = {"e1": json.dumps(ENVIRONMENT)}
    return source_of("runs/one", rows, evidence="No prompts here.")


ENVIRONMENT = {
    "machine": "m1",
    "processor": "a processor",
    "num_cores": 2,
    "memory_bytes": 2**33,
    "accelerator": None,
    "platform": "Linux",
    "python": "3.11",
    "packages": {"torch": "2.13"},
    "ttbench": "0.1.0",
    "commit": "abc",
    "variables": {},
}


@functools.cache
def page() -> str:
    return build_page([source()], STAND_IN)


def test_a_page_is_balanced_html_and_its_parts_are_those_that_the_contents_name() -> None:
    reader = read(page())
    assert (reader.unbalanced, reader.open) == ([], [])
    ids = [attributes["id"] for _, attributes, _ in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    linked = [str(attributes["href"]).removeprefix("#") for attributes in reader.all("a")]
    assert set(linked) <= set(ids)
    assert {"verdicts", "leaderboard", "environment", "method"} < set(linked)
    said = reader.said()
    for told in ("ttt-linear", "a processor", "too long", "Wilson", "transformer needs", "beyond the training context"):
        assert told in said, told


def test_nothing_outside_the_page_is_named_and_every_script_has_its_digest_in_the_policy() -> None:
    reader = read(page())
    policy = next(m["content"] for m in reader.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert set(rules) == {"default-src", "script-src", "style-src", "base-uri", "form-action"}
    assert "unsafe" not in policy
    scripts = re.findall(r'<script type="module">(.*?)</script>', page(), re.S)
    assert rules["script-src"].split() == [digest(script) for script in scripts]
    assert len(scripts) == 3
    (style,) = re.findall(r"<style>(.*?)</style>", page(), re.S)
    assert rules["style-src"] == digest(style)
    assert digest("x") == f"'sha256-{base64.b64encode(hashlib.sha256(b'x').digest()).decode()}'"
    for _, attributes, _ in reader.tags:
        assert not {"src", "srcset", "style", "action", "poster"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"@import|url\(", style)


def test_the_shapes_of_a_strip_stand_beside_each_other() -> None:
    shapes = [(tag, around[-1]) for tag, _, around in read(page()).tags if tag in ("line", "circle")]
    assert len(shapes) > 10
    assert {around for _, around in shapes} == {"svg"}


def test_each_figure_has_its_table_with_the_numbers_that_its_chart_draws() -> None:
    reader = read(page())
    charts = block(page(), "data-charts")
    places = [a["id"] for _, a, _ in reader.tags if a.get("class") == "chart"]
    assert sorted(charts) == sorted(map(str, places))
    assert len(charts) >= 5
    figures = re.findall(r"<figure>(.*?)</figure>", page(), re.S)
    for figure in figures:
        assert re.search(r"<details.*?<table>.*?<td", figure, re.S)
    curve = next(text for text in figures if "Bits per byte" in text)
    spec = charts[re.search(r'id="(task-[^"]*)"', curve)[1]]  # type: ignore[index]
    values = [v["y"] for name in spec["datasets"].values() for v in name if v.get("line") == "ttt-linear"]
    assert values
    assert all(f">{value:.3f}" in curve for value in values)


def test_the_tables_hold_every_number_comparison_and_row() -> None:
    tables = block(page(), "data-tables")["tables"]
    assert sum(len(t["rows"]) for key, t in tables.items() if key.startswith("numbers")) == len(source().entries)
    compared = source().pairs
    assert sum(len(t["rows"]) for key, t in tables.items() if key.startswith("comparisons")) == len(compared)
    assert sum(len(t["rows"]) for key, t in tables.items() if key.startswith("samples")) == len(source().rows)
    for table in tables.values():
        for row in table["rows"]:
            assert all(c["shown"] is None or isinstance(row[c["shown"]], str) for c in table["columns"])
    numbers = tables["numbers-task-0-0"]
    lost = [row for row in numbers["rows"] if row[1] == "transformer" and row[11] == "8k"]
    assert lost
    assert all(row[4] is None and "too_long: 4k at most" in row[8] for row in lost)
    beyond = [row for row in numbers["rows"] if row[1] == "ttt-linear" and row[11] == "8k"]
    assert all("beyond the training context" in row[8] for row in beyond)


def test_the_same_rows_give_the_same_page() -> None:
    again = build_page([dataclasses.replace(source())], STAND_IN)
    assert again == page()


def view(text: str) -> dict[str, Any]:
    return {
        "sample": 0,
        "recipe": {"needle": text},
        "evidence": {"prompt_start": text, "first_ids": [1, 2]},
        "rebuilt": None,
        "view": [{"title": text, "heads": ["id", "text", "nats"], "rows": [[1, text, 0.25]]}, {"text": text}],
        "rebuilt_view": [],
        "not_rebuilt": None,
    }


def test_no_text_of_a_user_becomes_markup_or_ends_a_script() -> None:
    settings = (("corpus", NASTY), ("engine", NASTY), ("reason", NASTY), ("revision", NASTY), ("provenance", NASTY))
    mine = source(first=NASTY, settings=settings)
    mine.rows.attrs["environments"] = {"e1": json.dumps({**ENVIRONMENT, "processor": NASTY, "packages": {NASTY: "1"}})}
    cell = str(mine.rows["cell_id"].iloc[0])
    found = build_page([dataclasses.replace(mine, label=NASTY)], STAND_IN, views={cell: {0: view(NASTY)}})
    plain = read(page())
    reader = read(found)
    assert (reader.unbalanced, reader.open) == ([], [])
    assert {tag for tag, _, _ in reader.tags} <= {tag for tag, _, _ in plain.tags}
    assert len(reader.all("script")) == len(plain.all("script"))
    allowed = {name for _, attributes, _ in plain.tags for name in attributes} | {"title"}
    assert {name for _, attributes, _ in reader.tags for name in attributes} <= allowed
    assert "\0" not in found
    assert "\u202e" not in found
    assert "\\u202e" in reader.said()
    assert "\\x00" in reader.said()
    assert "أب" in reader.said()
    sample = block(found, "data-samples")[cell]["0"]
    assert sample["parts"][0]["rows"] == [[1, sample["parts"][0]["title"], 0.25]]
    assert "<img" in sample["recipe"]["needle"]  # text there: the page's script never makes HTML of it
    found.encode("utf-8")


def test_a_lone_half_of_a_letter_and_numbers_that_json_lacks_are_written_out() -> None:
    cell = str(source().rows["cell_id"].iloc[0])
    odd = {**view("\ud800 \n"), "view": [{"title": "t", "rows": [["cost", float("nan")], ["most", float("inf")]]}]}
    found = build_page([source()], STAND_IN, views={cell: {0: odd}})
    sample = block(found, "data-samples")[cell]["0"]
    assert sample["prompt"]["prompt_start"] == "\\ud800 \n"
    assert sample["parts"][0]["rows"] == [["cost", "nan"], ["most", "inf"]]


def test_one_model_and_one_context_still_make_a_page() -> None:
    rows = make_rows(perplexity_rows([Model(name="only")], [512], num_documents=3))
    found = read(build_page([source_of("runs/x", rows, evidence="")], STAND_IN))
    assert found.unbalanced == []
    assert "There is nothing to compare" in found.said()
    assert "The environment of these rows was not kept" in found.said()


def test_cells_that_all_failed_still_make_a_page() -> None:
    models = [Model(name=name, failures={512: ("oom", "no room")}) for name in ("a", "b")]
    rows = make_rows(perplexity_rows(models, [512]))
    found = read(build_page([source_of("runs/x", rows, evidence="")], STAND_IN))
    assert found.unbalanced == []
    assert "no number to rank" in found.said()


def test_several_sources_stand_apart_under_their_names() -> None:
    two = dataclasses.replace(source(), label="results/two")
    reader = read(build_page([source(), two], STAND_IN))
    ids = [attributes["id"] for _, attributes, _ in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert reader.said().count("results/two") >= 5


def test_ten_thousand_rows_stay_within_three_mebibytes() -> None:
    models = [Model(name=f"model-{index}", bits=1.5 + index / 20) for index in range(4)]
    rows = make_rows(perplexity_rows(models, [512, 1024, 2048, 4096], num_documents=160, windows=4))
    assert len(rows) > 10_000
    sizes = [len(gzip.compress(json.dumps(rows[name].tolist()).encode())) for name in ("nats", "document")]
    assert sum(sizes) > 50_000  # they are not all alike
    found = len(build_page([_unsummarised(rows)], STAND_IN))
    # the libraries take 1.5 MiB, the text of samples at most 0.8 MiB
    assert found < 0.7 * 2**20


def _unsummarised(rows: pd.DataFrame) -> PageSource:
    """Rows with the summary of a few of them: what is tried here is how much room rows take."""
    few = rows.groupby(["checkpoint", "context_len"]).head(48)
    few.attrs = rows.attrs
    made = source_of("runs/large", few, evidence="")
    return dataclasses.replace(made, rows=rows)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("var a='</script>';", r"var a='<\/script>';"),
        ("b(/<!--.*?--!?>/g)", r"b(/<\!--.*?--!?>/g)"),
        ("'</SCRIPT x>'", r"'<\/SCRIPT x>'"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("</div><script>", "</div><script>"),
    ],
)
def test_a_script_is_changed_only_where_html_would_read_it(script: str, told: str) -> None:
    assert libraries.in_html(script) == told


def test_the_script_of_itables_leaves_its_tables_where_the_page_looks_for_them() -> None:
    bundle = (libraries.importlib.resources.files("itables") / "html" / "dt_bundle.js").read_text(encoding="utf-8")
    script = libraries.in_html(libraries.as_global(bundle))
    assert re.search(r"globalThis\.ttbenchTables = [\w$]+;", script)
    assert not re.search(r"\bexport\s*\{|</script|<!--", script, re.IGNORECASE)
    with pytest.raises(Exception, match="not understood"):
        libraries.as_global("nothing here")


def test_the_metadata_of_these_rows_is_that_of_real_ones() -> None:
    assert metadata(source().rows.attrs)


def test_of_several_seeds_the_first_is_drawn_and_all_have_numbers() -> None:
    models = [
        Model(name=f"ttt-{seed}", bits=1.4, settings={"train_recipe": "r", "train_seed": seed}) for seed in (1, 2)
    ]
    rows = make_rows(perplexity_rows([*models, Model(name="transformer", bits=1.5)], [512, 2048], num_documents=12))
    rows.attrs["environments"] = {"e1": json.dumps(ENVIRONMENT)}
    page = build_page([source_of("runs/one", rows, evidence="No prompts here.")], STAND_IN)
    assert "ttt-2" not in json.dumps(block(page, "data-charts"))
    assert "ttt-1" in json.dumps(block(page, "data-charts"))
    assert "ttt-2" in json.dumps(block(page, "data-tables"))
    assert "ttt-2 is ttt-1 trained again with another seed" in read(page).said()
