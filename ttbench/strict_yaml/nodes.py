"""The YAML files of suites/: where they are, and how they are read. Data only: no tags, no aliases, no key twice.

Everything wrong is a SuiteError that names file and line. Torch-free.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from ttbench.errors import SuiteError, UnknownNameError
from ttbench.types import Scalar

CATALOGUE = "checkpoints.yaml"
_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")}


def suite_folders() -> tuple[Path, Path]:
    """The folder of suites that ships with the package, and `./suites`; what the second holds goes first."""
    return package_folder("suites"), Path("suites")


def package_folder(name: str) -> Path:
    """A folder of data that ships with the package: a wheel carries it inside, a source tree has it beside."""
    package = Path(str(importlib.resources.files("ttbench")))
    return package / name if (package / name).is_dir() else package.parent / name


def read_yaml(path: Path, *, noun: str, needs: str) -> Node:
    """The top node of a file; `noun` and `needs` are for messages. Raises SuiteError with file and line."""
    try:
        text = path.read_text(encoding="utf-8")
        # Aliases could build a value of any size out of a few lines.
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, yaml.AnchorToken | yaml.AliasToken):
                raise SuiteError(f"{path}:{token.start_mark.line + 1}: anchors and aliases are not allowed")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"cannot read {noun} {path}: {error}") from error
    except yaml.YAMLError as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error).splitlines()[0]
        raise SuiteError(f"{path}:{mark.line + 1 if mark else 1}: not YAML: {problem}") from error
    if node is None:
        raise SuiteError(f"{path}:1: the {noun} is empty; it needs {needs}")
    return Node(str(path), node)


class Node:
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

    def is_scalar(self) -> bool:
        return isinstance(self.node, yaml.ScalarNode)

    def scalar(self) -> Scalar:
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.error(f"expected one value; got {self.spelling()}")
        return SafeConstructor().construct_object(self.node)

    def data(self) -> Any:
        """The whole value as plain data."""
        if isinstance(self.node, yaml.MappingNode):
            return {key: node.data() for key, node in self.mapping(None).items()}
        return [node.data() for node in self.items()] if self.is_list() else self.scalar()

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
