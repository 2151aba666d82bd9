"""Every fused kernel compiled ahead of time, for GPUs that are not there, into a committed manifest.

Triton's wheel carries the assemblers of both makers, so registers, spilled bytes and shared memory are facts on any
Linux machine. What is gated is what would make a kernel slow or unable to start: bytes spilled by each thread, and
shared memory beyond what a program may have. Registers differ between versions of Triton and are only recorded.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.resources
import inspect
import io
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import FunctionType
from typing import Any

from ttbench.errors import GateError, UsageError
from ttbench.kernels.dispatch.catalogue import FUSED, load_twin
from ttbench.kernels.dispatch.twin import Build
from ttbench.kernels.fused.launch import SHARED_BYTES

MANIFEST = Path(str(importlib.resources.files("ttbench.kernels.fused"))) / "manifest.csv"
MAX_ROWS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One row of the manifest."""

    op: str
    kernel: str
    label: str
    target: str
    num_warps: int
    num_stages: int
    registers: int  # of a thread
    spilled_bytes: int  # of a thread, in local memory
    shared_bytes: int  # of a program
    max_spilled: int | None  # bytes; None: recorded, not gated
    triton: str  # version
    source: str  # digest of the kernel's file, its constants and its launch settings

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What names a row."""
        return self.op, self.kernel, self.label, self.target

    def faults(self) -> list[str]:
        """Why the kernel could not start or would be slow."""
        found, most = [], SHARED_BYTES[self.target]
        if self.max_spilled is not None and self.spilled_bytes > self.max_spilled:
            found.append(f"spills {self.spilled_bytes:,} bytes a thread; at most {self.max_spilled:,}")
        if self.shared_bytes > most:
            found.append(f"needs {self.shared_bytes:,} bytes of shared memory; {self.target} has {most:,}")
        return found


def planned(names: Iterable[str] = FUSED) -> Iterator[tuple[str, Build, str]]:
    """(op, build, target) of every row that the manifest must hold."""
    for name in names:
        for target in SHARED_BYTES:
            for build in load_twin(name).builds(target):
                yield name, build, target


def source_digest(build: Build) -> str:
    """Changes with anything that could change the compiled kernel, triton's version apart."""
    text = "".join(Path(path).read_text() for path in _sources(build.kernel.fn))
    settings = (build.kernel.fn.__name__, sorted(build.signature.items()), build.num_warps, build.num_stages)
    constants = sorted((name, str(value)) for name, value in build.constants.items())
    return hashlib.sha256(repr((text, settings, constants)).encode()).hexdigest()[:16]


def _sources(function: Callable[..., Any]) -> list[str]:
    """The files of a kernel and of the kernels' functions that its file imports, in order of their names."""
    found = {inspect.getsourcefile(function)}
    for value in function.__globals__.values():
        if isinstance(inner := getattr(value, "fn", None), FunctionType):
            found.add(inspect.getsourcefile(inner))
    return sorted(filter(None, found))


def compile_build(op: str, build: Build, target: str) -> Built:
    """Compile one kernel for one target.

    Raises:
        UsageError: this process interprets its kernels.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise UsageError("kernels cannot be compiled while TRITON_INTERPRET=1: unset it")
    import triton
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    goal = GPUTarget("hip", target, 64) if target.startswith("gfx") else GPUTarget("cuda", int(target[3:]), 32)
    names = list(build.signature)
    signature = {**build.signature, **dict.fromkeys(build.constants, "constexpr")}
    order = {name: place for place, name in enumerate(build.kernel.arg_names)}
    source = ASTSource(
        fn=build.kernel,
        signature={name: signature[name] for name in build.kernel.arg_names},
        constexprs={(order[name],): value for name, value in build.constants.items()},
        attrs={(order[name],): [["tt.divisibility", 16]] for name in names if build.signature[name].startswith("*")},
    )
    with tempfile.TemporaryDirectory() as cache:
        knobs.cache.dir = cache
        made = triton.compile(
            source, target=goal, options={"num_warps": build.num_warps, "num_stages": build.num_stages}
        )
    registers, spilled = _of_amd(made.asm["amdgcn"]) if target.startswith("gfx") else _of_nvidia(made.asm["cubin"])
    return Built(
        op=op,
        kernel=build.kernel.fn.__name__,
        label=build.label,
        target=target,
        num_warps=build.num_warps,
        num_stages=build.num_stages,
        registers=registers,
        spilled_bytes=spilled,
        shared_bytes=made.metadata.shared,
        max_spilled=build.max_spilled,
        triton=triton.__version__,
        source=source_digest(build),
    )


def _of_nvidia(cubin: bytes) -> tuple[int, int]:
    """Registers and the stack frame of a thread, which holds what was spilled."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found is not None, text
    return int(found[1]), int(found[2])


def _of_amd(assembly: str) -> tuple[int, int]:
    """Vector registers and the private segment of a thread."""
    registers = re.search(r"\.vgpr_count:\s+(\d+)", assembly)
    private = re.search(r"\.private_segment_fixed_size:\s+(\d+)", assembly)
    assert registers is not None
    assert private is not None
    return int(registers[1]), int(private[1])


def read_manifest(path: Path = MANIFEST) -> dict[tuple[str, str, str, str], Built]:
    """The committed rows by key; empty where there is no file."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = [_row(row) for row in csv.DictReader(file)]
    return {row.key: row for row in rows}


def _row(row: dict[str, str]) -> Built:
    whole = {"num_warps", "num_stages", "registers", "spilled_bytes", "shared_bytes"}
    values: dict[str, Any] = {name: int(value) if name in whole else value for name, value in row.items()}
    values["max_spilled"] = int(row["max_spilled"]) if row["max_spilled"] else None
    return Built(**values)


def manifest_text(rows: Iterable[Built]) -> str:
    """The manifest as CSV, in the order of its keys."""
    lines = io.StringIO()
    writer = csv.DictWriter(lines, [field.name for field in fields(Built)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in sorted(rows, key=lambda row: row.key))
    return lines.getvalue()


def check_manifest() -> None:
    """Hold the committed manifest against the sources, without compiling.

    Raises:
        GateError: rows are missing, left over or made from other sources; or a row breaks its bounds.
    """
    committed, wanted = read_manifest(), {}
    for op, build, target in planned():
        wanted[op, build.kernel.fn.__name__, build.label, target] = source_digest(build)
    faults = [f"{' '.join(key)}: not in the manifest" for key in wanted if key not in committed]
    faults += [f"{' '.join(key)}: no kernel has it any more" for key in committed if key not in wanted]
    for key, row in committed.items():
        if key in wanted and wanted[key] != row.source:
            faults.append(f"{' '.join(key)}: compiled from another source")
        faults += [f"{' '.join(key)}: {fault}" for fault in row.faults()]
    if len(wanted) > MAX_ROWS:
        faults.append(f"{len(wanted)} rows; at most {MAX_ROWS}, so that a build stays short")
    if faults:
        raise GateError("\n".join((*faults, "next: ttbench kernels build --write")))
