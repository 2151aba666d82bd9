"""What a test must leave as it found it, and what it must not see of the machine: a pytest plugin.

    isolate()         the user's home, caches and plug-ins are out of sight
    check_shapes()    what annotations say of shapes and dtypes is checked when functions are called
    poison()          memory that torch has not initialised is NaN, or the greatest integer
    as_a_process()    what a command pins for its process ends with the command
    unchanged(where)  global state is put back, and a change of it is an error that names what changed

Random states are put back without a word, since drawing from them is no fault. Filters of warnings are pytest's own to
put back, after each test.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import importlib.metadata
import importlib.util
import inspect
import logging
import operator
import os
import random
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, UnionType
from typing import Any, Self, Union, get_args, get_origin

import beartype
import beartype.door
import jaxtyping
import numpy as np
import pytest
import torch
import torch.utils._device
from typer.testing import CliRunner
from typing_extensions import is_protocol

# The folder that stands for the home of the user; processes of one session share it.
HOME = "TTBENCH_TEST_HOME"
# Variables that would lead to caches and settings elsewhere.
ELSEWHERE = ("XDG_DATA_HOME", "XDG_STATE_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_ASSETS_CACHE", "HF_TOKEN_PATH")
ELSEWHERE += ("HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "PYTORCH_TRANSFORMERS_CACHE", "MPLCONFIGDIR", "MPLBACKEND")
# What other packages may add to.
PLUG_INS = ("architectures", "tasks", "corpora", "engines", "exporters")
# pytest names the test here, and libraries mark that they were imported: sklearn, lm-eval, torch's inductor.
OWN_VARIABLES = ("PYTEST_CURRENT_TEST", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "HF_XET_HIGH_PERFORMANCE")
OWN_VARIABLES += ("TORCHINDUCTOR_CACHE_DIR",)
# The logger that `ttbench.engines.hf.hf_checkpoint` silences when it is imported.
SILENCED = "transformers"


# A float may be an int, as everywhere in Python.
CONF = beartype.BeartypeConf(is_pep484_tower=True)
_check = beartype.beartype(conf=CONF)
# Calls of each function in one test. The first ones are checked, then the 8th, the 16th, the 32nd and so on: what is
# called for each token of a long text, or each step of a training, seldom says more when it is called again.
NUM_CHECKED = 4
calls: Counter[Callable[..., Any]] = Counter()
# Within it, a letter of a shape stands for one length. Taken before the hook's decorator stands in this name's place.
_SHAPES = jaxtyping.jaxtyped("context")
# A name for annotations of jaxtyping: `Ids = Int[np.ndarray, "T"]`.
_ALIAS = re.compile(r"^(\w+) = .*\b(?:Bool|Float|Int|UInt|Shaped)\[", re.MULTILINE)


# What tests do not see


def isolate() -> None:
    """Give this process, and those it starts, an empty home and empty caches. Call it before libraries are imported."""
    if HOME not in os.environ:
        os.environ[HOME] = tempfile.mkdtemp(prefix="ttbench-home-")
    home = Path(os.environ[HOME])
    for name in ELSEWHERE:
        os.environ.pop(name, None)
    os.environ["HOME"] = str(home)
    # An image of a container may forbid it, and every process that tests start would compile torch anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # Commands that tests run in processes of their own would measure this machine first, some seconds each.
    os.environ.setdefault("TTBENCH_MEASURE_RATES", "0")
    for name, folder in (("XDG_CACHE_HOME", ".cache"), ("XDG_CONFIG_HOME", ".config"), ("HF_HOME", "huggingface")):
        os.environ[name] = str(home / folder)
    if os.environ.get("TTBENCH_TEST_PLUG_INS") != "1":
        _hide_plug_ins()


def _hide_plug_ins() -> None:
    """Entry points that were installed before the tests began are out of sight; what a test installs is not.

    TTBENCH_TEST_PLUG_INS=1 leaves them in sight, for who wants conformance to run on theirs.
    """
    find = importlib.metadata.entry_points
    hidden = {entry for noun in PLUG_INS for entry in find(group=f"ttbench.{noun}")}

    def visible(**wanted: Any) -> importlib.metadata.EntryPoints:
        found: Any = find(**wanted)
        if hasattr(found, "load"):  # Python 3.11, asked for every group at once, as Triton does
            every = [entry for group in dict.values(found) for entry in group]
            return type(found).load(entry for entry in every if entry not in hidden)
        return importlib.metadata.EntryPoints(entry for entry in found if entry not in hidden)

    if hidden:
        importlib.metadata.entry_points = visible


def check_shapes() -> None:
    """Check what annotations say, of arguments and results, of every function of ttbench that names shapes.

    Modules that are there already are not: call it before any is imported.
    """
    jaxtyping.install_import_hook(shaped_modules(), None)
    # What the hook decorates every function and class with, by this name.
    jaxtyping.jaxtyped = lambda typechecker: checked


def shaped_modules() -> list[str]:
    """The modules that import jaxtyping, or a name that stands for one of its annotations elsewhere.

    There is none in `kernels/fused/`, whose functions Triton reads as text.
    """
    package = importlib.util.find_spec("ttbench")
    assert package is not None
    assert package.origin is not None
    root = Path(package.origin).parent
    texts = {
        ".".join(path.relative_to(root.parent).with_suffix("").parts): path.read_text(encoding="utf-8")
        for path in root.rglob("*.py")
    }
    named = {name for name, text in texts.items() if re.search(r"^from jaxtyping import ", text, re.MULTILINE)}
    aliases = [(name, alias) for name in named for alias in _ALIAS.findall(texts[name])]
    imports = [rf"^from {re.escape(name)} import (?:\([^)]*|.*)\b{alias}\b" for name, alias in aliases]
    anywhere = re.compile("|".join(imports), re.MULTILINE)
    return sorted(named | {name for name, text in texts.items() if anywhere.search(text)})


def checked(made: Any) -> Any:
    """The function, or dataclass, whose annotations are checked at some of its calls in a test, if they name a shape.

    jaxtyping's own decorator takes every function, binds its arguments and checks them twice, which doubled the time
    of tests that run models: types without a shape are for the type checker, which has seen them all.
    """
    if isinstance(made, type):
        if dataclasses.is_dataclass(made):
            made.__init__ = checked(made.__init__)
        return made
    hints = {name: _resolved(hint, made.__globals__) for name, hint in made.__annotations__.items()}
    if not any(map(names_a_shape, hints.values())):
        return made
    twin = FunctionType(made.__code__, made.__globals__, made.__name__, made.__defaults__, made.__closure__)
    twin.__dict__ |= made.__dict__
    twin.__module__, twin.__qualname__, twin.__kwdefaults__ = made.__module__, made.__qualname__, made.__kwdefaults__
    twin.__annotations__ = {name: _checkable(hint) for name, hint in hints.items()}
    # The arguments of a generator would be looked at when it is first asked, amidst the lengths of who asks.
    check = _arguments_checked(twin) if inspect.isgeneratorfunction(made) else _check(twin)

    @functools.wraps(made)
    def call(*args: Any, **kwargs: Any) -> Any:
        calls[made] += 1
        if jaxtyping.config.jaxtyping_disable or not is_checked(calls[made]):
            return made(*args, **kwargs)
        with _SHAPES:
            return check(*args, **kwargs)

    return call


def is_checked(call: int) -> bool:
    """Whether a function's call of this number in a test is looked at, counted from 1."""
    return call <= NUM_CHECKED or call & (call - 1) == 0


def _arguments_checked(made: FunctionType) -> Callable[..., Any]:
    signature = inspect.signature(made)

    def call(*args: Any, **kwargs: Any) -> Any:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            beartype.door.die_if_unbearable(value, made.__annotations__.get(name, Any), conf=CONF)
        return made(*args, **kwargs)

    return call


def _resolved(hint: Any, names: dict[str, Any]) -> Any:
    """What an annotation stands for; `Any` where its names are not there yet, or only for the type checker."""
    try:
        return eval(hint, names) if isinstance(hint, str) else hint
    except (NameError, AttributeError):
        return Any


def names_a_shape(hint: object) -> bool:
    """Whether a type is one of jaxtyping's, or is made of one."""
    own = isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)
    return own or any(map(names_a_shape, get_args(hint)))


def _checkable(hint: Any) -> Any:
    """The hint with `object` in place of `Self` and of protocols, which are for the type checker."""
    if get_origin(hint) in (Union, UnionType):
        return functools.reduce(operator.or_, map(_checkable, get_args(hint)))
    if hint is Self:
        return object
    try:
        isinstance(None, hint)
    except TypeError:
        return object if isinstance(hint, type) and is_protocol(hint) else hint
    return hint


def poison() -> None:
    """Fill what `torch.empty` and its like return, so that reading it before writing it shows."""
    # `torch.device` as a context knows the functions it steers by those that stand in torch when it is first used.
    torch.utils._device._device_constructors()
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch, "empty_strided"), (torch.Tensor, "new_empty")):
        setattr(owner, name, _poisoned(getattr(owner, name)))


def _poisoned(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
        tensor = make(*args, **kwargs)
        if tensor.is_meta or not tensor.numel():
            return tensor
        with torch.no_grad():
            if tensor.is_floating_point() or tensor.is_complex():
                tensor.fill_(float("nan"))
            elif tensor.dtype is not torch.bool:
                tensor.fill_(torch.iinfo(tensor.dtype).max)
        return tensor

    return poisoned


# What tests leave alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One piece of global state."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


def _denormals_are_flushed() -> bool:
    return bool((torch.tensor(2.0**-126) * 0.5 == 0).item())


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}


def _set_variables(values: dict[str, str]) -> None:
    for name in set(_variables()) - set(values):
        del os.environ[name]
    os.environ.update(values)


def _signals() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}}


def _set_signals(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def _loggers() -> dict[str, logging.Logger]:
    named = {
        name: found for name, found in logging.root.manager.loggerDict.items() if isinstance(found, logging.Logger)
    }
    return {"root": logging.root, **{name: logger for name, logger in named.items() if name != SILENCED}}


def _logging() -> dict[str, tuple[Any, ...]]:
    """Level, handlers and switches of each logger; not the handlers with which pytest captures."""
    found: dict[str, tuple[Any, ...]] = {"(all)": (logging.root.manager.disable,)}
    for name, logger in _loggers().items():
        handlers = tuple(each for each in logger.handlers if not type(each).__module__.startswith("_pytest."))
        found[name] = (logger.level, logger.propagate, logger.disabled, handlers)
    return found


def _set_logging(settings: dict[str, tuple[Any, ...]]) -> None:
    logging.disable(settings["(all)"][0])
    for name, logger in _loggers().items():
        if name in settings:
            level, logger.propagate, logger.disabled, handlers = settings[name]
            logger.setLevel(level)
            for handler in [each for each in logger.handlers if not type(each).__module__.startswith("_pytest.")]:
                logger.removeHandler(handler)
            for handler in handlers:
                logger.addHandler(handler)


def _set_path(value: list[str]) -> None:
    sys.path[:] = value


PIECES = (
    Piece(name="threads of torch", read=torch.get_num_threads, write=torch.set_num_threads),
    Piece(name="flushing of denormals", read=_denormals_are_flushed, write=torch.set_flush_denormal),
    Piece(name="default dtype of torch", read=torch.get_default_dtype, write=torch.set_default_dtype),
    Piece(name="gradients", read=torch.is_grad_enabled, write=torch.set_grad_enabled),
    Piece(
        name="deterministic algorithms",
        read=lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        write=_set_deterministic,
    ),
    Piece(
        name="precision of float32 products",
        read=torch.get_float32_matmul_precision,
        write=torch.set_float32_matmul_precision,
    ),
    Piece(name="floating-point errors of numpy", read=np.geterr, write=lambda value: np.seterr(**value)),
    Piece(name="garbage collection", read=gc.isenabled, write=lambda on: gc.enable() if on else gc.disable()),
    Piece(name="logging", read=_logging, write=_set_logging),
    Piece(name="environment", read=_variables, write=_set_variables),
    Piece(name="working folder", read=os.getcwd, write=os.chdir),
    Piece(name="sys.path", read=lambda: list(sys.path), write=_set_path),
    Piece(name="signal handlers", read=_signals, write=_set_signals),
    Piece(name="umask", read=_umask, write=os.umask),
)


@contextlib.contextmanager
def unchanged(where: str) -> Iterator[None]:
    """Run a block, put global state back, and fail if there was something to put back.

    Args:
        where: what the message calls the block.
    """
    leaks = list[str]()
    with restored(leaks.append):
        yield
    if leaks:
        pytest.fail(f"{where} left global state changed: {'; '.join(leaks)}", pytrace=False)


@contextlib.contextmanager
def restored(tell: Callable[[str], object] = lambda leak: None) -> Iterator[None]:
    """Run a block, put global state back, and tell what there was to put back."""
    before = [piece.read() for piece in PIECES]
    draws = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(draws[0])
        np.random.set_state(draws[1])
        torch.set_rng_state(draws[2])
        for piece, value in zip(PIECES, before, strict=True):
            change = _difference(value, piece.read())
            if change:
                piece.write(value)
                tell(f"{piece.name} ({change})")


def as_a_process() -> None:
    """Let `CliRunner` stand for a process: threads and variables that a command pins are its own."""
    invoke = CliRunner.invoke

    def invoked(*args: Any, **kwargs: Any) -> Any:
        with restored():
            return invoke(*args, **kwargs)

    CliRunner.invoke = invoked


def _difference(before: Any, after: Any) -> str | None:
    """What differs, in words. A logger made meanwhile came with a module, and is no difference."""
    if not isinstance(before, dict):
        return None if before == after else f"{before!r}, then {after!r}"
    names = [name for name in before if name in after and before[name] != after[name]]
    # every signal and every logger is in both, or is new
    gone = [name for name in before if name not in after]
    new = [name for name in after if name not in before and not isinstance(after[name], tuple)]
    changed = [f"{name}: {before[name]!r}, then {after[name]!r}" for name in names]
    changed += [f"{name}: gone" for name in gone] + [f"{name}: new, {after[name]!r}" for name in new]
    return ", ".join(changed) or None
