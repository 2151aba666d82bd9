"""The YAML files of suites/ and recipes: where they are, and how they are read. Data only: no tags, no key twice.

Everything wrong is a SuiteError that names file and line. Torch-free.
"""

from __future__ import annotations

import importlib.resources
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from ttbench.errors import SuiteError, UnknownNameError
from ttbench.types import Scalar

CATALOGUE = "checkpoints.yaml"
MAX_VALUES = 100_000  # of a file whose aliases are written out: aliases of aliases grow as powers
_TAG = "tag:yaml.org,2002:"
_TAGS = {f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}
_NUMBERS = {f"{_TAG}int", f"{_TAG}float"}
# Octal with a leading zero, and to the base of 60: `010` is 8, and `1:30` is 90.
_UNCLEAR = re.compile(r"[-+]?0[0-9_]+|[-+]?[0-9][0-9_]*(:[0-9][0-9_]*)+(\.[0-9_]*)?")
# 1e-3 and 1.5e3, which YAML 1.1 takes for text.
_POWER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")


def suite_folders() -> tuple[Path, Path]:
    """The folder of suites that ships with the package, and `./suites`; what the second holds goes first."""
    return package_folder("suites"), Path("suites")


def package_folder(name: str) -> Path:
    """A folder of data that ships with the package: a wheel carries it inside, a source tree has it beside."""
    package = Path(str(importlib.resources.files("ttbench")))
    return package / name if (package / name).is_dir() else package.parent / name


def read_yaml(path: Path, *, noun: str, needs: str, aliases: bool = False) -> Node:
    """The top node of a file.

    Args:
        path: of the file.
        noun, needs: what the file is, and what it must hold, for messages.
        aliases: whether `*name` may repeat a value and `<<: *name` a mapping's keys.

    Raises SuiteError with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        for token in () if aliases else yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.AnchorToken | yaml.AliasToken):
                raise SuiteError(f"{path}:{token.start_mark.line + 1}: anchors and aliases are not allowed")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"cannot read {noun} {path}: {error}") from error
    except RecursionError as error:
        raise SuiteError(f"{path}:1: lists or mappings are nested too deeply") from error
    except yaml.YAMLError as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error).splitlines()[0]
        raise SuiteError(f"{path}:{mark.line + 1 if mark else 1}: not YAML: {problem}") from error
    if node is None:
        raise SuiteError(f"{path}:1: the {noun} is empty; it needs {needs}")
    if aliases:
        _write_out(node, str(path), {})
    return Node(str(path), node)


def _write_out(node: yaml.Node, file: str, done: dict[int, int]) -> int:
    """Merge the keys of `<<` into their mappings, in place. Returns how many values the node stands for.

    `done` has that of nodes read before by their identity, 0 while they are being read.
    """
    if id(node) in done:
        if done[id(node)] == 0:
            raise Node(file, node).error("an alias stands inside of what it repeats")
        return done[id(node)]
    done[id(node)] = 0
    number = 1
    if isinstance(node, yaml.SequenceNode):
        number += sum(_write_out(item, file, done) for item in node.value)
    elif isinstance(node, yaml.MappingNode):
        merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        own: list[tuple[yaml.Node, yaml.Node]] = []
        for key, value in node.value:
            number += _write_out(value, file, done)
            if key.tag != f"{_TAG}merge":
                own.append((key, value))
            elif isinstance(value, yaml.MappingNode):
                merged |= {str(theirs.value): (theirs, of) for theirs, of in value.value}
            else:
                raise Node(file, value).error("<< is followed by *NAME of keys and values")
        # A key of its own goes before one that is merged, in the place of that one; written twice, it is found later.
        first = {str(key.value): (key, value) for key, value in reversed(own)}
        merged |= {str(key.value): first[str(key.value)] for key, _ in own}
        node.value = [*merged.values(), *(pair for pair in own if pair != first[str(pair[0].value)])]
    if number > MAX_VALUES:
        raise Node(file, node).error(f"aliases make more than {MAX_VALUES} values; write fewer")
    done[id(node)] = number
    return number


def read_value(text: str) -> Scalar:
    """One value as YAML writes it; what is no single value is text. Raises ValueError for an unclear number."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return text
    if not isinstance(node, yaml.ScalarNode) or node.tag not in _TAGS or node.start_mark.index or _is_tagged(node):
        return text
    return _constructed(node)


def _constructed(node: yaml.ScalarNode) -> Scalar:
    """The value of a node. Raises ValueError for a tag, and for a number that YAML 1.1 and its readers count unlike."""
    if _is_tagged(node):
        raise ValueError(f"tags are not allowed; write {node.value} without !!{node.tag.removeprefix(_TAG)}")
    if node.tag in _NUMBERS and _UNCLEAR.fullmatch(node.value):
        raise ValueError(f"{node.value} is another number in YAML 1.1 than it looks; write it in decimal, or in quotes")
    if node.style is None and _POWER.fullmatch(node.value):
        if math.isinf(float(node.value)):
            raise ValueError(f"{node.value} is more than a number can be")
        return float(node.value)
    try:
        return SafeConstructor().construct_object(node)
    except ValueError as error:
        raise ValueError(f"'{node.value[:40]}' is no number that can be read: {error}") from error


def _is_tagged(node: yaml.ScalarNode) -> bool:
    """Whether the kind of a value was written before it, as in `!!int 2`."""
    mark = node.start_mark
    return bool(mark.buffer is not None and mark.buffer[mark.pointer] == "!")


class Node:
    """A YAML node that knows its place and complains by it."""

    def __init__(self, file: str, node: yaml.Node) -> None:
        self.file, self.node = file, node
        if node.tag not in _TAGS:
            raise self.error(f"a value of kind '{node.tag.removeprefix(_TAG)}' is not allowed; put it in quotes")

    @property
    def where(self) -> str:
        return f"{self.file}:{self.node.start_mark.line + 1}"

    def error(self, message: str) -> SuiteError:
        return SuiteError(f"{self.where}: {message}")

    def mapping(self, known: Iterable[str] | None) -> dict[str, Node]:
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(f"expected keys and values; got {self.spelling()}")
        found: dict[str, Node] = {}
        for key_node, value_node in self.node.value:
            key, value = Node(self.file, key_node), Node(self.file, value_node)
            name = key.text("a key")
            if known is not None and name not in known:
                raise SuiteError(str(UnknownNameError("key", name, known=known, where=key.where)))
            if name in found:
                raise key.error(f"key '{name}' is written twice")
            found[name] = value
        return found

    def items(self) -> list[Node]:
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error(f"expected a list; got {self.spelling()}")
        return [Node(self.file, node) for node in self.node.value]

    def is_list(self) -> bool:
        return isinstance(self.node, yaml.SequenceNode)

    def is_null(self) -> bool:
        return self.node.tag == f"{_TAG}null"

    def scalar(self) -> Scalar:
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.error(f"expected one value; got {self.spelling()}")
        try:
            return _constructed(self.node)
        except ValueError as error:
            raise self.error(str(error)) from error

    def data(self) -> Any:
        """The whole value as plain data."""
        if isinstance(self.node, yaml.MappingNode):
            return {key: node.data() for key, node in self.mapping(None).items()}
        return [node.data() for node in self.items()] if self.is_list() else self.scalar()

    def text(self, what: str) -> str:
        value = self.scalar()
        if not isinstance(value, str):
            raise self.error(f"{what} must be text; got {value!r}")
        return value

    def spelling(self) -> str:
        return {yaml.MappingNode: "keys and values", yaml.SequenceNode: "a list"}.get(type(self.node), "one value")
