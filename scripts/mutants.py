"""`make mutants`: would the tests notice a wrong number? Changes the code in small ways, and runs the tests each time.

A sample of each module's mutations (`mutations.py`), the same for the same seed, is tried in copies of the tree. A
mutant is killed when a test fails, or when the tests need many times their usual processor time. First the module's own
tests run, then, where those pass, all others that read it (`mutant_tests.py`). Outcomes are kept in `.cache/mutants`,
so that an interrupted run goes on; survivors are tried again when a test has changed.

    python scripts/mutants.py [--sample 10] [--seed 0] [--jobs 2] [--only PART-OF-PATH ...]
        [--quick SECONDS] [--minutes MINUTES] [--report]

`--quick` runs a module's own tests alone, and leaves out modules where those take more processor seconds: a survivor
of it may yet be killed by the others. After `--minutes` no further mutant is begun. `--report` writes docs/mutants.md,
where each survivor's reason, written by hand, is kept. The exit code is 1 when fewer than 95 % are killed, a survivor
has no reason, or a mutant was not tried.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mutant_tests import ROOT, digest, tests_of
from mutations import Mutation, mutations

KEPT = ROOT / ".cache" / "mutants"
PAGE = ROOT / "docs" / "mutants.md"
SCOPE = ("ttbench/kernels/*.py", "ttbench/tasks/*.py", "ttbench/stats.py", "ttbench/clusters.py", "ttbench/report/*.py")
# How things look, not what they say: canvas sizes, colours, line widths.
LOOKS = {"canvas.py", "curves.py", "figures.py", "heatmaps.py"}
BY_HAND = "## By hand\n"
LEAST_SHARE = 0.95
LEAST_CPU_S, CPU_FACTOR = 20, 4  # processor seconds that a mutant's tests may take: these and so many times the usual
WALL_S = 1800  # and seconds of the clock, on however busy a machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A mutation of one module."""

    path: str  # below the root
    mutation: Mutation
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a mutant."""

    key: str
    path: str
    function: str
    before: str
    after: str
    tests: str  # digest of the tests that ran
    killed_by: str | None  # a test, "time" or "a crash"; None: it survived

    @property
    def stillborn(self) -> bool:
        """Whether no test could be collected, since the module cannot be imported: that tells nothing of the tests."""
        return self.killed_by is not None and self.killed_by.endswith(".py")


# What is tried


def modules(only: Sequence[str]) -> list[Path]:
    """The modules in scope, in the order of the parts of their paths that were given."""
    paths = [path for pattern in SCOPE for path in sorted(ROOT.glob(pattern))]
    return [*dict.fromkeys(path for part in only or [""] for path in paths if part in str(path.relative_to(ROOT)))]


def population(path: Path) -> list[Mutant]:
    """All mutants of a module."""
    name = str(path.relative_to(ROOT))
    found = [Mutant(path=name, mutation=each, key=each.key(name)) for each in mutations(path.read_text("utf-8"))]
    if path.name in LOOKS:
        found = [mutant for mutant in found if not _is_look(mutant.mutation)]
    return found


def sample(path: Path, *, num_mutants: int, seed: int) -> list[Mutant]:
    """Some mutants of a module, by a draw that does not change when lines move."""
    drawn = sorted(population(path), key=lambda mutant: hashlib.sha256(f"{seed} {mutant.key}".encode()).digest())
    return list(itertools.islice((mutant for mutant in drawn if mutant.mutation.compiles()), num_mutants))


def _is_look(mutation: Mutation) -> bool:
    """A number changed, or a keyword argument left out, in a module that draws."""
    numbers = re.compile(r"\d[\d.]*(e-?\d+)?")
    left_out = re.findall(r"\b\w+=[^=]", mutation.before), re.findall(r"\b\w+=[^=]", mutation.after)
    return numbers.sub("0", mutation.before) == numbers.sub("0", mutation.after) or left_out[0] != left_out[1]


# Running


class Slot:
    """A copy of the tree in which one mutant at a time lives."""

    def __init__(self, number: int) -> None:
        self.folder = KEPT / f"tree-{number}"
        shutil.rmtree(self.folder, ignore_errors=True)
        ignored = shutil.ignore_patterns(".*", "runs", "trained", "dist", "build", "__pycache__")
        shutil.copytree(ROOT, self.folder, ignore=ignored)
        self._time = time.time() - 1e6
        self._originals: dict[Path, str] = {}

    def put(self, mutant: Mutant | None) -> None:
        """The tree as it was when it was copied, but for this mutant."""
        for path, source in self._originals.items():
            self._write(path, source)
        self._originals.clear()
        if mutant is not None:
            path = Path(mutant.path)
            self._originals[path] = (self.folder / path).read_text("utf-8")
            self._write(path, mutant.mutation.source)

    def _write(self, path: Path, source: str) -> None:
        """With a time of its own, by which Python tells whether its compiled file is stale."""
        self._time += 10
        (self.folder / path).write_text(source, "utf-8")
        os.utime(self.folder / path, (self._time, self._time))

    def start(self, tests: Sequence[str], *, cpu_s: int) -> int:
        """Fork a process, which has torch already, and run these tests in it."""
        pid = os.fork()
        if pid:
            return pid
        code = 70
        try:
            os.setsid()
            os.chdir(self.folder)
            out_of_sight = (ROOT, ROOT / "scripts")
            sys.path[:] = [
                str(self.folder),
                *(each for each in sys.path if Path(each or ".").resolve() not in out_of_sight),
            ]
            log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(log, stream)
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 5))
            import pytest

            # What was imported before the fork is no test.
            options = ["-W", "ignore::pytest.PytestAssertRewriteWarning", "-p", "no:cacheprovider"]
            code = pytest.main(["-x", "-q", *options, *tests])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(int(code))

    def passed(self, tests: Sequence[str], *, cpu_s: int) -> Generator[None, None, tuple[str | None, float]]:
        """Run tests, yielding while they run: what ended them, None where they passed, and their processor seconds."""
        pid, began = self.start(tests, cpu_s=cpu_s), time.monotonic()
        while not (ended := os.wait4(pid, os.WNOHANG))[0]:
            if time.monotonic() - began > WALL_S:
                os.kill(pid, signal.SIGKILL)
            yield
        # Workers that a test had started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        _, status, usage = ended
        spent = usage.ru_utime + usage.ru_stime
        if os.WIFSIGNALED(status):
            return ("time" if os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL) else "a crash"), spent
        if os.WEXITSTATUS(status) == 0:
            return None, spent
        found = re.search(r"^(?:FAILED|ERROR) (\S+)", (self.folder / "log").read_text(errors="replace"), re.M)
        return (found.group(1) if found else f"exit code {os.WEXITSTATUS(status)}"), spent


def lane(
    slot: Slot, modules: list[tuple[str, list[Mutant]]], *, quick: int | None, until: float
) -> Iterator[Outcome | None]:
    """Take modules from the list, one after the other, and try their mutants; None while tests run."""
    while modules and time.monotonic() < until:
        path, mutants = modules.pop(0)
        rounds, limits = rounds_of(path, quick=quick), dict[int, int]()
        if quick is not None:
            limits[0] = yield from _limit(slot, rounds[0], most_s=quick)
            if not limits[0]:
                print(f"{path}: left out, its own tests take more than {quick} processor seconds", flush=True)
                continue
        for mutant in mutants:
            if time.monotonic() >= until:
                return
            killed_by = None
            for number, tests in enumerate(rounds):
                if number not in limits:
                    limits[number] = yield from _limit(slot, tests)
                slot.put(mutant)
                killed_by, _ = yield from slot.passed(tests, cpu_s=limits[number])
                if killed_by:
                    break
            yield outcome(mutant, killed_by, tests=digest(rounds))


def rounds_of(path: str, *, quick: int | None) -> list[list[str]]:
    """The rounds of test files that a module's mutants meet."""
    return [tests for tests in tests_of(path) if tests][: None if quick is None else 1]


def _limit(slot: Slot, tests: Sequence[str], *, most_s: int = WALL_S) -> Generator[None, None, int]:
    """Processor seconds that these tests may take: from what they take on the code as it is, where they must pass.

    0 when that is more than `most_s`.
    """
    slot.put(None)
    failed, spent = yield from slot.passed(tests, cpu_s=most_s)
    if failed == "time" and most_s < WALL_S:
        return 0
    if failed:
        log = (slot.folder / "log").read_text(errors="replace")
        sys.exit(f"the tests fail on the code as it is: {failed}\n{log[-2000:]}")
    return int(LEAST_CPU_S + CPU_FACTOR * spent)


def run(mutants: Sequence[Mutant], *, jobs: int, quick: int | None, until: float) -> Iterator[Outcome]:
    """Try mutants, `jobs` modules at a time. Raises SystemExit when the tests fail on the code as it is."""
    modules = [(path, list(those)) for path, those in itertools.groupby(mutants, key=lambda mutant: mutant.path)]
    lanes = [lane(Slot(number), modules, quick=quick, until=until) for number in range(min(jobs, len(modules)))]
    while lanes:
        for each in list(lanes):
            try:
                found = next(each)
            except StopIteration:
                lanes.remove(each)
                continue
            if found is not None:
                yield found
        time.sleep(0.05)


def outcome(mutant: Mutant, killed_by: str | None, *, tests: str) -> Outcome:
    """As it is kept."""
    change = mutant.mutation
    return Outcome(
        key=mutant.key,
        path=mutant.path,
        function=change.function,
        before=change.before.strip(),
        after=change.after.strip(),
        tests=tests,
        killed_by=killed_by,
    )


# What is kept and told


def history() -> list[Outcome]:
    """Every outcome of earlier runs, the newest last."""
    file = KEPT / "outcomes.jsonl"
    return [Outcome(**json.loads(line)) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []


def kept(*, quick: int | None) -> dict[str, Outcome]:
    """Outcomes of earlier runs that still hold: all kills, and survivors of the tests as they are."""
    found = {each.key: each for each in history()}
    now = {path: digest(rounds_of(path, quick=quick)) for path in {each.path for each in found.values()}}
    return {key: each for key, each in found.items() if each.killed_by or each.tests == now[each.path]}


def reasons() -> dict[str, str]:
    """Why survivors live, by key, as the page says."""
    text = PAGE.read_text("utf-8") if PAGE.is_file() else ""
    rows = re.finditer(r"^\| `([0-9a-f]{16})` \| .* \| (.*) \|$", text, re.M)
    return {row.group(1): row.group(2).strip() for row in rows}


def page(wanted: Sequence[Mutant], outcomes: Sequence[Outcome], known: dict[str, str], *, command: str) -> str:
    """docs/mutants.md."""
    killed = sum(each.killed_by is not None for each in outcomes)
    survived = {each.key for each in history() if each.killed_by is None}
    gaps = [each for each in outcomes if each.killed_by and each.key in survived]
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    lines = [
        "# Mutants",
        "",
        "Would the tests notice a wrong number? `make mutants` changes the code in small ways, one at a time (`<` for",
        "`<=`, 2 for 1, `log10` for `log`, an argument left out), runs the tests each time, and writes this page: a",
        "sample of the mutations of each module, drawn by seed. A survivor changes nothing that matters, as its reason",
        "says, or is a gap in the tests. Where modules draw, sizes and colours are left alone. A change after which",
        "the module cannot be imported counts for nothing.",
        "",
        f"Written by `{command}` at commit {commit.strip()}. With `--quick` a mutant meets the tests of its own module",
        "alone, and its kill may need no more than that; a survivor may yet be killed by the others.",
        "",
        f"**{killed} of {len(outcomes)} mutants were killed ({killed / max(len(outcomes), 1):.1%}), {len(gaps)} of",
        f"them after a test was written for them. {len(wanted) - len(outcomes)} of the sample were not tried.**",
        "Of modules that were not tried, and of mutations outside the sample, this page says nothing.",
        "",
        "| module | mutations | in the sample | tried | killed |",
        "|---|---:|---:|---:|---:|",
    ]
    for path in dict.fromkeys(sorted(mutant.path for mutant in wanted)):
        here = [each for each in outcomes if each.path == path]
        counts = [
            len(population(ROOT / path)),
            sum(mutant.path == path for mutant in wanted),
            len(here),
            sum(each.killed_by is not None for each in here),
        ]
        lines.append(f"| `{path}` | " + " | ".join(map(str, counts)) + " |")
    lines += ["", "## Survivors", "", "| key | where | change | why it lives |", "|---|---|---|---|"]
    for each in sorted(outcomes, key=lambda each: (each.path, each.function, each.after)):
        if each.killed_by is None:
            lines.append(f"| `{each.key}` | {_place(each)} | {_change(each)} | {known.get(each.key, '')} |")
    lines += ["", "## Gaps that a test has closed", "", "| where | change | test |", "|---|---|---|"]
    for each in sorted(gaps, key=lambda each: (each.path, each.function, each.after)):
        lines.append(f"| {_place(each)} | {_change(each)} | `{(each.killed_by or '').partition('[')[0]}` |")
    # what is written by hand stays
    _, heading, rest = (PAGE.read_text("utf-8") if PAGE.is_file() else "").partition(BY_HAND)
    return "\n".join(lines) + "\n" + (f"\n{heading}{rest}" if heading else "")


def _place(each: Outcome) -> str:
    return f"`{each.path.removeprefix('ttbench/')}` {each.function}"


def _change(each: Outcome) -> str:
    return f"`{each.before}` becomes `{each.after}`".replace("|", "\\|")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sample", type=int, default=10, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[], help="parts of the paths of the modules to try, in this order")
    parser.add_argument("--quick", type=int, help="own tests alone, where they take no more processor seconds")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no mutant after so many")
    parser.add_argument("--report", action="store_true", help="write docs/mutants.md")
    given = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    # Once, before the forks: torch and what the tests need beside it.
    import beartype, hypothesis, jaxtyping, matplotlib.figure, numpy, pandas, pyarrow.parquet, pytest, rich.console  # noqa
    import safetensors.torch, scipy.stats, tokenizers, torch, transformers, typer.testing, yaml  # noqa

    torch.set_num_threads(1)
    wanted = [
        mutant for path in modules(given.only) for mutant in sample(path, num_mutants=given.sample, seed=given.seed)
    ]
    known, until = kept(quick=given.quick), time.monotonic() + 60 * given.minutes
    todo = [mutant for mutant in wanted if mutant.key not in known]
    print(f"{len(wanted)} mutants, {len(wanted) - len(todo)} known from earlier runs", flush=True)
    with open(KEPT / "outcomes.jsonl", "a", encoding="utf-8") as file:
        for number, each in enumerate(run(todo, jobs=given.jobs, quick=given.quick, until=until), start=1):
            known[each.key] = each
            file.write(json.dumps(dataclasses.asdict(each)) + "\n")
            file.flush()
            end = f"killed by {each.killed_by}" if each.killed_by else "SURVIVED"
            print(f"{number}/{len(todo)} {each.path} {each.function}: {each.before} -> {each.after}: {end}", flush=True)
    # a module that cannot be imported would be noticed without tests, and is no mutant
    wanted = [mutant for mutant in wanted if mutant.key not in known or not known[mutant.key].stillborn]
    outcomes = [known[mutant.key] for mutant in wanted if mutant.key in known]
    if given.report:
        PAGE.write_text(page(wanted, outcomes, reasons(), command=" ".join(sys.argv)), "utf-8")
    survivors = [each for each in outcomes if each.killed_by is None]
    open_ones = [each for each in survivors if not reasons().get(each.key)]
    share = 1 - len(survivors) / max(len(outcomes), 1)
    print(
        f"{share:.1%} of {len(outcomes)} killed; {len(survivors)} survivors, {len(open_ones)} of them without a "
        f"reason; {len(wanted) - len(outcomes)} not tried"
    )
    return int(share < LEAST_SHARE or bool(open_ones) or len(outcomes) < len(wanted))


if __name__ == "__main__":
    sys.exit(main())
