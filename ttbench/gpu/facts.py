"""The first two stages: what is there, and what it can do at best."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path

import torch

from ttbench.gpu import bare
from ttbench.gpu.lines import Lines
from ttbench.gpu.stage import Subject
from ttbench.machine import measure
from ttbench.machine.ceilings import Budget, bandwidths, by_dtype, cached_read_rate, graph_node_seconds, launch_seconds
from ttbench.machine.devices import torch_device
from ttbench.machine.gpu import accelerators
from ttbench.machine.software import kernel_variables
from ttbench.version import __version__

NEEDED = ("torch", "triton", "numpy", "pandas", "pyarrow", "typer", "rich", "safetensors")
WELCOME = ("jaxtyping", "fla", "mamba_ssm", "flash_attn", "pynvml")  # what more is used where it is there
# Modules that every later stage imports: what cannot be imported is told here, once.
MODULES = ("ttbench.checkpoints.loading", "ttbench.engines.kinds", "ttbench.engines.eager", "ttbench.machine.ceilings")


def facts(subject: Subject, lines: Lines) -> None:
    """Who computes: Python, packages, GPU, driver, clocks and power limit; what nobody tells is said to be missing."""
    lines.write(
        "fact", "ttbench", version=__version__, commit=measure.source_commit(Path(__file__).resolve().parents[2])
    )
    lines.write("fact", "python", version=platform.python_version(), platform=platform.platform())
    for name in (*NEEDED, *WELCOME):
        _package(name, lines, needed=name in NEEDED)
    if bare.absent():
        lines.write("fact", "jaxtyping", note="not installed; annotations of shapes stand for nothing")
    lines.write("fact", "variables", **{name: os.environ[name] for name in kernel_variables(os.environ)})
    lines.write(
        "fact", "machine", processor=measure.processor(), cores=measure.num_cores(), load=measure.load_average()
    )
    found = accelerators.accelerators()
    for each in found:
        lines.write("fact", "gpu", words=accelerators.words(each), **each.to_json())
    if not found:
        lines.write("absent", "gpu", why="neither nvidia-smi, pynvml, /proc nor torch tells of one")
    now = accelerators.now()
    if now is None:
        lines.write("absent", "nvidia-smi", why="no such program, or it fails: clocks and power of now are not known")
    else:
        lines.write("fact", "gpu_now", **now)
    if subject.device == "cuda":
        _torch_facts(lines)
    for name in MODULES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            lines.failed("import", error, module=name)


def _package(name: str, lines: Lines, *, needed: bool) -> None:
    if importlib.util.find_spec(name) is None:
        lines.write("absent", "package", name=name, needed=needed)
        return
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = None
    lines.write("fact", "package", name=name, version=version)


def _torch_facts(lines: Lines) -> None:
    properties = torch.cuda.get_device_properties(0)
    lines.write(
        "fact",
        "torch_cuda",
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        devices=torch.cuda.device_count(),
        name=properties.name,
        capability=[properties.major, properties.minor],
        multiprocessors=properties.multi_processor_count,
        memory_bytes=properties.total_memory,
        l2_bytes=getattr(properties, "L2_cache_size", None),
        free_bytes=torch.cuda.mem_get_info()[0],
        tf32_matmul=torch.backends.cuda.matmul.allow_tf32,
    )


def ceilings(subject: Subject, lines: Lines) -> None:
    """The lines of the roofline, each written as soon as it is known."""
    device = torch_device(subject.device)
    small = device.type == "cpu"
    budget = Budget(seconds=0.02, least=2, buffer_bytes=2**22, matrix_dims=(64,)) if small else Budget(seconds=0.5)
    with torch.inference_mode():
        read, copied = bandwidths(device, budget)
        lines.write("measured", "read", bytes_per_s=read)
        lines.write("measured", "copy", bytes_per_s=copied, note="bytes read and bytes written both counted")
        for dtype, rate in by_dtype(subject.device, budget):
            lines.write("measured", "matmul", dtype=dtype, flops_per_s=rate, tf32=_tf32(device, dtype))
        lines.write(
            "measured", "cached_read", bytes_per_s=cached_read_rate(device, budget), note="a buffer that L2 holds"
        )
        lines.write("measured", "launch", seconds=launch_seconds(device, budget), note="of a kernel that does nothing")
        if device.type != "cuda":
            lines.write("absent", "graph_node", why="no CUDA graphs on this device")
            return
        lines.write("measured", "graph_node", seconds=graph_node_seconds(device))
        torch.backends.cuda.matmul.allow_tf32 = True
        for dtype, rate in by_dtype(subject.device, budget):
            if dtype == "float32":
                lines.write("measured", "matmul", dtype=dtype, flops_per_s=rate, tf32=True)


def _tf32(device: torch.device, dtype: str) -> bool:
    return device.type == "cuda" and dtype == "float32" and bool(torch.backends.cuda.matmul.allow_tf32)
