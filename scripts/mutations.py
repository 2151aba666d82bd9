"""Small changes to a module's source, each of which some test should notice.

`mutations(source)` lists them: comparisons, arithmetic, constants, bounds of slices and ranges, boolean operators,
conditions, keyword arguments left out, functions swapped for a neighbour (log for log10, min for max), statements
left out. Annotations, docstrings, messages of exceptions and f-strings are left alone: they compute nothing.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
ARITHMETIC = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
}
NEIGHBOURS = {
    **{"log": "log10", "log2": "log", "log1p": "log", "exp": "exp2", "expm1": "exp", "sqrt": "square"},
    **{"min": "max", "max": "min", "amin": "amax", "amax": "amin", "argmin": "argmax", "argmax": "argmin"},
    **{"any": "all", "all": "any", "floor": "ceil", "ceil": "floor", "mean": "sum", "median": "mean"},
    **{"tril": "triu", "triu": "tril", "zeros": "ones", "ones": "zeros", "sorted": "list", "sigmoid": "tanh"},
    **{"cumsum": "cumprod", "softmax": "log_softmax", "softplus": "relu", "unsqueeze": "squeeze"},
}
# Keyword arguments that compute nothing: words for people, and the guard of zip.
WORDS = {"strict", "label", "title", "help", "description", "why", "reason", "unit", "name", "noun"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One change to one module."""

    line: int
    function: str  # dotted; "" at the level of the module
    before: str  # the line as it is
    after: str  # the line as it becomes
    source: str  # the whole module afterwards

    def key(self, path: str) -> str:
        """The same for the same change, wherever in the file the line stands."""
        text = "\n".join((path, self.function, self.before.strip(), self.after.strip()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def compiles(self) -> bool:
        """Whether it is Python still; asked of those that are tried, since it costs far more than to make them."""
        try:
            compile(self.source, "mutant", "exec", dont_inherit=True)
        except SyntaxError:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Edit:
    """Characters [start, end) of the source become `text`."""

    start: int
    end: int
    text: str


def mutations(source: str) -> list[Mutation]:
    """Every mutation of a module, in the order of the source."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    found: dict[str, Mutation] = {}
    for edit, function in finder.edits:
        changed = source[: edit.start] + edit.text + source[edit.end :]
        line = source.count("\n", 0, edit.start)
        before, after = source.splitlines()[line], changed.splitlines()[line]
        made = Mutation(line=line + 1, function=function, before=before, after=after, source=changed)
        found.setdefault(made.key(""), made)
    return list(found.values())


class _Finder(ast.NodeVisitor):
    """Collects the edits of each node, and passes over what computes nothing."""

    def __init__(self, source: str) -> None:
        self.source, self.edits = source, list[tuple[Edit, str]]()
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self._bytes = [line.encode() for line in source.splitlines()]
        self._names: list[str] = []

    def visit(self, node: ast.AST) -> None:
        """The node's own edits, then those of its children."""
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
            return
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if named:
            self._names.append(node.name)
        self.edits += [(edit, ".".join(self._names)) for edit in self._edits(node)]
        for child in self._children(node):
            self.visit(child)
        if named:
            self._names.pop()

    def _children(self, node: ast.AST) -> Iterator[ast.AST]:
        skipped = {"annotation", "returns", "decorator_list"}
        for name, value in ast.iter_fields(node):
            if name not in skipped:
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.keyword) and child.arg in WORDS:
                        continue
                    if isinstance(child, ast.AST):
                        yield child

    def _at(self, line: int, column: int) -> int:
        """Character of a position that ast counts in bytes."""
        return self._lines[line - 1] + len(self._bytes[line - 1][:column].decode())

    def _start(self, node: ast.AST) -> int:
        return self._at(node.lineno, node.col_offset)  # type: ignore[attr-defined]

    def _end(self, node: ast.AST) -> int:
        return self._at(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    def _text(self, node: ast.AST) -> str:
        return self.source[self._start(node) : self._end(node)]

    def _between(self, left: ast.AST, right: ast.AST, swap: tuple[str, str]) -> Iterator[Edit]:
        """The operator between two operands."""
        start, end = self._end(left), self._start(right)
        old, new = swap
        word = rf"\b{old}\b" if old.isalpha() else re.escape(old)
        match = re.search(word.replace(r"is not", r"is\s+not"), self.source[start:end])
        if match:
            yield Edit(start + match.start(), start + match.end(), new)

    def _edits(self, node: ast.AST) -> Iterator[Edit]:
        match node:
            case ast.Compare():
                operands = [node.left, *node.comparators]
                for left, operation, right in zip(operands, node.ops, operands[1:], strict=False):
                    yield from self._between(left, right, COMPARISONS[type(operation)])
            case ast.BinOp() if type(node.op) in ARITHMETIC and not self._is_text(node):
                yield from self._between(node.left, node.right, ARITHMETIC[type(node.op)])
            case ast.AugAssign() if type(node.op) in ARITHMETIC and not self._is_text(node):
                old, new = ARITHMETIC[type(node.op)]
                yield from self._between(node.target, node.value, (f"{old}=", f"{new}="))
            case ast.BoolOp():
                swap = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
                for left, right in zip(node.values, node.values[1:], strict=False):
                    yield from self._between(left, right, swap)
            case ast.UnaryOp(op=ast.Not() | ast.USub()):
                yield Edit(self._start(node), self._end(node), f"({self._text(node.operand)})")
            case ast.Constant():
                yield from self._constant(node)
            case ast.If() | ast.IfExp():
                yield self._wrap(node.test, "not ({})")
            case ast.Slice():
                yield from (self._wrap(bound, "({}) + 1") for bound in (node.lower, node.upper) if self._moves(bound))
            case ast.Call():
                yield from self._call(node)
            case ast.Expr(value=ast.Call()) | ast.Continue() | ast.Break():
                yield Edit(self._start(node), self._end(node), "pass")

    @staticmethod
    def _is_text(node: ast.BinOp | ast.AugAssign) -> bool:
        parts = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.value]
        return any(
            isinstance(p, ast.JoinedStr) or (isinstance(p, ast.Constant) and type(p.value) is str) for p in parts
        )

    def _wrap(self, node: ast.AST, form: str) -> Edit:
        return Edit(self._start(node), self._end(node), form.format(self._text(node)))

    @staticmethod
    def _moves(bound: ast.AST | None) -> bool:
        """Constants are moved by themselves."""
        return bound is not None and not any(isinstance(each, ast.Constant) for each in (bound, *ast.walk(bound)))

    def _constant(self, node: ast.Constant) -> Iterator[Edit]:
        value = node.value
        if isinstance(value, bool):
            yield Edit(self._start(node), self._end(node), str(not value))
        elif isinstance(value, int):
            yield Edit(self._start(node), self._end(node), str(value + 1))
            if value > 1:
                yield Edit(self._start(node), self._end(node), str(value - 1))
        elif isinstance(value, float):
            yield Edit(self._start(node), self._end(node), repr(value * 2 or 1.0))

    def _call(self, node: ast.Call) -> Iterator[Edit]:
        name = node.func
        text = name.attr if isinstance(name, ast.Attribute) else name.id if isinstance(name, ast.Name) else ""
        if text in NEIGHBOURS:
            yield Edit(self._end(name) - len(text), self._end(name), NEIGHBOURS[text])
        if text == "range":
            yield from (self._wrap(bound, "({}) + 1") for bound in node.args if self._moves(bound))
        for keyword in node.keywords:
            if keyword.arg is not None and keyword.arg not in WORDS:
                start, end = self._start(keyword), self._end(keyword)
                comma = re.match(r"\s*,\s*", self.source[end:])
                if comma:
                    yield Edit(start, end + comma.end(), "")
                else:
                    before = re.search(r",?\s*$", self.source[:start])
                    yield Edit(start if before is None else before.start(), end, "")
