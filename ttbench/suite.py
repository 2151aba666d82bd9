"""Suites: YAML files that say which tasks run on which checkpoints over which axes. Data only, checked strictly.

    title: Bits per byte against context
    checkpoints: [transformer, ttt-linear]     # without it: the whole zoo
    tasks:
      - task: perplexity
        ctx: 1k..32k
        corpus: code
        params: {protocol: fixed, limit: 30}

Keys beside `title`, `description` and `tasks` may stand at the top for all tasks, or in a task for it alone. An unknown
key, a wrong type, a tag or an alias is a SuiteError that names file and line. Torch-free.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from ttbench.errors import SuiteError, UnknownNameError, UsageError
from ttbench.plan import Plan, join, plan, read_params
from ttbench.registry import TASKS
from ttbench.types import Scalar

__all__ = ["Plan", "Suite", "SuiteTask", "find_suite", "join", "list_suites", "load_suite", "parse_ctx", "plan"]

_UNITS = {"": 1, "k": 1024, "m": 1024**2}
_LENGTH = re.compile(r"([0-9]+)([km]?)", re.ASCII | re.IGNORECASE)
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}
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
        raise UsageError(f"context range '{part}' doubles and never meets its end; end it at {near}")
    return lengths


def _length(text: str) -> int:
    match = _LENGTH.fullmatch(text.strip())
    length = int(match[1]) * _UNITS[match[2].lower()] if match else 0
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
    """One task of a suite; None means not said: the command line's or the task's default holds."""

    task: str
    checkpoints: tuple[str, ...] | None = None  # None: the whole zoo
    ctx: tuple[int, ...] | None = None  # tokens
    corpus: str | None = None
    params: Mapping[str, Scalar] = field(default_factory=dict)  # those written, not the defaults
    dtype: str | None = None
    engine: str | None = None
    attention: str | None = None
    seed: int | None = None
    batch_size: int | None = None  # sequences
    threads: int | None = None
    timeout: float | None = None  # seconds per cell
    where: str = ""  # file and line


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A suite as its file says it."""

    name: str
    path: str
    title: str
    description: str
    tasks: tuple[SuiteTask, ...]


_TASK_KEYS = tuple(item.name for item in dataclasses.fields(SuiteTask) if item.name != "where")
_SHARED_KEYS = tuple(key for key in _TASK_KEYS if key not in ("task", "params"))
_SUITE_KEYS = ("title", "description", "tasks", *_SHARED_KEYS)


class _Node:
    """A YAML node that knows its place and complains by it."""

    def __init__(self, file: str, node: yaml.Node) -> None:
        self.file, self.node = file, node
        if node.tag not in _TAGS:
            kind = node.tag.removeprefix("tag:yaml.org,2002:")
            raise self.error(f"a value of kind '{kind}' is not allowed; put it in quotes")

    @property
    def where(self) -> str:
        return f"{self.file}:{self.node.start_mark.line + 1}"

    def error(self, message: str) -> SuiteError:
        return SuiteError(f"{self.where}: {message}")

    def mapping(self, known: Iterable[str] | None) -> dict[str, _Node]:
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(f"expected keys and values; got {self.spelling()}")
        found: dict[str, _Node] = {}
        for key_node, value_node in self.node.value:
            key, value = _Node(self.file, key_node), _Node(self.file, value_node)
            name = key.text("a key")
            if known is not None and name not in known:
                raise SuiteError(str(UnknownNameError("key", name, known=known, where=key.where)))
            if name in found:
                raise key.error(f"key '{name}' is written twice")
            found[name] = value
        return found

    def items(self) -> list[_Node]:
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error(f"expected a list; got {self.spelling()}")
        return [_Node(self.file, node) for node in self.node.value]

    def is_list(self) -> bool:
        return isinstance(self.node, yaml.SequenceNode)

    def scalar(self) -> Scalar:
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.error(f"expected one value; got {self.spelling()}")
        return SafeConstructor().construct_object(self.node)

    def text(self, what: str) -> str:
        return self._typed(what, str, "text")

    def whole(self, what: str) -> int:
        return self._typed(what, int, "a whole number")

    def number(self, what: str) -> float:
        return float(self._typed(what, (int, float), "a number"))

    def _typed(self, what: str, kind: Any, words: str) -> Any:
        value = self.scalar()
        if isinstance(value, bool) or not isinstance(value, kind):
            raise self.error(f"{what} must be {words}; got {value!r}")
        return value

    def spelling(self) -> str:
        return {yaml.MappingNode: "keys and values", yaml.SequenceNode: "a list"}.get(type(self.node), "one value")


def find_suite(name: str) -> Path:
    """The file of a suite: a path as given, then `./suites/<name>.yaml`, then the suites that ship with the package.

    Raises UnknownNameError with the nearest name.
    """
    given = Path(name)
    if given.suffix in (".yaml", ".yml"):
        if not given.is_file():
            raise SuiteError(f"there is no suite file '{name}'; ttbench list suites shows those with a name")
        return given
    found = list_suites()
    if name not in found:
        raise UnknownNameError("suite", name, known=found)
    return found[name]


def list_suites() -> dict[str, Path]:
    """Suites that can be named: those in `./suites` and those that ship with the package."""
    package = Path(str(importlib.resources.files("ttbench")))
    # A wheel carries suites/ inside the package; a source tree has it beside.
    shipped = package / "suites" if (package / "suites").is_dir() else package.parent / "suites"
    return {
        path.stem: path
        for folder in (shipped, Path("suites"))
        for path in sorted(folder.glob("*.yaml"))
        if path.stem != "checkpoints"
    }


def load_suite(path: Path | str) -> Suite:
    """Read and check a suite. Raises SuiteError with file and line."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        # Aliases could build a value of any size out of a few lines.
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.AnchorToken | yaml.AliasToken):
                raise SuiteError(f"{path}:{token.start_mark.line + 1}: anchors and aliases are not allowed")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"cannot read suite {path}: {error}") from error
    except yaml.YAMLError as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error).splitlines()[0]
        raise SuiteError(f"{path}:{mark.line + 1 if mark else 1}: not YAML: {problem}") from error
    if node is None:
        raise SuiteError(f"{path}:1: the suite is empty; it needs title and tasks")
    top = _Node(str(path), node)
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
    )


def _read_task(node: _Node, *, shared: Mapping[str, _Node]) -> SuiteTask:
    own = node.mapping(_TASK_KEYS)
    if "task" not in own:
        raise node.error("key 'task' is missing")
    keys = {**shared, **own}
    name = own["task"].text("task")
    if name not in TASKS:
        raise SuiteError(str(UnknownNameError("task", name, known=TASKS, where=own["task"].where)))
    given = own["params"].mapping(None) if "params" in own else {}
    params = {key: value.scalar() for key, value in given.items()}
    try:
        read_params(TASKS.load(name), params, where={key: value.where for key, value in given.items()})
    except SuiteError:
        raise
    except UsageError as error:
        text = str(error)
        raise SuiteError(text if node.file in text else f"{node.where}: {text}") from error
    readers = {
        "checkpoints": _names,
        "ctx": _ctx,
        "corpus": _text,
        "dtype": _text,
        "engine": _text,
        "attention": _text,
        "seed": _whole,
        "batch_size": _whole,
        "threads": _whole,
        "timeout": _number,
    }
    values = {key: readers[key](key, value) for key, value in keys.items() if key in readers}
    return SuiteTask(task=name, params=params, where=node.where, **values)


def _names(key: str, node: _Node) -> tuple[str, ...]:
    return tuple(item.text(key) for item in node.items())


def _ctx(key: str, node: _Node) -> tuple[int, ...]:
    items = [item.scalar() for item in (node.items() if node.is_list() else [node])]
    try:
        return parse_ctx([str(item) for item in items])
    except UsageError as error:
        raise node.error(str(error)) from error


def _text(key: str, node: _Node) -> str:
    return node.text(key)


def _whole(key: str, node: _Node) -> int:
    return node.whole(key)


def _number(key: str, node: _Node) -> float:
    return node.number(key)
