"""What `make docs` finds: a link that leads nowhere, and what a page would fetch from another host."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer
import yaml

from ttbench.cli.app import app
from ttbench.runs.options import Options

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import website

sys.path.pop(0)
ROOT = Path(__file__).parents[1]


def site(folder: Path, body: str, **others: str) -> Path:
    """A folder of HTML: index.html with this body, a second page with one place to link to, and other files."""
    files = {"index.html": f"<html><body>{body}</body></html>", "a/b.html": '<h2 id="there">b</h2>', **others}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "body",
    [
        '<a href="a/b.html">page</a> <a href="a/b.html#there">place</a> <a href="#">top</a>',
        '<p id="here"></p><a href="#here">this page</a>',
        '<a href="https://example.org/nowhere">a link that only a reader follows</a>',
        '<link rel="canonical" href="https://example.org/">',
        '<img src="a/b.html"><script src="a/b.html?v=1"></script>',
    ],
)
def test_a_good_page_has_no_fault(tmp_path: Path, body: str) -> None:
    assert website.faults_of(site(tmp_path, body)) == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="a/c.html">c</a>', "a/c.html is not there"),
        ('<a href="a/">a folder without a page</a>', "a/ is not there"),
        ('<a href="a/b.html#gone">b</a>', "a/b.html#gone names no place of that page"),
        ('<a href="#gone">this page</a>', "#gone names no place of that page"),
        ('<img src="a/picture.png">', "a/picture.png is not there"),
        ('<script src="https://cdn.example.org/x.js"></script>', "x.js comes from another host"),
        ('<link rel="stylesheet" href="//fonts.example.org/css">', "fonts.example.org/css comes from another host"),
        ('<img src="https://example.org/badge.svg">', "badge.svg comes from another host"),
        ("<style>p { src: url('https://example.org/f.woff2') }</style>", "f.woff2 comes from another host"),
        ('<pre class="mermaid">graph</pre>', "mermaid comes from another host"),
    ],
)
def test_a_fault_of_a_page_is_told(tmp_path: Path, body: str, fault: str) -> None:
    (found,) = website.faults_of(site(tmp_path, body))
    assert found.startswith("index.html: ")
    assert fault in found


def test_a_font_of_another_host_in_a_style_sheet_is_told(tmp_path: Path) -> None:
    folder = site(tmp_path, "", **{"style.css": "@font-face { src: url(https://example.org/f.woff2) }"})
    assert website.faults_of(folder) == ["style.css: https://example.org/f.woff2 comes from another host"]


def test_a_folder_without_a_page_is_no_site(tmp_path: Path) -> None:
    assert website.faults_of(tmp_path) != []


def test_the_command_fails_where_a_link_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["website.py", "--check", str(site(tmp_path / "good", ""))])
    assert website.main() == 0
    monkeypatch.setattr(sys, "argv", ["website.py", "--check", str(site(tmp_path / "bad", '<a href="no.html">'))])
    assert website.main() == 1


def test_links_in_code_are_no_links() -> None:
    page = "[a](b.md#c) `[x](y.md)` ![p](q/r.png)\n```sh\n[no](no.md)\n```\n[web](https://example.org) [here](#here)\n"
    assert website.links_of(page) == ["b.md", "q/r.png"]


def commands_of(group: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command below a group with its full name, groups among them."""
    for word, command in group.commands.items():
        yield f"{name} {word}", command
        yield from commands_of(command, f"{name} {word}") if hasattr(command, "commands") else ()


def test_the_reference_has_every_command_with_every_option() -> None:
    text = website.reference_of_commands()
    found = list(commands_of(typer.main.get_command(app), "ttbench"))
    assert "ttbench runs rm" in [name for name, _ in found]
    for name, command in found:
        section = text.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert command.help.splitlines()[0] in section
        for parameter in command.params:
            for word in [*parameter.opts, *parameter.secondary_opts]:
                assert parameter.hidden or word in section or parameter.param_type_name == "argument", (name, word)
            assert not (described := getattr(parameter, "help", None)) or described.replace("|", "\\|") in section


def test_the_options_of_a_run_are_all_on_their_page() -> None:
    text = website.reference_of_options()
    run: Any = typer.main.get_command(app)
    given = {name: parameter for parameter in run.commands["plan"].params for name in parameter.opts}
    for name in get_type_hints(Options):
        (row,) = re.findall(rf"^\| `(--[a-z-]+)` \| `{name}` \|", text, re.M)
        assert given[row].name == name


def test_every_page_stands_in_the_navigation() -> None:
    def leaves(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [leaf for each in (entry.values() if isinstance(entry, dict) else entry) for leaf in leaves(each)]

    shown = leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "reference").glob("*.md")]
    wanted = {str(path.relative_to(ROOT)) for path in pages}
    made = ("docs/reference/commands.md", "docs/reference/options.md")
    assert sorted(shown) == sorted({*wanted, *made, "docs/decisions/README.md"})
