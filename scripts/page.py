"""A report in Debian's chromium, without a network: `make page` runs this.

It makes three pages: a small run with the text of its samples beside two results, all results, and 10,000 rows; and
holds them to what docs/report.md promises: no request, no console message and no error; a page that is broken on
purpose is noticed; no violation of WCAG 2.2 A or AA that axe-core finds, light or dark; a table under each figure;
sorting, filtering and opening a sample by keyboard alone; ready within 2 s at 10,000 rows, and at most 3 MiB. Pictures
go to build/page.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "page"
AXE = ROOT / ".cache" / "axe" / "axe.min.js"
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa"]
MAX_BYTES, MAX_READY_S, NUM_LOADS, NUM_ROWS = 3 * 2**20, 2.0, 5, 10_000
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
RUN = ["perplexity", "--checkpoint", "ttt-linear", "--checkpoint", "transformer", "--ctx", "64,128", "--limit", "2"]
RUN += ["--param", "window=32", "--param", "max_context=128", "--threads", "1", "--unchecked", "--name", "page"]


@dataclass
class Watch:
    """What a page did that it must not."""

    found: list[str] = field(default_factory=list)

    def attach(self, page: Any) -> None:
        page.on("console", lambda message: self.found.append(f"console {message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.found.append(f"error: {error}"))
        page.on("request", lambda request: self._request(request.url, page))

    def _request(self, url: str, page: Any) -> None:
        if not url.startswith("file:"):
            self.found.append(f"request: {url[:120]}")


@contextlib.contextmanager
def opened(browser: Any, path: Path, *, scheme: str = "light", size: str = "desktop") -> Iterator[tuple[Any, Watch]]:
    """A page in a context of its own that has no network."""
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, offline=True)
    page, watch = context.new_page(), Watch()
    watch.attach(page)
    page.goto(path.as_uri())
    yield page, watch
    context.close()


def wait(page: Any, *, seconds: float = 60) -> None:
    page.wait_for_selector("html[data-ready]", state="attached", timeout=1000 * seconds)


def unfold(page: Any) -> None:
    """Open everything, and draw every chart."""
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    whole = (
        "[...document.querySelectorAll('.chart')].every((each) => each.querySelector('svg'))"
        " && [...document.querySelectorAll('.listing')].every((each) => each.querySelector('tbody tr'))"
    )
    assert _comes(page, whole, seconds=120), "not every chart was drawn and every table filled within 120 s"


def _comes(page: Any, condition: str, *, seconds: float = 10) -> bool:
    """Whether a condition holds before the time is over. The page's policy forbids wait_for_function to evaluate."""
    until = time.monotonic() + seconds
    while not page.evaluate(condition):
        if time.monotonic() > until:
            return False
        page.wait_for_timeout(50)
    return True


def need(held: bool, said: str) -> None:
    print(f"{'ok ' if held else 'NOT'} {said}", flush=True)
    if not held:
        need.failed = True  # type: ignore[attr-defined]


def make_pages(names: set[str]) -> dict[str, Path]:
    """The pages, made by the command."""
    OUT.mkdir(parents=True, exist_ok=True)
    runs = OUT / "runs"
    command = [sys.executable, "-m", "ttbench"]
    if not list(runs.glob("*/rows.parquet")):
        subprocess.run([*command, "run", *RUN, "--out", str(runs)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    run = next(runs.glob("*/rows.parquet")).parent
    results = sorted(str(path.parent.relative_to(ROOT)) for path in (ROOT / "results").rglob("rows.parquet"))
    some = [name for name in results if Path(name).parts[1] in ("needle", "latency")]
    read = {"small": [str(run), *some], "whole": results}
    read |= {"large": [str(_large())], "hostile": [str(_hostile())]}
    pages = {name: OUT / f"{name}.html" for name in read}
    for name in names:
        subprocess.run([*command, "report", *read[name], "--out", str(pages[name])], check=True, cwd=ROOT)
    return pages


def _made_up() -> Any:
    """The module that makes up rows for tests."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    import rows

    return rows


# What ends elements and scripts, and runs where it becomes one; what turns the direction of writing; NUL.
NASTY = "</script><img src=x onerror=alert(1)>\"'`<!--\u202e\0 <b>"


def _hostile() -> Path:
    """Made-up rows whose names are written to become HTML."""
    made = _made_up()
    from ttbench.report.published import rows_bytes

    words = {"corpus": NASTY, "engine": NASTY, "revision": NASTY, "provenance": NASTY}
    models = [made.Model(name=f"{NASTY}{index}", bits=1.4 + index / 5, settings=words) for index in range(2)]
    frame = made.make_rows(
        made.perplexity_rows(models, [512, 2048], num_documents=12),
        made.needle_rows(models, [512, 2048], num_haystacks=6, depths=(0.0, 1.0)),
    )
    for name in ("document", "recipe", "haystack"):
        frame[name] = [None if value != value or value is None else f"{NASTY}{value}" for value in frame[name]]
    folder = OUT / "hostile"
    folder.mkdir(exist_ok=True)
    (folder / "rows.parquet").write_bytes(rows_bytes(frame))
    return folder


def _large() -> Path:
    """Made-up rows of four tasks, as published results: 10,000 of them at least."""
    made = _made_up()
    from ttbench.report.published import rows_bytes

    models = [made.Model(name=f"model-{index}", bits=1.5 + index / 20, speed=1 + index / 9) for index in range(4)]
    contexts = [512, 1024, 2048, 4096, 8192]
    frame = made.make_rows(
        made.perplexity_rows(models, contexts, num_documents=130, windows=2),
        made.needle_rows(models, contexts, num_haystacks=35),
        made.timing_rows(models, contexts, num_rounds=7),
    )
    assert len(frame) >= NUM_ROWS, len(frame)
    folder = OUT / "large"
    folder.mkdir(exist_ok=True)
    (folder / "rows.parquet").write_bytes(rows_bytes(frame))
    return folder


def check_silent(browser: Any, path: Path) -> None:
    for scheme in ("light", "dark"):
        for size in SIZES:
            with opened(browser, path, scheme=scheme, size=size) as (page, watch):
                wait(page)
                unfold(page)
                page.locator(".chart svg").first.hover()
                wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                need(not watch.found, f"{path.stem}, {scheme}, {size}: silent {watch.found[:3] or ''}")
                need(wide <= 0, f"{path.stem}, {scheme}, {size}: no wider than the window ({wide})")


def take_pictures(browser: Any, path: Path) -> None:
    """What to look at: the page as it opens with its charts, light and dark, wide and narrow."""
    for scheme in ("light", "dark"):
        for size in SIZES:
            with opened(browser, path, scheme=scheme, size=size) as (page, _):
                wait(page)
                page.evaluate("dispatchEvent(new Event('beforeprint'))")
                page.wait_for_timeout(3000)
                page.screenshot(path=OUT / f"{path.stem}-{scheme}-{size}.png", full_page=True, timeout=120_000)
    print(f"pictures in {OUT}")


BREAKS: dict[str, Callable[[str], str]] = {
    "a changed script": lambda html: html.replace('root.dataset.ready = "yes"', 'root.dataset.ready = "no"'),
    "a script of somebody else": lambda html: html.replace("</body>", "<script>alert(1)</script></body>"),
    "a picture from elsewhere": lambda html: html.replace("</main>", '<img src="https://example.org/a.png"></main>'),
    "damaged data": lambda html: re.sub(r'(id="data-charts">)[^<]{40}', r"\1" + "A" * 40, html),
    "a chart without its place": lambda html: re.sub(
        r'class="chart" id="[^"]*"', 'class="chart" id="x"', html, count=1
    ),
    "a style of somebody else": lambda html: html.replace("</head>", "<style>p{color:red}</style></head>"),
}


def check_broken(browser: Any, path: Path) -> None:
    html = path.read_text(encoding="utf-8")
    for name, damage in BREAKS.items():
        broken = OUT / "broken.html"
        changed = damage(html)
        assert changed != html, name
        broken.write_text(changed, encoding="utf-8")
        with opened(browser, broken) as (page, watch):
            with contextlib.suppress(Exception):
                wait(page, seconds=5)
            page.evaluate("dispatchEvent(new Event('beforeprint'))")
            for _ in range(100):
                if not watch.found:
                    page.wait_for_timeout(100)
            need(bool(watch.found), f"broken on purpose is noticed: {name} ({', '.join(watch.found)[:90]})")


def check_hostile(browser: Any, path: Path) -> None:
    with opened(browser, path) as (page, watch):
        page.on("dialog", lambda dialog: watch.found.append(f"dialog: {dialog.message}"))
        wait(page)
        unfold(page)
        page.locator("button.open").first.click()
        page.wait_for_selector("dialog[open]")
        page.keyboard.press("Escape")
        targets = page.locator(".chart svg")
        for index in range(targets.count()):
            targets.nth(index).hover()
        made = page.evaluate("document.querySelectorAll('img, b, iframe, object, embed').length")
        said = page.evaluate("document.body.innerText")
        need(made == 0 and "<img src=x" in said, "names written to become HTML are text")
        need("\u202e" not in said and "\0" not in said, "and hide no letter")
        need(not watch.found, f"and nothing of them ran {watch.found[:2] or ''}")


def check_access(browser: Any, path: Path) -> None:
    for scheme in ("light", "dark"):
        with opened(browser, path, scheme=scheme) as (page, _):
            wait(page)
            unfold(page)
            _audit(page, f"{scheme}, everything open")
            page.locator("button.open").first.click()
            page.wait_for_selector("dialog[open]")
            page.evaluate("document.querySelectorAll('dialog details').forEach((each) => { each.open = true; })")
            page.screenshot(path=OUT / f"sample-{scheme}.png")
            _audit(page, f"{scheme}, a sample open")


def _audit(page: Any, what: str) -> None:
    page.evaluate(AXE.read_text(encoding="utf-8"))
    result = page.evaluate("(tags) => axe.run(document, {runOnly: tags})", WCAG)
    told = [
        f"{each['id']} ({each['impact']}) x{len(each['nodes'])}: {each['nodes'][0]['html'][:160]} "
        f"{each['nodes'][0]['failureSummary'][:200]}"
        for each in result["violations"]
    ]
    need(len(result["passes"]) > 10 and not told, f"axe-core, {what}: {len(result['passes'])} rules hold")
    for line in told:
        print("   ", line)


def check_tables(browser: Any, path: Path) -> None:
    with opened(browser, path) as (page, _):
        wait(page)
        found = page.evaluate(
            "[...document.querySelectorAll('figure')].map((each) => [each.querySelector('h3').textContent,"
            " each.querySelectorAll('.chart').length, each.querySelectorAll('details table tbody td').length])"
        )
        bare = [title for title, _, cells in found if cells == 0]
        drawn = sum(charts > 0 for _, charts, _ in found)
        need(drawn > 5 and not bare, f"{len(found)} figures ({drawn} drawn), each with its table {bare or ''}")


def check_keyboard(browser: Any, path: Path) -> None:
    with opened(browser, path) as (page, watch):
        wait(page)
        reach(
            page,
            "document.activeElement.matches('.listed summary')"
            " && document.activeElement.textContent.startsWith('Samples')",
        )
        page.keyboard.press("Enter")
        page.wait_for_selector("details.listed[open] tbody tr")
        before = page.evaluate("document.querySelectorAll('details.listed[open] tbody tr').length")
        reach(page, "document.activeElement.matches('.listed[open] input[type=search]')")
        page.keyboard.type("ttt-linear")
        names = page.evaluate(
            "[...document.querySelectorAll('details.listed[open] tbody tr')].map((each) => each.textContent)"
        )
        need(before > 0 and bool(names) and all("ttt-linear" in name for name in names), "filter by keyboard")
        reach(
            page,
            "document.activeElement.closest('th') && document.activeElement.closest('th').textContent.includes('nats')",
        )
        page.keyboard.press("Enter")
        order = "document.querySelector('details.listed[open] th[aria-sort]')?.getAttribute('aria-sort')"
        need(_comes(page, f"{order} === 'ascending'"), "sort by keyboard")
        page.keyboard.press("Enter")
        need(_comes(page, f"{order} === 'descending'"), "and the other way round")
        reach(page, "document.activeElement.matches('button.open')")
        page.keyboard.press("Enter")
        page.wait_for_selector("dialog[open]")
        said = page.evaluate("document.querySelector('dialog').innerText")
        need("nats" in said and "Row" in said, "open a sample by keyboard")
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog:not([open])", state="attached")
        need(page.evaluate("document.activeElement.matches('button.open')"), "close it, and be where one was")
        need(not watch.found, f"and the page stayed silent {watch.found[:2] or ''}")


def reach(page: Any, condition: str, *, most: int = 400) -> None:
    """Press Tab until the element in focus is the one."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate(condition):
            return
    raise AssertionError(f"{most} presses of Tab do not reach: {condition}")


def check_speed(browser: Any, path: Path) -> None:
    size = path.stat().st_size
    need(size <= MAX_BYTES, f"{NUM_ROWS:,} rows: {size / 2**20:.2f} MiB, at most {MAX_BYTES / 2**20:.0f}")
    taken = []
    for _ in range(NUM_LOADS):
        started = time.perf_counter()
        with opened(browser, path) as (page, _):
            wait(page)
            taken.append(time.perf_counter() - started)
    middle = statistics.median(taken)
    each = ", ".join(f"{seconds:.2f}" for seconds in taken)
    load = os.getloadavg()[0]
    need(middle <= MAX_READY_S, f"{NUM_ROWS:,} rows: ready in {middle:.2f} s, median of {each} (load {load:.1f})")


CHECKS = {
    "silent": ("whole", check_silent),
    "pictures": ("small", take_pictures),
    "broken": ("small", check_broken),
    "hostile": ("hostile", check_hostile),
    "access": ("small", check_access),
    "tables": ("whole", check_tables),
    "keyboard": ("small", check_keyboard),
    "speed": ("large", check_speed),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checks", nargs="*", help=f"of: {', '.join(CHECKS)}; all without")
    chosen = parser.parse_args().checks or list(CHECKS)
    from playwright.sync_api import sync_playwright  # type: ignore[import-not-found]  # in .venv-page alone

    pages = make_pages({CHECKS[name][0] for name in chosen})
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name in chosen:
            page, check = CHECKS[name]
            print(f"-- {name}", flush=True)
            check(browser, pages[page])
        browser.close()
    return 1 if getattr(need, "failed", False) else 0


if __name__ == "__main__":
    sys.exit(main())
