"""What a user may ask of a run, each option declared once.

The options of `ttbench run` and `ttbench plan`, the keys of suites and the keyword arguments of `ttbench.run` are the
entries of `Options`: its types say what an option may be, its `Flag` how it is asked for on the command line. An option
that is not there, or is None, is left to the suite, then to the task's default. Torch-free; pydantic is loaded to check
values.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast, get_type_hints

from typing_extensions import TypedDict

from ttbench.errors import UnknownNameError, UsageError
from ttbench.types import Checkpoint, Scalar

NAMED = ("protocol", "limit", "depth_mode")  # parameters of tasks that are options too


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """How an option is asked for on the command line."""

    help: str
    metavar: str
    name: str = ""  # the flag, where it is not the option's own name
    kind: type = str  # of one value
    least: int | None = None  # the smallest number allowed
    many: bool = False  # may be given several times
    swept: bool = False  # several values are several cells
    read: Callable[[str], Any] | None = None  # text to value; raises ValueError
    complete: str = ""  # noun whose names the shell completes
    placed: bool = False  # says where cells run, and nothing of what they measure

    def spelt(self, option: str) -> str:
        """The flag of an option: `--batch-size`."""
        return self.name or f"--{option.replace('_', '-')}"


def read_limit(text: str) -> int | str:
    """A count, or `all`. Raises ValueError."""
    if text == "all" or (text.isascii() and text.isdecimal() and int(text) > 0):
        return text if text == "all" else int(text)
    raise ValueError(f"'{text}' is neither a whole number of at least 1 nor the word all")


class Options(TypedDict, total=False):
    """Every option of a run by name."""

    ctx: Annotated[
        str | int | Sequence[int | str] | None,
        Flag(
            metavar="TOKENS",
            many=True,
            help="Context lengths in tokens, k = 1024: 32k; 1k,4k,32k; 1k..32k doubles.  [default: the task's]",
        ),
    ]
    checkpoints: Annotated[
        str | Checkpoint | Sequence[str | Checkpoint] | None,
        Flag(
            name="--checkpoint",
            metavar="NAME|DIR|ID",
            many=True,
            complete="checkpoints",
            help="Zoo or catalogue name, folder, hub id with @revision, or random:SIZE; zoo is all of the zoo. "
            "May be repeated.  [default: the task's, mostly four of the zoo]",
        ),
    ]
    corpus: Annotated[
        str | None,
        Flag(
            metavar="CORPUS",
            complete="corpora",
            help="code, kjv, genomes, text:PATH, hf:DATASET ...  [default: the task's own; of perplexity languages for "
            "the zoo, else code]",
        ),
    ]
    protocol: Annotated[str | None, Flag(metavar="NAME", help="Protocol of a task that has several.")]
    limit: Annotated[
        int | str | None,
        Flag(metavar="COUNT|all", read=read_limit, help="Documents or trials at most, or all.  [default: the task's]"),
    ]
    depth_mode: Annotated[
        str | None, Flag(metavar="NAME", help="Places of needles: grid (fixed) or ruler (random).  [default: grid]")
    ]
    params: Annotated[
        Mapping[str, Any] | None,
        Flag(
            name="--param",
            metavar="NAME=VALUE",
            many=True,
            help="Any other parameter of the task; ttbench list tasks shows them.",
        ),
    ]
    imports: Annotated[
        str | Sequence[str] | None,
        Flag(
            name="--import",
            metavar="PACKAGE",
            many=True,
            help="Your own package, imported first in every process: its models run under engine hf.",
        ),
    ]
    device: Annotated[str | None, Flag(metavar="DEVICE", help="cpu, cuda or cuda:N.  [default: cpu]")]
    device_map: Annotated[
        str | None,
        Flag(
            metavar="NAME|FILE",
            help="Engine hf: spread one model over devices, memory and disk: auto, balanced, sequential, or a JSON "
            "file of modules and devices.",
        ),
    ]
    dtype: Annotated[
        str | Sequence[str] | None,
        Flag(metavar="DTYPE", swept=True, help="float32, bfloat16, float16 or float64.  [default: float32]"),
    ]
    engine: Annotated[
        str | Sequence[str] | None,
        Flag(
            metavar="NAME",
            swept=True,
            help="eager; graph: replays CUDA graphs; hf: models of transformers, by its code.  [default: eager]",
        ),
    ]
    attention: Annotated[
        str | Sequence[str] | None,
        Flag(metavar="NAME", swept=True, help="sdpa, eager or flash.  [default: the checkpoint's, mostly sdpa]"),
    ]
    batch_size: Annotated[
        int | Sequence[int] | None,
        Flag(
            metavar="COUNT",
            kind=int,
            least=1,
            swept=True,
            help="Sequences in one batch.  [default: the task's; latency on a GPU: 1, 16, 64]",
        ),
    ]
    threads: Annotated[
        int | None,
        Flag(
            metavar="COUNT",
            kind=int,
            least=1,
            help="CPU threads.  [default: all cores, fewer under a CPU quota or OMP_NUM_THREADS]",
        ),
    ]
    seed: Annotated[
        int | Sequence[int] | None,
        Flag(
            metavar="NUMBER", kind=int, least=0, swept=True, help="Random seed of documents and trials.  [default: 0]"
        ),
    ]
    timeout: Annotated[
        float | None, Flag(metavar="SECONDS", kind=float, help="Time limit of each cell.  [default: none]")
    ]
    unchecked: Annotated[
        bool | None,
        Flag(
            metavar="",
            kind=bool,
            help="Also score models that look ahead or fail another probe; tables and figures mark them.",
        ),
    ]
    executor: Annotated[
        str | None,
        Flag(
            metavar="NAME",
            complete="executors",
            placed=True,
            help="Where cells run: local, slurm, ray or a plug-in's.  [default: local]",
        ),
    ]
    jobs: Annotated[
        int | None,
        Flag(
            metavar="COUNT",
            kind=int,
            least=1,
            placed=True,
            help="Checkpoints to measure side by side here, each on a GPU of its own where there are GPUs; cells that "
            "time or weigh a process run alone all the same.  [default: 1]",
        ),
    ]
    cluster: Annotated[
        str | None,
        Flag(
            metavar="FILE",
            placed=True,
            help="YAML file of what slurm or ray is asked for: partition, time, memory ...",
        ),
    ]


@functools.cache
def flags() -> Mapping[str, Flag]:
    """The flag of each option, in the order that help shows them."""
    hints = get_type_hints(Options, include_extras=True)
    return {name: next(each for each in hint.__metadata__ if isinstance(each, Flag)) for name, hint in hints.items()}


def placed() -> tuple[str, ...]:
    """Options that say where cells run."""
    return tuple(name for name, flag in flags().items() if flag.placed)


@functools.cache
def _adapter() -> Any:
    # Late: the command line shows its help without it.
    from pydantic import TypeAdapter

    return TypeAdapter(Options)


def validated(options: Mapping[str, Any], *, noun: str = "option") -> Options:
    """Options as given, checked: known names, and values of their types. Raises UnknownNameError or UsageError."""
    for name in options:
        if name not in flags():
            raise UnknownNameError(noun, name, known=flags())
    from pydantic import ValidationError

    try:
        found = _adapter().validate_python(dict(options), strict=True)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise UsageError(f"{noun} '{name}' must be {wanted(name)}; got {options[name]!r}") from error
    for name in NAMED:
        if found.get(name) is not None and name in (found.get("params") or {}):
            raise UsageError(f"{noun} '{name}' and the parameter '{name}' are both given; give one of them")
    for name, value in found.items():
        if isinstance(value, Sequence) and not isinstance(value, str) and not value:
            raise UsageError(f"{noun} '{name}' is an empty list; give one value at least, or leave it out")
        least = flags()[name].least
        if least is not None and value is not None and any(each < least for each in several(value)):
            raise UsageError(f"{noun} '{name}' must be {wanted(name)}; got {value!r}")
    return given(found)


def wanted(name: str) -> str:
    """What a value of an option is, in words."""
    flag = flags()[name]
    if name == "params":
        return "names with values"
    words = {int: "a whole number", float: "a number of seconds", bool: "true or false"}.get(flag.kind, "text")
    words += "" if flag.least is None else f" of at least {flag.least}"
    return f"{words}, or a list of such" if flag.swept or flag.many else words


def given(options: Mapping[str, Any]) -> Options:
    """The options that say something."""
    return cast(Options, {name: value for name, value in options.items() if value is not None})


def several(value: Any) -> tuple[Any, ...]:
    """A value that may be one or several, as several."""
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)


def sweep(options: Options) -> Iterator[Options]:
    """One set of options for each combination of the values of those that are swept, the last varying fastest."""
    axes = {name: several(options[name]) for name, flag in flags().items() if flag.swept and name in options}
    for values in itertools.product(*axes.values()):
        yield cast(Options, {**options, **dict(zip(axes, values, strict=True))})


def from_flags(values: Mapping[str, Any]) -> Options:
    """Options as a command line gives them: what was not asked for is None, False or empty.

    Raises UsageError when a parameter is not written NAME=VALUE, or is given twice.
    """
    found: dict[str, Any] = {}
    for name, flag in flags().items():
        value = values.get(name)
        if value is None or value is False or value == ():
            continue
        if isinstance(value, list | tuple) and not value:
            continue
        if name == "params":
            value = _read_params(value)
        elif name == "ctx":
            value = ",".join(value)
        elif flag.swept:
            value = value[0] if len(value) == 1 else tuple(value)
        found[name] = tuple(value) if isinstance(value, list) else value
    return validated(found)


def _read_params(words: Sequence[str]) -> dict[str, Scalar]:
    # Late: the command line shows its help without it.
    from ttbench.strict_yaml.nodes import read_value

    found: dict[str, Scalar] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign or not name:
            raise UsageError(f"--param takes NAME=VALUE, such as --param rounds=3; got '{word}'")
        if name in found:
            raise UsageError(f"--param {name} is given twice; give it once")
        try:
            found[name] = read_value(text) if text else ""
        except ValueError as error:
            raise UsageError(f"--param {name}: {error}") from error
    return found


def as_flags(options: Options) -> list[str]:
    """The words of a command line that asks for the same."""
    words: list[str] = []
    for name, value in options.items():
        flag = flags()[name]
        spelt = flag.spelt(name)
        if flag.kind is bool:
            words += [spelt] if value else []
        elif isinstance(value, Mapping):
            words += [word for key, each in value.items() for word in (spelt, f"{key}={_as_yaml(each)}")]
        else:
            each_of = several(value) if flag.swept or flag.many else (value,)
            if name == "ctx":
                each_of = (",".join(map(str, each_of)),)
            words += [word for each in each_of for word in (spelt, _scalar(plain(each)))]
    return words


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "all" if value is None else str(value)


def _as_yaml(value: Scalar) -> str:
    """A parameter's value as `_read_params` reads it back."""
    from ttbench.strict_yaml.nodes import read_value

    if value is None:
        return "null"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if not isinstance(value, str) or not text:
        return text
    with contextlib.suppress(ValueError):
        if read_value(text) == text:
            return text
    return json.dumps(text, ensure_ascii=False)


def plain(value: Any) -> Any:
    """A value of an option as plain data; a checkpoint is its path."""
    if isinstance(value, Checkpoint):
        return value.path
    if isinstance(value, Mapping):
        return dict(value)
    return [plain(each) for each in value] if isinstance(value, tuple | list) else value


def to_json(options: Options) -> dict[str, Any]:
    """Options as plain data."""
    return {name: plain(value) for name, value in options.items()}


def as_arguments(options: Options) -> str:
    """Options as keyword arguments in Python, each followed by a comma and a space."""
    return "".join(f"{name}={value!r}, " for name, value in to_json(options).items())
