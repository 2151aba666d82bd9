"""The nouns of ttbench: frozen, torch-free, one meaning each (docs/glossary.md).

Checkpoint, Cost -> Cell -> Sample -> row          Metric says how rows become a table, Figure how a table is drawn
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

Scalar = str | int | float | bool | None
Status = Literal["ok", "oom", "too_long", "too_short", "unsupported", "killed", "timeout", "error"]

LASTING: tuple[Status, ...] = ("ok", "oom", "too_long", "too_short")  # answers that a later run takes over
ANSWERS: tuple[Status, ...] = (*LASTING, "unsupported")
FAILURES: tuple[Status, ...] = ("killed", "timeout", "error")
SCHEMA_VERSION = 2
RANDOM = "random"  # provenance of weights that nobody trained: speed and memory can be told of them, and nothing else
READABLE = (1, 2)  # schemas that are read; in rows of 1, nothing says which code measured them
INT64 = range(-(2**63), 2**63)  # whole numbers that rows can hold

ColumnType = Literal["text", "whole", "real", "truth"]  # of a row's column: str, int, float, bool; each may be missing

# Implementations of softmax attention, and what stands in the cells of an architecture that has none.
ATTENTION = ("sdpa", "eager", "flash")
NO_ATTENTION = "none"


def digest(data: bytes | memoryview | str) -> str:
    """Content digest: 128 bits of BLAKE2b in hexadecimal."""
    raw = json_bytes(data) if isinstance(data, str) else data
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with one spelling per value: sorted keys, no spaces, no NaN. Raises ValueError on NaN or infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def json_bytes(text: str) -> bytes:
    """JSON as UTF-8; bytes of a file's name that are none become escapes, from which JSON gives the same name back."""
    return text.encode("utf-8", "backslashreplace")


def _pairs(num_tokens: int, window: int) -> float:
    """Earlier tokens that `num_tokens` tokens read in all, each at most `window`."""
    window = min(window, num_tokens)
    return window * (window - 1) / 2 + (num_tokens - window) * window


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, as they are."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Work and state of one sequence, affine in the tokens seen before (up to `window`).

    One FLOP is one floating-point addition or multiplication; a multiply-add is two. The embedding look-up is
    free, the output head is counted.
    """

    flops_per_token: float  # FLOP of one token with nothing before it
    flops_per_context_token: float  # FLOP added for each earlier token that is read
    state_bytes: int  # bytes of state before the first token, batch 1
    state_bytes_per_token: int  # bytes of state added by each token
    window: int | None = None  # tokens after which both context terms stop growing; None: never
    local_flops_per_context_token: float = 0.0  # FLOP added for each earlier token within `local_window`
    local_window: int = 0  # tokens that layers of local attention read, beside layers that read all
    head_flops: float = 0.0  # FLOP of the output head, a part of `flops_per_token`; 0: not told apart

    def decode_flops(self, context_len: int) -> float:
        """FLOP of the token that follows `context_len` tokens."""
        local = self.local_flops_per_context_token * min(self.local_window, context_len)
        return self.flops_per_token + self.flops_per_context_token * self._seen(context_len) + local

    def prefill_flops(self, context_len: int) -> float:
        """FLOP of reading `context_len` tokens from an empty state."""
        seen = _pairs(context_len, context_len if self.window is None else self.window)
        local = self.local_flops_per_context_token * _pairs(context_len, self.local_window)
        return self.flops_per_token * context_len + self.flops_per_context_token * seen + local

    def read_flops(self, context_len: int) -> float:
        """FLOP of reading `context_len` tokens where the output head is applied to the last one alone."""
        return self.prefill_flops(context_len) - self.head_flops * max(context_len - 1, 0)

    def step_nbytes(self, context_len: int) -> int:
        """Bytes of state that the token after `context_len` tokens reads and writes, batch 1.

        The part that does not grow is read and written whole; what grows is read, and one token is added to it.
        """
        grown = self.state_nbytes(context_len) - self.state_bytes
        return 2 * self.state_bytes + grown + self.state_bytes_per_token

    def state_nbytes(self, context_len: int) -> int:
        """Bytes of state in use after `context_len` tokens, batch 1."""
        return self.state_bytes + self.state_bytes_per_token * self._seen(context_len)

    def _seen(self, context_len: int) -> int:
        return context_len if self.window is None else min(self.window, context_len)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Weights + config + tokenizer, known by content digests, never by name."""

    name: str  # what the user calls it: zoo name, folder name or hub id
    path: str  # local folder that holds it; of random weights, which no folder holds, the name
    architecture: str  # registry key
    architecture_version: int
    dialect: str  # naming under which its files were recognised
    provenance: str  # zoo | local | hub | random | memory
    revision: str | None  # hub commit; None for local folders
    weights_digest: str
    config_digest: str
    tokenizer_digest: str | None  # None: the folder has no tokenizer
    vocab_size: int  # tokens
    train_ctx: int | None  # tokens; None: unknown
    num_params: int
    num_params_non_embedding: int
    weight_bytes: int  # bytes of the weight files; 0: there are none
    cost: Cost | None  # None: no formula
    train_kinds: tuple[str, ...] | None = None  # kinds of rows it was trained on; None: unknown
    train_recipe: str | None = None  # digest of how it was trained, its seed left out; None: unknown
    train_seed: int | None = None  # of its training: first weights and order of the rows; None: unknown
    attention: tuple[str, ...] = ()  # implementations it can run with, the default first; empty: it has no attention


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One point of the grid: task x checkpoint x axes x seed."""

    task: str
    task_version: int
    checkpoint: Checkpoint
    context_len: int  # tokens of the checkpoint's tokenizer
    params: Mapping[str, Scalar]  # the task's own parameters, defaults filled in
    corpus: str | None
    corpus_digest: str | None
    seed: int
    dtype: str
    device: str
    engine: str  # eager | graph | hf
    attention: str  # implementation of attention; "none" for an architecture without it
    batch_size: int  # sequences
    threads: int
    code_digest: str | None = None  # of the sources that compute the number, see ttbench.code; None in schema 1
    round: int = 0  # of a timing cell
    machine: str | None = None  # fingerprint; timing cells only
    software: str | None = None  # torch, Python and the variables that choose kernels; timing cells only
    timeout_s: float | None = None  # seconds; not part of the identity
    reach: int | None = None  # tokens of its longest sequence; None: context_len. Follows from task and params
    imports: tuple[str, ...] = ()  # packages of the user's own; their code is in `code_digest`
    unchecked: bool = False  # measured without asking whether the model looks ahead; never answers for a checked cell
    device_map: str | None = None  # where modules of a model stand: a strategy, or JSON; None: all on `device`
    schema: int = SCHEMA_VERSION  # of the file that it was read from, which decides what its identity holds
    _cell_id: str | None = field(default=None, init=False, repr=False, compare=False)  # once it was asked for

    def identity(self) -> dict[str, Any]:
        """Everything that can change this cell's numbers, as plain data. Names and paths are not in it."""
        checkpoint = self.checkpoint
        code = {"code": self.code_digest, "software": self.software} if self.schema > 1 else {}
        return {
            **code,
            "schema": self.schema,
            "task": self.task,
            "task_version": self.task_version,
            "architecture": checkpoint.architecture,
            "architecture_version": checkpoint.architecture_version,
            "weights": checkpoint.weights_digest,
            "config": checkpoint.config_digest,
            "tokenizer": checkpoint.tokenizer_digest,
            "context_len": self.context_len,
            "params": dict(self.params),
            "corpus": self.corpus_digest,
            "seed": self.seed,
            "dtype": self.dtype,
            "device": self.device,
            "engine": self.engine,
            "attention": self.attention,
            "batch_size": self.batch_size,
            "round": self.round,
            "machine": self.machine,
            "threads": self.threads if self.machine is not None else None,
            **({"unchecked": True} if self.unchecked else {}),
            **({} if self.device_map is None else {"device_map": self.device_map}),
        }

    @property
    def placement(self) -> str:
        """The device, and the map of devices where there is one: what decides where the model computes."""
        return self.device if self.device_map is None else f"{self.device} {self.device_map}"

    @property
    def cell_id(self) -> str:
        """Digest of `identity`: results are found by it across runs."""
        if self._cell_id is None:
            # A large plan asks for it many times, and nothing that it follows from can change.
            object.__setattr__(self, "_cell_id", digest(canonical_json(self.identity())))
        return cast(str, self._cell_id)

    def to_json(self) -> dict[str, Any]:
        """Plain data from which `from_json` rebuilds an equal cell."""
        # Not dataclasses.asdict, which copies each number: large runs write a hundred thousand cells.
        checkpoint = _fields(self.checkpoint)
        checkpoint["cost"] = None if self.checkpoint.cost is None else _fields(self.checkpoint.cost)
        found = {**_fields(self), "params": dict(self.params), "checkpoint": checkpoint}
        del found["_cell_id"]
        return found

    def named_as(self, **asked: Any) -> Cell:
        """The same cell under other fields of its checkpoint that are no part of its identity: name, path ..."""
        return dataclasses.replace(self, checkpoint=dataclasses.replace(self.checkpoint, **asked))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cell:
        checkpoint = dict(data["checkpoint"])
        checkpoint["cost"] = None if checkpoint["cost"] is None else Cost(**checkpoint["cost"])
        checkpoint["attention"] = tuple(checkpoint.get("attention", ()))
        kinds = checkpoint.get("train_kinds")
        checkpoint["train_kinds"] = None if kinds is None else tuple(kinds)
        return cls(**{**data, "checkpoint": Checkpoint(**checkpoint), "imports": tuple(data.get("imports", ()))})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One raw observation in a cell: a document window, a trial, a repeat.

    `keys` say what was observed (document, depth, phase) and never what a model answered: comparisons pair by them.
    `values` are raw and additive, in SI units or counts. `evidence` (prompts, answers, log-probabilities) goes to a
    file of its own, never into rows.
    """

    keys: Mapping[str, Scalar]
    values: Mapping[str, int | float | bool | None]
    evidence: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """How a table makes one number, with its interval, from the rows of a task.

    statistic: "ratio" sum(numerator) / sum(denominator) * scale; "exp_ratio" exp of that ratio;
    "proportion" the same as ratio with values in 0..1 and a Wilson interval; "median" of numerator / denominator *
    scale (denominator 1 without one); "max" of numerator * scale; "count" the highest of numerator * scale, a count
    that is the same whenever it is taken again: exact, and the only statistic that is.

    Where the cluster is the round, a number is made in each round alone, and the geometric mean over rounds is shown.
    """

    name: str
    label: str  # words for a table's head
    unit: str
    better: Literal["lower", "higher", "neither"]
    statistic: Literal["ratio", "exp_ratio", "proportion", "median", "max", "count"]
    numerator: str  # column
    denominator: str | None = None  # column
    scale: float = 1.0
    cluster: str | None = None  # column whose equal values are not independent of each other
    axes: tuple[str, ...] = ("context_len",)  # columns, beside the checkpoint, that a number is made for
    where: Mapping[str, Scalar] = field(default_factory=dict)  # rows that count: column -> value
    valid: str | None = None  # truth column; a row where it is false holds no number. None: every row holds one
    invalid: str = ""  # why such a row holds none
    # differences below it do not matter: in `unit`, or where a / b is compared (times, bytes, perplexities), a share
    smallest_effect: float = 0.01
    restates: str | None = None  # metric of the task that is this one on another scale, and is judged for both
    counts: str = ""  # noun of what the denominator counts: byte, token, question; empty: it counts nothing

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "axes": list(self.axes), "where": dict(self.where)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Metric:
        """The declaration in plain data; what a later version adds to it is left out."""
        known = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
        return cls(**{**known, "axes": tuple(data["axes"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What one figure of a task shows; it travels with the rows, and reports draw it."""

    name: str  # of its files
    title: str
    metric: str
    kind: Literal["curve", "heatmap", "roofline"] = "curve"
    references: tuple[str, ...] = ()  # metrics drawn as thin grey lines; of a roofline bytes/s, then FLOP/s
    log_y: bool = False
    x_axis: str = "context_len"  # of a heat map; of a roofline the metric of FLOP per byte
    y_axis: str = "depth"
    task: str = ""  # empty in a task's own declaration; filled in where figures of several tasks stand together

    def to_json(self) -> dict[str, Any]:
        """Plain data from which `from_json` rebuilds an equal figure."""
        return {**dataclasses.asdict(self), "references": list(self.references)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Figure:
        """The declaration in plain data; what a later version adds to it is left out."""
        known = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
        return cls(**{**known, "references": tuple(data["references"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What a run ran on and with; rows refer to it by digest."""

    machine: str  # fingerprint: digest of processor, installed cores and memory, accelerator
    processor: str
    num_cores: int  # that the process may run on
    memory_bytes: int  # that the process may use
    accelerator: str | None
    accelerators: tuple[Mapping[str, Scalar], ...]  # see `ttbench.machine.gpu.accelerators`
    platform: str
    python: str
    packages: Mapping[str, str]  # distribution -> version
    ttbench: str  # version
    commit: str | None  # git commit of the source tree, with "+dirty" when modified; None outside a checkout
    variables: Mapping[str, str]  # environment variables that can change numbers or timings
    allocation: str | None = None  # in words, what the process was given of the machine; None: not told

    def to_json(self) -> dict[str, Any]:
        found = dataclasses.asdict(self)
        found["accelerators"] = [dict(each) for each in self.accelerators]
        return {**found, "packages": dict(self.packages), "variables": dict(self.variables)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Environment:
        """The environment in plain data; what a later version adds to it is left out."""
        known = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
        return cls(**{**known, "accelerators": tuple(data["accelerators"])})
