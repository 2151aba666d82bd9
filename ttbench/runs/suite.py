"""Suites: YAML files that say which tasks run on which checkpoints over which axes. Data only, checked strictly.

    title: Bits per byte against context
    checkpoints: [transformer, ttt-linear]     # without it: four of the zoo; zoo: all of it
    tasks:
      - task: perplexity
        ctx: 1k..32k
        corpus: code
        params: {protocol: fixed, limit: 30}

Keys beside `title`, `description` and `tasks` may stand at the top for all tasks, or in a task for it alone; those that
say where cells run (`executor`, `jobs`, `cluster`) stand at the top. An unknown key, a wrong type, a tag or an alias is
a SuiteError that names file and line. Torch-free.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ttbench.errors import SuiteError, UnknownNameError, UsageError
from ttbench.registry import TASKS
from ttbench.runs.options import NAMED, Options, flags, placed, several, validated
from ttbench.runs.plan import Plan, join, plan, read_params
from ttbench.strict_yaml.nodes import CATALOGUE, Node, read_yaml, suite_folders

__all__ = ["Plan", "Suite", "SuiteTask", "find_suite", "join", "list_suites", "load_suite", "parse_ctx", "plan"]

_UNITS = {"": 1, "k": 1024, "m": 1024**2}
_LENGTH = re.compile(r"([0-9]+)([km]?)", re.ASCII | re.IGNORECASE)
_MAX_LEN = 2**40


def parse_ctx(text: str | int | Iterable[str | int]) -> tuple[int, ...]:
    """Context lengths in tokens, ascending: "32k", "1k,4k,32k", "1k..32k" (doubling); k = 1024, m = 1024^2.

    Raises UsageError, saying what is allowed.
    """
    items = [text] if isinstance(text, str | int) else list(text)
    parts = [part.strip() for item in items for part in str(item).split(",")]
    if not parts:
        raise UsageError("no context length given; write 32k, 1k,4k,32k or 1k..32k")
    return tuple(sorted({length for part in parts for length in _range(part)}))


def _range(part: str) -> list[int]:
    first, dots, last = part.partition("..")
    if not dots:
        return [_length(part)]
    start, stop = _length(first), _length(last)
    lengths = [start]
    while lengths[-1] < stop:
        lengths.append(2 * lengths[-1])
    if lengths[-1] != stop:
        near = " or ".join(format_len(length) for length in lengths[-2:])
        raise UsageError(f"context range '{part}' doubles and does not reach its end; end it at {near}")
    return lengths


def _length(text: str) -> int:
    match = _LENGTH.fullmatch(text.strip())
    length = int(match[1]) * _UNITS[match[2].lower()] if match and len(match[1]) < 20 else 0
    if not 1 <= length <= _MAX_LEN:
        raise UsageError(
            f"context length '{text}' is not a number of tokens from 1 to {format_len(_MAX_LEN)}; "
            "write 512, 32k (k = 1024), 2m (m = 1024k), 1k,4k,32k or 1k..32k (doubling)"
        )
    return length


def format_len(length: int) -> str:
    """The shortest spelling that `parse_ctx` reads back: 1000, 32k, 2m."""
    unit = next(unit for unit in ("m", "k", "") if length % _UNITS[unit] == 0)
    return f"{length // _UNITS[unit]}{unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteTask:
    """One task of a suite, and the options that the suite gives it; the command line's go before them."""

    task: str
    options: Options
    where: str = ""  # file and line

    @property
    def params(self) -> Mapping[str, Any]:
        """The task's own parameters, those written."""
        return self.options.get("params") or {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A suite as its file says it."""

    name: str
    path: str
    title: str
    description: str
    tasks: tuple[SuiteTask, ...]
    placed: Options = field(default_factory=Options)  # where its cells run


_TASK_KEYS = ("task", *(name for name in flags() if name not in placed()))
_SHARED_KEYS = tuple(name for name in _TASK_KEYS if name not in ("task", "params"))
# of a paper's figures, for which a suite measures: read by `ttbench.report.papers.preset`, not here
_PAPER = "paper"
_SUITE_KEYS = ("title", "description", "tasks", _PAPER, *_SHARED_KEYS, *placed())


def find_suite(name: str) -> Path:
    """The file of a suite: a path as given, then `./suites/<name>.yaml`, then the suites that ship with the package.

    `papers/<name>` is the suite of a paper, which no listing of suites shows.

    Raises UnknownNameError with the nearest name.
    """
    given = Path(name)
    if given.suffix in (".yaml", ".yml"):
        if not given.is_file():
            raise SuiteError(f"there is no suite file '{name}'; ttbench list suites shows those with a name")
        return given
    found = runnable_suites()
    if name not in found:
        raise UnknownNameError("suite", name, known=found)
    return found[name]


def list_suites() -> dict[str, Path]:
    """Suites that can be named: those in `./suites` and those that ship with the package."""
    return {
        path.stem: path
        for folder in suite_folders()
        for path in sorted(folder.glob("*.yaml"))
        if path.name != CATALOGUE
    }


def runnable_suites() -> dict[str, Path]:
    """Suites that can be run by name: those that are listed, and those of papers as `papers/<name>`."""
    papers = {f"papers/{path.stem}": path for folder in suite_folders() for path in folder.glob("papers/*.yaml")}
    return list_suites() | papers


def load_suite(path: Path | str) -> Suite:
    """Read and check a suite. Raises SuiteError with file and line."""
    path = Path(path)
    top = read_yaml(path, noun="suite", needs="title and tasks")
    keys = top.mapping(_SUITE_KEYS)
    for needed in ("title", "tasks"):
        if needed not in keys:
            raise top.error(f"key '{needed}' is missing")
    shared = {name: value for name, value in keys.items() if name in _SHARED_KEYS}
    tasks = tuple(_read_task(item, shared=shared) for item in keys["tasks"].items())
    if not tasks:
        raise keys["tasks"].error("a suite has at least one task")
    return Suite(
        name=path.stem,
        path=str(path),
        title=keys["title"].text("title"),
        description=keys["description"].text("description") if "description" in keys else "",
        tasks=tasks,
        placed=_read_options({name: node for name, node in keys.items() if name in placed()}),
    )


def _read_task(node: Node, *, shared: Mapping[str, Node]) -> SuiteTask:
    own = node.mapping(_TASK_KEYS)
    if "task" not in own:
        raise node.error("key 'task' is missing")
    keys = {**shared, **own}
    name = own["task"].text("task")
    if name not in TASKS:
        raise SuiteError(str(UnknownNameError("task", name, known=TASKS, where=own["task"].where)))
    options = _read_options({key: node for key, node in keys.items() if key != "task"})
    given = own["params"].mapping(None) if "params" in own else {}
    for option in NAMED:
        if option in own and option in given:
            raise own[option].error(f"key '{option}' and the parameter '{option}' are both given; give one of them")
        if option in given:
            # the task's own goes before what all tasks share
            options.pop(option, None)
    try:
        read_params(TASKS.load(name), options.get("params") or {}, where={key: v.where for key, v in given.items()})
    except SuiteError:
        raise
    except UsageError as error:
        text = str(error)
        raise SuiteError(text if node.file in text else f"{node.where}: {text}") from error
    return SuiteTask(task=name, options=options, where=node.where)


def _read_options(nodes: Mapping[str, Node]) -> Options:
    """Options from their nodes, each checked by itself, so that a mistake is named by its line."""
    found: dict[str, Any] = {}
    for key, node in nodes.items():
        try:
            value = node.data()
            if key == "ctx":
                value = parse_ctx([str(item) for item in several(value)])
            found |= validated({key: value}, noun="key")
        except UsageError as error:
            raise error if isinstance(error, SuiteError) else node.error(str(error)) from error
    return cast(Options, found)
