"""The YAML file that says what a cluster is asked for, given by `--cluster FILE`.

    python: /shared/venv/bin/python     # on the nodes; without it: the interpreter that submits
    container: apptainer exec /shared/ttbench.sif
    prologue: |
      module load cuda
    cpus: 4                             # of each task, and the threads of its cells
    throttle: 20                        # tasks of an array that run at once
    quality: {partition: cpu, time: "04:00:00", memory: 16G}
    timing: {partition: bench, time: "01:00:00", memory: 16G}

All keys may be left out; then Slurm's own defaults hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ttbench.strict_yaml.nodes import read_yaml
from ttbench.strict_yaml.typed import read

Words = Annotated[str, Field(pattern=r"^[^\n]*\S[^\n]*$", description="one line of text")]
Duration = Annotated[
    str,
    Field(
        pattern=r"^([0-9]+-)?[0-9]+(:[0-9]+){0,2}$",
        description='a time as Slurm writes it, in quotes: "30" (minutes), "04:00:00" or "2-00:00:00"',
    ),
]
Memory = Annotated[str, Field(pattern=r"^[0-9]+[KMGT]$", description="memory with its unit: 500M, 16G")]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the tasks of one kind of cells are given."""

    partition: Words | None = None
    time: Duration | None = None
    memory: Memory | None = None
    gres: Words | None = None  # such as gpu:1; None: gpu:1 for cells on a GPU
    options: tuple[Words, ...] = ()  # further options of sbatch


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFile:
    """What the file says."""

    python: Words | None = None
    container: Words | None = None  # words before the interpreter
    prologue: str = ""  # lines of shell before each task
    cpus: Count | None = None
    machine: Words | None = None  # class of the nodes that time, as `ttbench doctor` prints it there
    throttle: Count | None = None
    cells_per_task: Count | None = None  # quality cells of a checkpoint; None: all of them
    quality: Asked = field(default_factory=Asked)
    timing: Asked = field(default_factory=Asked)
    address: Words | None = None  # of a Ray cluster
    queue_timeout: Annotated[float, Field(gt=0)] = 600.0  # seconds that a task may wait for a place, Ray only


def read_cluster_file(path: str | Path | None) -> ClusterFile:
    """The file, or what holds without one. Raises SuiteError with file and line."""
    if path is None:
        return ClusterFile()
    return read(read_yaml(Path(path), noun="cluster file", needs="at least one key"), ClusterFile)
