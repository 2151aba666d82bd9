"""What `ttbench kernels list | verify | build` do."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence

from rich.text import Text

from ttbench.cli import console
from ttbench.cli.console import Column
from ttbench.errors import GateError, UnknownNameError, UnsupportedError, UsageError
from ttbench.kernels.dispatch.catalogue import FUSED, absent, load_twin
from ttbench.machine.devices import torch_device
from ttbench.store.files import write_whole


def show(*, as_json: bool) -> None:
    """Every op with a twin; without Triton it is said why none of them runs."""
    why = absent() or _no_gpu()
    entries = [{"op": name, "runs": why is None, "why": why, "at": FUSED[name].partition(":")[0]} for name in FUSED]
    if as_json:
        console.print_json(entries)
        return
    rows = [(entry["op"], "fused" if why is None else "plain torch", entry["at"]) for entry in entries]
    console.print_table(rows, [Column("op"), Column("runs as"), Column("kernel")])
    if why is not None:
        console.say(f"no fused kernel runs on this machine: {why}")
    console.say("next: ttbench kernels verify")


def _no_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "there is no CUDA device"


def _chosen(ops: Sequence[str]) -> tuple[str, ...]:
    """The named ops, or all. Raises UnknownNameError, and UnsupportedError without Triton."""
    for name in ops:
        if name not in FUSED:
            raise UnknownNameError("fused op", name, known=FUSED)
    if (why := absent()) is not None:
        raise UnsupportedError(f"{why}, so there is no kernel to try; install it with: pip install 'ttbench[triton]'")
    return tuple(dict.fromkeys(ops)) or tuple(FUSED)


def verify(ops: Sequence[str], *, device: str | None, as_json: bool) -> None:
    """Run every case. Raises GateError when one does not hold."""
    import torch

    names = _chosen(ops)
    place = torch_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if place.type == "cpu":
        # read by Triton when it is imported, which nothing in this process has done yet
        os.environ["TRITON_INTERPRET"] = "1"
    elif os.environ.get("TRITON_INTERPRET") == "1":
        raise UsageError("kernels on a GPU are not tried while TRITON_INTERPRET=1: unset it")
    from ttbench.kernels.dispatch.proof import Proof, prove
    from ttbench.kernels.dispatch.twin import interpreted

    proofs: list[Proof] = []
    for name in names:
        twin = load_twin(name)
        for case in twin.cases:
            if case.large and interpreted():
                continue
            for dtype in (torch.float32,) if interpreted() else (torch.float32, torch.bfloat16):
                proofs.append(prove(twin, case, device=place, dtype=dtype))
    if as_json:
        console.print_json([{**dataclasses.asdict(proof), "holds": proof.holds} for proof in proofs])
    else:
        rows = []
        for proof in proofs:
            mark = Text("ok", style="green") if proof.holds else Text("fault", style="red")
            found = proof.reason or f"{proof.error:.1e}" + ("" if proof.repeats else ", two runs differ")
            rows.append((mark, proof.twin, proof.case, proof.dtype, found, f"{proof.bound:.0e}"))
        heads = ("", "op", "inputs", "model", "off by", "bound")
        console.print_table(rows, [Column(head, wrap=head == "inputs") for head in heads])
        how = "interpreted on this CPU, in float32" if interpreted() else f"compiled, on {torch.cuda.get_device_name()}"
        console.say(
            f"{len(proofs)} cases of {len(names)} ops, {how}; differences from float64, relative to the largest value"
        )
    faults = [f"{proof.twin} ({proof.case}, {proof.dtype})" for proof in proofs if not proof.holds]
    if faults:
        raise GateError(f"{len(faults)} of {len(proofs)} cases do not hold: {'; '.join(faults)}")


def build(ops: Sequence[str], *, write: bool, as_json: bool) -> None:
    """Compile, compare, and write when asked. Raises GateError: a kernel breaks its bounds, or the manifest is old."""
    from ttbench.kernels.fused import build as builds

    names = _chosen(ops)
    started = time.process_time()
    committed, made = builds.read_manifest(), []
    planned = list(builds.planned(names))
    for number, (op, kernel, target) in enumerate(planned, 1):
        row = builds.compile_build(op, kernel, target)
        made.append(row)
        console.say(
            f"[{number}/{len(planned)}] {row.op}  {row.target}  {row.label}  {row.registers} registers, "
            f"{row.spilled_bytes:,} bytes spilled, {row.shared_bytes / 1024:.0f} KiB shared"
        )
    if as_json:
        console.print_json([dataclasses.asdict(row) for row in made])
    console.say(
        f"{len(made)} kernels compiled in {time.process_time() - started:.0f} s of processor time of this process"
    )
    faults = [f"{' '.join(row.key)}: {fault}" for row in made for fault in row.faults()]
    if write and not faults:
        kept = {} if not ops else {key: row for key, row in committed.items() if row.op not in names}
        write_whole(builds.MANIFEST, builds.manifest_text([*kept.values(), *made]).encode())
    elif not write:
        for row in made:
            before = committed.get(row.key)
            if before is None or before.source != row.source:
                faults.append(f"{' '.join(row.key)}: {'not in' if before is None else 'older in'} the manifest")
            elif before.triton == row.triton and before != row:
                faults.append(f"{' '.join(row.key)}: not what the manifest has")
    if faults:
        raise GateError("\n".join((*faults, "next: mend the kernel, or ttbench kernels build --write")))
