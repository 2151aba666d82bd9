"""YAML read as dataclasses: pydantic checks every value by its field's type, and a mistake is named by its line.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Entry:
        name: Annotated[str, Field(pattern="^[a-z]+$", description="small letters")]
        format: Literal["torch", "gguf"] | None = None
        train_ctx: Annotated[int, Field(ge=1)] | None = None           # tokens
        domain: Annotated[str, Known("domain", ("code", "prose"))] = "code"

    entry = read(node, Entry)

A field without a default must be there, and no other key may be. `Known` lists the names that a text may be, so that a
misspelt one gets the nearest; `description` says in words what a pattern asks for. Torch-free.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from ttbench.errors import UnknownNameError
from ttbench.strict_yaml.nodes import Node

T = TypeVar("T")
_WORDS: Mapping[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
_UNIONS = (typing.Union, types.UnionType)


@dataclass(frozen=True, slots=True)
class Known:
    """The names that a text may be; another is an UnknownNameError."""

    noun: str
    names: tuple[str, ...]


def read(node: Node, kind: type[T], **given: Any) -> T:
    """A dataclass from a node of keys and values; `given` are fields that the file does not have.

    Raises SuiteError or UnknownNameError with file and line.
    """
    return build(node.mapping(keys_of(kind, given)), kind, at=node, **given)


def keys_of(kind: Any, given: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Keys that stand for the fields of a dataclass, without those `given` otherwise."""
    return tuple(field.name for field in dataclasses.fields(kind) if field.name not in (given or {}))


def build(keys: Mapping[str, Node], kind: type[T], *, at: Node, **given: Any) -> T:
    """As `read`, from the nodes of some fields; `at` is the place of what is missing."""
    hints = _hints(kind)
    for field in dataclasses.fields(typing.cast(Any, kind)):
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and field.name not in keys and field.name not in given:
            raise at.error(f"key '{field.name}' is missing")
    return kind(**given, **{name: value(node, hints[name], name) for name, node in keys.items()})


def value(node: Node, hint: Any, what: str) -> Any:
    """What a node holds, as its type; `what` is its name. Raises SuiteError or UnknownNameError with file and line."""
    inner, known = _unwrapped(hint)
    origin, arguments = typing.get_origin(inner), typing.get_args(inner)
    if inner is Any or (_is_optional(hint) and node.is_null()):
        return node.data()
    if dataclasses.is_dataclass(inner):
        return read(node, typing.cast("type[Any]", inner))
    if origin is tuple and arguments[-1] is Ellipsis:
        return tuple(value(item, arguments[0], what) for item in node.items())
    if origin is Mapping:
        of = _unwrapped(arguments[0])[1]
        pairs = node.mapping(None).items()
        return {_known(name, of, at=each): value(each, arguments[1], f"{what} of {name}") for name, each in pairs}
    data = node.data()
    try:
        # In JSON a list may be a tuple, which strict checks of Python's own values refuse.
        found = _adapter(hint).validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise node.error(f"{what} must be {wanted(hint)}; got {data!r}") from error
    return _known(found, known, at=node)


def wanted(hint: Any) -> str:
    """What a value of a type is, in words: `a whole number of at least 1`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        described = next((each for each in arguments[1:] if isinstance(each, FieldInfo)), None)
        if described is None:
            return wanted(arguments[0])
        found = [(name, getattr(each, name, None)) for each in described.metadata for name in _BOUNDS]
        bounds = [f"{_BOUNDS[name]} {bound}" for name, bound in found if bound is not None]
        words = wanted(arguments[0]) + (f" of {' and '.join(bounds)}" if bounds else "")
        return described.description or words
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in _UNIONS:
        return " or ".join(wanted(part) for part in arguments if part is not type(None))
    if origin is tuple:
        return f"a list of {len(arguments)}: {', '.join(wanted(part) for part in arguments)}"
    return _WORDS[hint]


def _is_optional(hint: Any) -> bool:
    return typing.get_origin(hint) in _UNIONS and type(None) in typing.get_args(hint)


def _unwrapped(hint: Any) -> tuple[Any, Known | None]:
    """A type without what annotates it and without None, and the names that it allows."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in _UNIONS:
        parts = [part for part in arguments if part is not type(None)]
        return _unwrapped(parts[0]) if len(parts) == 1 else (hint, None)
    if origin is Annotated:
        return arguments[0], next((each for each in arguments[1:] if isinstance(each, Known)), None)
    return hint, None


def _known(found: Any, known: Known | None, *, at: Node) -> Any:
    if known is not None and found is not None and found not in known.names:
        raise UnknownNameError(known.noun, found, known=known.names, where=at.where)
    return found


@functools.cache
def _hints(kind: type[Any]) -> Mapping[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)
