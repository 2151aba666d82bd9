"""Whether a model's code can be captured at all, asked without a GPU: the model runs on torch's meta device.

There tensors have shapes and no values, so a sync cannot be answered by chance. Each step and each chunk that may be
replayed runs twice in each variant, after few and after many tokens, and what is found is told by name:

- operations that hand values to the host, make shapes out of values, or copy between host and device (`syncs`);
- operations whose shapes or numbers differ between two runs of one variant: a position that Python knows, a shape that
  grows. A graph would repeat those of the first for ever;
- in the source of every function that ran operations: `torch.tensor` and its like with a device, which copy from the
  host and leave no trace on the meta device, and assignments under a mask.

What it cannot see is told by a tape (`ttbench.engines.graph.tape`): numbers that are wrong.
"""

from __future__ import annotations

import ast
import copy
import functools
import inspect
import sys
import sysconfig
import textwrap
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from ttbench.engines.graph import syncs
from ttbench.models.base import SequenceModel, State

BATCH_SIZE = 2
MOST_TOKENS = 600  # of a state: two buckets of attention
_FROM_HOST = ("tensor", "as_tensor", "asarray", "from_numpy")  # of torch
_TORCH = str(Path(torch.__file__).parent)
_STDLIB = sysconfig.get_path("stdlib")
_OWN = (__file__, syncs.__file__)

# One operation: its name, and its arguments and results with shapes in place of tensors.
Trace = tuple[str, Any, Any]


def lint_step(model: SequenceModel) -> list[str]:
    """Why steps of a model cannot be captured, each reason once; empty: nothing was found."""
    places: dict[int, list[int]] = {}
    for num_tokens in range(MOST_TOKENS):
        places.setdefault(model.step_variant(num_tokens), []).append(num_tokens)
    ids = torch.zeros(BATCH_SIZE, dtype=torch.int64, device="meta")
    return _lint(model, "step", places, lambda model, state, variant: model.step(ids, state, variant))


def lint_forward(model: SequenceModel, chunk_len: int) -> list[str] | None:
    """The same of forwards over `chunk_len` tokens after each other that may be replayed; None: none of them may."""
    places: dict[int, list[int]] = {}
    for num_tokens in range(0, MOST_TOKENS - chunk_len, chunk_len):
        variant = model.forward_variant(num_tokens, chunk_len)
        if variant is not None:
            places.setdefault(variant, []).append(num_tokens)
    if not places:
        return None
    ids = torch.zeros(BATCH_SIZE, chunk_len, dtype=torch.int64, device="meta")
    return _lint(model, "prefill", places, lambda model, state, variant: model.prefill(ids, state))


@functools.cache
def lint_source(code: CodeType) -> tuple[str, ...]:
    """What the source of one function does that no run on the meta device shows."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, SyntaxError):
        # made at run time, or a lambda inside of an expression, which is read with the function around it
        return ()
    where = f"{Path(code.co_filename).name}:{code.co_firstlineno} {code.co_name}"
    return tuple(f"{where}: {what}" for node in ast.walk(tree) for what in from_host(node) + _masked_store(node))


def _lint(
    model: SequenceModel,
    what: str,
    places: dict[int, list[int]],
    call: Callable[[SequenceModel, State, int], Tensor],
) -> list[str]:
    model = copy.deepcopy(model).to("meta")
    found: dict[str, None] = {}
    functions: set[CodeType] = set()
    for variant, numbers in places.items():
        first: list[Trace] | None = None
        for num_tokens in sorted({numbers[0], numbers[-1]}):
            state = model.new_state(BATCH_SIZE, MOST_TOKENS)
            state.num_tokens = num_tokens
            recording = _Recording(functions)
            try:
                with torch.no_grad(), recording:
                    call(model, state, variant)
            # Whatever a model raises because its tensors have no values; that it runs on a CPU is tested elsewhere.
            except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
                reason = str(error).partition("\n")[0]
                found |= dict.fromkeys([*recording.found, f"{what}: {type(error).__name__}: {reason}"])
                break
            found |= dict.fromkeys(recording.found)
            first = first or recording.traces
            difference = _difference(first, recording.traces)
            if difference is not None:
                found[f"{what}, variant {variant}: after {numbers[0]} and {num_tokens} tokens {difference}"] = None
    for code in sorted(functions, key=lambda code: (code.co_filename, code.co_firstlineno)):
        if code.co_filename not in _OWN and not _is_library(code.co_filename):
            found |= dict.fromkeys(lint_source(code))
    return list(found)


def _difference(first: list[Trace], other: list[Trace]) -> str | None:
    """Where two runs part."""
    for one, two in zip(first, other, strict=False):
        if one != two:
            return (
                f"{one[0]} differs: {_short(one[1:])} and {_short(two[1:])}"
                if one[0] == two[0]
                else (f"another operation runs: {one[0]} and {two[0]}")
            )
    return None if len(first) == len(other) else f"{len(first)} and {len(other)} operations run"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class _Recording(TorchDispatchMode):
    """Writes down every operation, what is wrong with it, and the functions that it was called from."""

    def __init__(self, functions: set[CodeType]) -> None:
        super().__init__()
        self._functions = functions
        self.traces: list[Trace] = []
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        frame = sys._getframe(1)
        while frame is not None and frame.f_code is not _lint.__code__:
            self._functions.add(frame.f_code)
            frame = frame.f_back
        self._note(syncs.before(func, args, kwargs))
        out = func(*args, **kwargs)
        self._note(syncs.after(func, args, kwargs, out))
        self.traces.append((func.name(), *(tree_map(_described, part) for part in ((args, kwargs), out))))
        return out

    def _note(self, why: str | None) -> None:
        if why is not None:
            self.found.append(f"{_caller()}: {why}")


def _described(leaf: Any) -> Any:
    """A tensor by what a graph fixes of it; anything else by its own words, so that NaN equals itself."""
    if isinstance(leaf, Tensor):
        return "tensor", tuple(leaf.shape), leaf.stride(), leaf.dtype
    return repr(leaf)


def _caller() -> str:
    """The place in the model's code that is being run."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename not in _OWN and not _is_library(frame.filename):
            return f"{Path(frame.filename).name}:{frame.lineno} {frame.name}"
    return "torch"


def _is_library(filename: str) -> bool:
    """Whether a file is torch's or Python's, or no file at all."""
    if filename.startswith((_TORCH, "<")):
        return True
    return filename.startswith(_STDLIB) and "site-packages" not in filename


def from_host(node: ast.AST) -> list[str]:
    """Calls that make a tensor on a device out of numbers of Python or of numpy."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return []
    name, owner = node.func.attr, node.func.value
    placed = any(keyword.arg == "device" for keyword in node.keywords)
    of_torch = isinstance(owner, ast.Name) and owner.id == "torch"
    if (of_torch and name in _FROM_HOST and placed) or name == "new_tensor":
        return [f"line {node.lineno} of it: {ast.unparse(node.func)} on a device copies from the host"]
    return []


def _masked_store(node: ast.AST) -> list[str]:
    """Assignments to the places where a comparison holds."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
    return [
        f"line {target.lineno} of it: {ast.unparse(target)} is written under a mask"
        for target in targets
        if isinstance(target, ast.Subscript) and any(map(_is_mask, _indices(target.slice)))
    ]


def _indices(index: ast.expr) -> Iterable[ast.expr]:
    return index.elts if isinstance(index, ast.Tuple) else [index]


def _is_mask(index: ast.expr) -> bool:
    """Whether an index is a comparison, or made of one by ~, & or |."""
    if isinstance(index, ast.Compare):
        return True
    if isinstance(index, ast.UnaryOp):
        return isinstance(index.op, ast.Invert | ast.Not)
    if isinstance(index, ast.BinOp) and isinstance(index.op, ast.BitAnd | ast.BitOr | ast.BitXor):
        return _is_mask(index.left) or _is_mask(index.right)
    return False
