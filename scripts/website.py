"""Build the documentation site into build/docs/site, and check every link of it. `make docs` runs this, offline.

The site has the layout of the repository, so a link that works in the repository works in the site: pages are copied
to where they stand, files and folders that a page links to are copied or listed beside them, and the reference of the
command line is written from the Typer app. Zensical renders the pages and mkdocstrings the reference of Python.

    website.py              build and check
    website.py --check DIR  check a folder of HTML alone
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from re import DOTALL, MULTILINE, findall, sub
from typing import Any
from urllib.parse import unquote, urlsplit

import typer

ROOT = Path(__file__).parents[1]
# Zensical keeps its cache beside the configuration and removes it whole, so the configuration is copied to here.
BUILD = ROOT / "build" / "docs"
SOURCES = BUILD / "pages"
SITE = BUILD / "site"
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md", "results/**/*.md")
# What a browser fetches by itself when it opens a page. A link that a reader may follow is none of them.
FETCHED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}
# Relations of <link> that name a page and fetch nothing.
NAMES_ONLY = {"canonical", "prev", "next", "alternate", "edit"}


def links_of(page: str) -> list[str]:
    """Targets of a Markdown page's links and pictures, code left out, without anchors."""
    prose = sub(r"^```.*?^```|`[^`\n]*`", "", page, flags=DOTALL | MULTILINE)
    return [target for target in findall(r"\]\(([^)#\s]+)", prose) if not urlsplit(target).scheme]


def listing_of(folder: Path, name: str) -> str:
    """A page that stands for a folder of the repository: its pictures, and links to its files."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    pictures = [f"![{path.stem}]({path.name})" for path in files if path.suffix == ".png"]
    return "\n\n".join([f"# {name}", *pictures, "\n".join(f"- [{path.name}]({path.name})" for path in files)]) + "\n"


def reference_of_commands() -> str:
    """The page of the command line, from the Typer app: every command with its arguments and options."""
    from ttbench.cli.app import app

    group: Any = typer.main.get_command(app)
    ctx = group.make_context("ttbench", [], resilient_parsing=True)
    return "\n\n".join(["# The command line", group.help, *_commands(group, ctx)]) + "\n"


def _commands(group: Any, above: Any) -> Iterator[str]:
    """The sections of a group's commands, those of groups inside it behind their own."""
    for name, command in group.commands.items():
        ctx = command.make_context(name, [], parent=above, resilient_parsing=True)
        records = [parameter.get_help_record(ctx) for parameter in command.get_params(ctx)]
        # A bar ends a cell of a table, but not inside code.
        rows = [f"| `{words}` | {text.replace('|', chr(92) + '|')} |" for words, text in filter(None, records)]
        yield f"## {ctx.command_path}"
        yield f"```console\n$ {command.get_usage(ctx).partition(' ')[2]}\n```"
        yield command.help
        yield "\n".join(["| option | meaning |", "|---|---|", *rows])
        yield from _commands(command, ctx) if hasattr(command, "commands") else ()


def reference_of_options() -> str:
    """The page of a run's options, from their one declaration."""
    from ttbench.runs.options import flags

    rows = [
        f"| `{flag.spelt(name)}` | `{name}` | {flag.help.replace('|', chr(92) + '|')} | {'yes' if flag.swept else ''} |"
        for name, flag in flags().items()
    ]
    return "\n".join(
        [
            "# Options of a run\n",
            "`ttbench run` and `ttbench plan` take them as flags, suites as keys, `ttbench.run` as keyword arguments.",
            "Where a list is swept, each of its values is measured.\n",
            "| flag | key | meaning | a list is swept |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def stage() -> None:
    """Lay out the sources of the site in build/docs."""
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    shutil.copy(ROOT / "mkdocs.yml", BUILD)
    pages = sorted({path for pattern in PAGES for path in ROOT.glob(pattern)})
    for path in pages:
        place = SOURCES / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8")
        place.write_text(text, encoding="utf-8")
        for target in links_of(text):
            _bring((path.parent / unquote(target)).resolve())
    made = {"commands.md": reference_of_commands(), "options.md": reference_of_options()}
    for name, text in made.items():
        (SOURCES / "docs" / "reference" / name).write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "docs" / "site.css", SOURCES / "docs")


def _bring(path: Path) -> None:
    """Copy what a page links to; a link to what is not there is left for the check to find."""
    place = SOURCES / path.relative_to(ROOT)
    if path.is_dir():
        place.mkdir(parents=True, exist_ok=True)
        for file in path.iterdir():
            if file.is_file():
                shutil.copy(file, place / file.name)
        (place / "index.md").write_text(listing_of(path, str(path.relative_to(ROOT))), encoding="utf-8")
    elif path.is_file() and path.suffix != ".md":
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)


class Page(HTMLParser):
    """What a page links to, what it makes a browser fetch, and the places in it that a link can name."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.places: set[str] = set()
        self.styles = ""
        self._style = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.places |= {given[key] for key in ("id", "name") if key in given}
        self._style = tag == "style"
        target = given.get(FETCHED.get(tag, ""), "")
        if "mermaid" in given.get("class", "").split():
            self.fetched.append("//unpkg.com/mermaid")  # what the theme's script then loads
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif target and not (tag == "link" and NAMES_ONLY & set(given.get("rel", "").split())):
            self.fetched.append(target)

    def handle_data(self, data: str) -> None:
        self.styles += data if self._style else ""


def faults_of(site: Path) -> list[str]:
    """What is wrong with a folder of HTML: links that lead nowhere, and what comes from another host."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    faults = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        for target in page.links + page.fetched:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            base = site.resolve() if parts.path.startswith("/") else path.parent
            aim = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            aim = aim / "index.html" if aim.is_dir() else aim
            if not aim.exists():
                faults.append(f"{name}: {target} is not there")
            elif parts.fragment and aim in pages and unquote(parts.fragment) not in pages[aim].places:
                faults.append(f"{name}: {target} names no place of that page")
        remote = [target for target in page.fetched if urlsplit(target).netloc]
        remote += findall(r"url\(\s*[\"']?((?:https?:)?//[^)\"']+)", page.styles)
        faults += [f"{name}: {target} comes from another host" for target in remote]
    for path in sorted(site.rglob("*.css")):
        for target in findall(r"url\(\s*[\"']?((?:https?:)?//[^)\"']+)", path.read_text(encoding="utf-8")):
            faults.append(f"{path.relative_to(site)}: {target} comes from another host")
    return faults if pages else [f"{site}: holds no page"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", type=Path, metavar="DIR", help="check this folder of HTML, and build nothing")
    given = parser.parse_args()
    if given.check is None:
        stage()
        command = [Path(sys.executable).with_name("zensical"), "build", "--strict"]
        done = subprocess.run(command, cwd=BUILD, capture_output=True, text=True)
        if done.returncode:
            lines = [*done.stdout.splitlines(), *done.stderr.splitlines()[-1:]]
            print(sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines)), file=sys.stderr)
            return done.returncode
    site = given.check or SITE
    faults = faults_of(site)
    print("\n".join(faults) or f"{site}: {len(list(site.rglob('*.html')))} pages, every link leads somewhere")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
