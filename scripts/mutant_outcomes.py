"""The mutants of a module, in the order in which they are drawn, and what became of those that were tried."""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mutant_tests import ROOT, digest, tests_of
from mutations import Mutation, mutations

KEPT = ROOT / ".cache" / "mutants"
# How things look, not what they say: canvas sizes, colours, line widths.
LOOKS = {"canvas.py", "curves.py", "figures.py", "heatmaps.py"}
# So many times as many as are wanted are drawn at most, where a module cannot be imported after many of its mutations.
DRAWS = 4


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
    code: str  # digest of the module
    tests: str  # digest of the tests that could have killed it; of the one that did
    killed_by: str | None  # a test, "time" or "a crash"; None: it survived

    @property
    def stillborn(self) -> bool:
        """Whether no test could be collected, since the module cannot be imported: that tells nothing of the tests."""
        return self.killed_by is not None and self.killed_by.endswith(".py")


def population(path: str, root: Path) -> list[Mutant]:
    """All mutants of a module."""
    source = (root / path).read_text("utf-8")
    parts = Path(path).parts
    # Without the rooms between, so that a module which moves within its package keeps its mutants.
    name = "/".join((*parts[:-1][:2], parts[-1]))
    found = [Mutant(path=path, mutation=each, key=each.key(name)) for each in mutations(source)]
    if Path(path).name in LOOKS:
        found = [mutant for mutant in found if not _is_look(mutant.mutation)]
    return found


def drawn(path: str, root: Path, *, seed: int) -> Iterator[Mutant]:
    """All mutants of a module that are Python still, by a draw that does not change when lines move."""
    order = sorted(population(path, root), key=lambda mutant: hashlib.sha256(f"{seed} {mutant.key}".encode()).digest())
    return (mutant for mutant in order if mutant.mutation.compiles())


def sample(path: str, root: Path, *, num_mutants: int, seed: int, known: Mapping[str, Outcome]) -> Iterator[Mutant]:
    """The first mutants drawn of a module of the tree below `root`.

    One after which the module turns out not to be importable makes room for another: `known` is read on the way.
    """
    wanted = num_mutants
    for mutant in itertools.islice(drawn(path, root, seed=seed), DRAWS * num_mutants):
        if wanted == 0:
            return
        yield mutant
        wanted -= not (mutant.key in known and known[mutant.key].stillborn)


def _is_look(mutation: Mutation) -> bool:
    """A number changed, or a keyword argument left out, in a module that draws."""
    numbers = re.compile(r"\d[\d.]*(e-?\d+)?")
    left_out = re.findall(r"\b\w+=[^=]", mutation.before), re.findall(r"\b\w+=[^=]", mutation.after)
    return numbers.sub("0", mutation.before) == numbers.sub("0", mutation.after) or left_out[0] != left_out[1]


# What is kept


def outcome(mutant: Mutant, killed_by: str | None, root: Path) -> Outcome:
    """As it is kept: with digests of the code and of the tests below `root`, which ran."""
    change = mutant.mutation
    return Outcome(
        key=mutant.key,
        path=mutant.path,
        function=change.function,
        before=change.before.strip(),
        after=change.after.strip(),
        code=digest([mutant.path], root),
        tests=_judges(mutant.path, killed_by, root),
        killed_by=killed_by,
    )


@functools.cache
def _judges(path: str, killed_by: str | None, root: Path) -> str:
    """Digest of the test that killed a mutant, or of all that a survivor met."""
    if killed_by is None:
        return digest([name for tests in tests_of(path) for name in tests], root)
    file, _, name = killed_by.partition("::")
    if not name or not (root / file).is_file():
        return ""
    source = (root / file).read_text("utf-8")
    found = {
        node.name: ast.get_source_segment(source, node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
    }
    text = found.get(name.partition("[")[0].rpartition("::")[2]) or source
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def keep(each: Outcome) -> None:
    """Add one to the file."""
    with open(KEPT / "outcomes.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(each)) + "\n")


def history() -> list[Outcome]:
    """Every outcome of earlier runs, the newest last."""
    file = KEPT / "outcomes.jsonl"
    return [Outcome(**json.loads(line)) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []


def kept() -> dict[str, Outcome]:
    """Outcomes of earlier runs that hold: the module is as it was, and so is the test that killed, or all tests."""
    found = {each.key: each for each in history() if (ROOT / each.path).is_file()}
    return {
        key: each
        for key, each in found.items()
        if (each.code, each.tests) == (digest([each.path], ROOT), _judges(each.path, each.killed_by, ROOT))
    }
