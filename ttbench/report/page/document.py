"""Everything in one file: head, policy, style, the parts that are read, and the data and scripts that make them move.

The policy (Content-Security-Policy) forbids whatever the page does not carry: no request can be made, and only the
scripts and the style whose digests it names are run; nothing is evaluated from text. The same rows give the same bytes.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ttbench.report.drawing import figures
from ttbench.report.page import listings, method, sections
from ttbench.report.page.libraries import Libraries, in_html
from ttbench.report.page.markup import Markup, element, escaped, join, spelled
from ttbench.report.page.pictures import pictures
from ttbench.report.page.sections import PageSource
from ttbench.report.statistics.stats import counted
from ttbench.version import __version__

Views = Mapping[str, Mapping[int, Mapping[str, Any]]]  # cell -> place of the sample -> `view_sample`
PROMPT = ("prompt_start", "first_ids", "prompt_end", "last_ids")  # as tasks name the two ends of what was read
_STATIC = (("verdicts", "Verdicts"), ("leaderboard", "Leaderboard"))
_END = (("environment", "Environment"), ("method", "Method and caveats"))


def build_page(sources: Sequence[PageSource], libraries: Libraries, *, views: Views | None = None) -> str:
    """The page as text.

    Args:
        sources: what it is about; one at least.
        libraries: the scripts that it carries.
        views: samples with their text, as `ttbench.runs.evidence.view_sample` gives them; others show their row alone.
    """
    names = list(dict.fromkeys(str(each["checkpoint"]) for of in sources for each in of.drawn if each["checkpoint"]))
    charts: dict[str, Any] = {}
    tables: dict[str, Any] = {}
    same: dict[str, Any] = {}
    samples = {
        cell: {str(place): _sample(view) for place, view in found.items()} for cell, found in (views or {}).items()
    }
    parts: list[Markup] = []
    contents = [*_STATIC]
    for number, source in enumerate(sources):
        declared = figures.declared(source.table)
        for place_of_task, task in enumerate(source.tasks):
            key = f"task-{number}-{place_of_task}"
            mine = [figure for figure in declared if figure.task == task]
            drawn = [entry for entry in source.drawn if entry["task"] == task]
            found = list(pictures(mine, drawn, names=names))
            for index, picture in enumerate(found):
                charts |= {f"{key}-{index}-{place}": spec for place, (_, spec) in enumerate(picture.charts)}
            rows = source.rows.loc[source.rows["task"] == task]
            listing, same[f"samples-{key}"] = listings.samples_of(rows)
            tables[f"numbers-{key}"] = listings.numbers_of(source.of_task(task)).to_json()
            tables[f"comparisons-{key}"] = listings.comparisons_of(source.compared(task)).to_json()
            tables[f"samples-{key}"] = listing.to_json()
            for cell, recipes in listings.recipes_of(rows).items():
                for place, recipe in recipes.items():
                    samples.setdefault(cell, {}).setdefault(place, {})["recipe"] = _visible(recipe)
            contents.append((key, task))
            parts.append(sections.task_section(source, task, found, key=key, several=len(sources) > 1))
    body = join(
        element("a", "Skip to the verdicts", href="#verdicts", class_="skip"),
        _contents([*contents, *_END]),
        element(
            "main",
            sections.masthead(sources),
            element("noscript", element("p", _WITHOUT_SCRIPTS, class_="note")),
            sections.verdicts(sources),
            sections.leaderboard(sources),
            parts,
            sections.environments(sources),
            method.method(sources),
            _footer(libraries),
        ),
        element("dialog", id="sample", aria_labelledby="sample-title"),
        element("div", id="tip", hidden=True, aria_hidden="true"),
    )
    blocks = {"data-charts": charts, "data-tables": {"tables": tables, "same": same}, "data-samples": samples}
    data = join(
        [
            Markup(f'<script type="application/octet-stream" id="{name}">{packed(block)}</script>\n')
            for name, block in blocks.items()
        ]
    )
    return _assemble(
        sections.title_of(sources), body, data, [libraries.charts, libraries.tables, in_html(_asset("page.js"))]
    )


_WITHOUT_SCRIPTS = (
    "Charts, sortable tables and samples need JavaScript, which is switched off. Words, the leaderboard and the "
    "numbers of each figure are here without it."
)


def packed(data: Any) -> str:
    """JSON, gzip, base64: letters that end no element, whatever the data hold."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("ascii"), compresslevel=9, mtime=0)).decode("ascii")


def _assemble(title: str, body: Markup, data: Markup, scripts: Sequence[str]) -> str:
    style = _asset("page.css")
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(map(digest, scripts))}",
            f"style-src {digest(style)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    return "".join(
        (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            '<meta name="referrer" content="no-referrer">\n',
            f'<meta name="generator" content="ttbench {escaped(__version__)}">\n',
            f"<title>{escaped(title)} · ttbench report</title>\n<style>{style}</style>\n</head>\n<body>\n",
            f"{body.html}\n{data.html}",
            *(f'<script type="module">{script}</script>\n' for script in scripts),
            "</body>\n</html>\n",
        )
    )


def digest(text: str) -> str:
    """How a policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def _asset(name: str) -> str:
    return (importlib.resources.files("ttbench.report.page") / name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _contents(entries: Sequence[tuple[str, str]]) -> Markup:
    links = [element("li", element("a", title, href=f"#{key}")) for key, title in entries]
    switch = element("button", "Theme: auto", type="button", id="theme", hidden=True)
    return element("nav", element("ul", links), switch, aria_label="Contents")


def _footer(libraries: Libraries) -> Markup:
    made = f"Made by ttbench {__version__}. The same rows give the same page, and the page makes no request."
    carried = [element("li", notice) for notice in libraries.notices]
    return element(
        "footer",
        element("p", made),
        element("details", element("summary", "Libraries in this file"), element("ul", carried)),
    )


def _sample(view: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of a sample: recipe, ends of the prompt, parts; or why there is no text."""
    kept, rebuilt = view["evidence"], view["rebuilt"]
    prompt = (kept if rebuilt is None else rebuilt) or {}
    parts = view["view"] if rebuilt is None else view["rebuilt_view"]
    return {
        "recipe": _visible(view["recipe"]),
        "prompt": {name: _visible(prompt[name]) for name in PROMPT if prompt.get(name)},
        "parts": _visible(parts),
        "why": _visible(view["not_rebuilt"]),
    }


def _visible(value: Any) -> Any:
    """Plain data whose texts hide no letter; line ends and tabs stay; six digits."""
    if isinstance(value, str):
        return spelled(value, keep="\n\t")
    if isinstance(value, Mapping):
        return {spelled(key): _visible(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_visible(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if abs(value) < float("inf") else str(value)
    return value


def told_of_evidence(num_shown: int, num_samples: int) -> str:
    """What of the samples is in the page, in a sentence."""
    if num_shown == 0:
        return ""
    if num_shown == num_samples:
        return f"{counted(num_samples, 'sample')}, each down to its prompt and nats: open one."
    return (
        f"{num_shown:,} of {counted(num_samples, 'sample')} open down to their prompt and nats, as many as there is "
        "room for in the page; the others with: ttbench show RUN CELL --sample NUMBER"
    )
