"""The lines of a report as a short table in plain text, for whoever reads it first. Torch-free."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from ttbench.gpu.lines import Line

_GIB = 1024**3
_WHERE = ("checkpoint", "engine", "twin", "case", "dtype")


def final_table(lines: Sequence[Line]) -> str:
    """What was found: the GPU, its ceilings, what held, times with their share of the ceilings, bytes, what failed."""
    parts = [_device(lines), _ceilings(lines), _verdicts(lines), _times(lines), _bytes(lines), _trouble(lines)]
    return "\n\n".join("\n".join(part) for part in map(list, parts) if part)


def _of(lines: Sequence[Line], kind: str, *whats: str) -> list[Line]:
    return [line for line in lines if line.get("kind") == kind and (not whats or line.get("what") in whats)]


def _device(lines: Sequence[Line]) -> Iterator[str]:
    for line in _of(lines, "fact", "gpu"):
        yield f"GPU: {line['words']}"
    for line in _of(lines, "fact", "package"):
        if line["name"] in ("torch", "triton"):
            yield f"{line['name']} {line['version']}"


def _ceilings(lines: Sequence[Line]) -> Iterator[str]:
    words = {
        "read": ("reading", "bytes_per_s", _GIB, "GiB/s"),
        "copy": ("copying, both ways counted", "bytes_per_s", _GIB, "GiB/s"),
        "cached_read": ("reading from the last cache", "bytes_per_s", _GIB, "GiB/s"),
        "matmul": ("matrix product", "flops_per_s", 1e12, "TFLOP/s"),
        "launch": ("a launch", "seconds", 1e-6, "µs"),
        "graph_node": ("a graph's node", "seconds", 1e-6, "µs"),
    }
    found = [line for line in _of(lines, "measured", *words) if line.get("stage") == "ceilings"]
    if found:
        yield "at best"
    for line in found:
        name, key, size, unit = words[line["what"]]
        detail = f" in {line['dtype']}{' with tf32' if line.get('tf32') else ''}" if "dtype" in line else ""
        yield f"  {name + detail:40} {line[key] / size:10,.2f} {unit}"


def _verdicts(lines: Sequence[Line]) -> Iterator[str]:
    found = _of(lines, "verdict")
    if found:
        yield f"{sum(bool(line['ok']) for line in found)} of {len(found)} checks hold"
    for line in found:
        if not line["ok"]:
            where = " ".join(str(line[name]) for name in _WHERE if name in line)
            yield f"  NOT: {line['what']} {where} {line.get('message', '')}".rstrip()


def _times(lines: Sequence[Line]) -> Iterator[str]:
    timed = _of(lines, "measured", "decode", "prefill")
    if not timed:
        return
    yield "seconds of a call: median of the blocks, and the share of the ceilings that it reaches"
    keys = ("what", "checkpoint", "engine", "kernels", "context_len", "batch_size")
    groups: dict[tuple[object, ...], list[Line]] = {}
    for line in timed:
        groups.setdefault(tuple(line[key] for key in keys), []).append(line)
    for (what, checkpoint, engine, kernels, context_len, batch_size), mine in groups.items():
        seconds = statistics.median(line["seconds"] for line in mine)
        share = _share(mine[0], lines, seconds)
        told = "" if share is None else f"{100 * share:6.1f} %"
        way = f"{engine}, {kernels}"
        place = f"{what:8} {checkpoint!s:26} {way:14} {context_len:>6} tokens, batch {batch_size:>3}"
        yield f"  {place} {seconds * 1e3:10.3f} ms {told}".rstrip()


def _share(line: Line, lines: Sequence[Line], seconds: float) -> float | None:
    """Least seconds by the ceilings of stage `ceilings`, over these; None where one of them is not known."""
    reads = [each["bytes_per_s"] for each in _of(lines, "measured", "read")]
    products = [
        each["flops_per_s"]
        for each in _of(lines, "measured", "matmul")
        if each["dtype"] == line["dtype"] and not each.get("tf32")
    ]
    if not reads or not products or "flops" not in line:
        return None
    return max(line["flops"] / max(products), line["num_bytes"] / max(reads)) / seconds


def _bytes(lines: Sequence[Line]) -> Iterator[str]:
    found = [line for line in _of(lines, "measured", "bytes") if "peak_allocated_bytes" in line]
    if found:
        yield "peaks on the GPU, GiB: tensors, taken from the driver, kept by graphs"
    for line in found:
        sizes = (line[f"{name}_bytes"] / _GIB for name in ("peak_allocated", "peak_reserved", "graph_pool"))
        place = f"{line['phase']:8} {line['checkpoint']:26} {line['engine']:6}"
        yield f"  {place} {'  '.join(f'{size:8.2f}' for size in sizes)}"


def _trouble(lines: Sequence[Line]) -> Iterator[str]:
    for line in _of(lines, "ended"):
        if line["how"] != "done":
            yield f"stage {line['stage']} {line['how'].replace('_', ' ')} after {line['seconds']:.0f} s"
    failed = _of(lines, "failed")
    for line in failed[:12]:
        where = ", ".join(str(line[name]) for name in ("checkpoint", "engine", "name") if name in line)
        yield f"failed: {line['stage']} {where} {line['error']}: {line['message'][:120]}"
    if len(failed) > 12:
        yield f"failed: {len(failed) - 12} more"
    absent = dict.fromkeys(f"{line['what']} {line.get('name', '')}".strip() for line in _of(lines, "absent"))
    if absent:
        yield f"not there: {', '.join(absent)}"
