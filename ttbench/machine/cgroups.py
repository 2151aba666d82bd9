"""Control groups of Linux, versions 1 and 2: what a container or a job scheduler allows this process. Torch-free.

A limit holds in a group and in all groups below it, so every reader looks at the process's own group and at each of its
ancestors, as far as they are mounted. Inside a container the group's own path is often not mounted, but an ancestor is.

Source: the kernel's documentation: admin-guide/cgroup-v2, admin-guide/cgroup-v1/memory, scheduler/sched-bwc.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

CGROUP, MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
# Version 1 writes a number that cannot be reached for "no limit".
_UNLIMITED = 2**60


def cpu_quota(cgroup: Path | None = None, mount: Path | None = None) -> float | None:
    """Processor seconds per second that the tightest quota allows, such as 0.5 for `docker --cpus 0.5`; None: none."""
    quotas = []
    for version, folder in _groups("cpu", cgroup, mount):
        with contextlib.suppress(OSError, ValueError):
            if version == 2:
                # "max" for no limit is not a number, and so is passed over.
                allowed, period = (folder / "cpu.max").read_text().split()
            else:
                allowed, period = (_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
            if int(allowed) > 0 and int(period) > 0:
                quotas.append(int(allowed) / int(period))
    return min(quotas, default=None)


def throttled_seconds(cgroup: Path | None = None, mount: Path | None = None) -> float | None:
    """Seconds that this process's groups have waited for their quota since they were made; None where it is not told.

    The group that waited longest counts: an ancestor's wait holds back all groups below it.
    """
    waits = []
    for version, folder in _groups("cpu", cgroup, mount):
        name, unit_s = ("throttled_usec", 1e-6) if version == 2 else ("throttled_time", 1e-9)
        value = _field(folder / "cpu.stat", name)
        waits += [] if value is None else [value * unit_s]
    return max(waits, default=None)


def memory_limit(cgroup: Path | None = None, mount: Path | None = None) -> int | None:
    """Lowest memory limit of this process's groups, bytes; None: none is set."""
    return min((limit for limit, _ in _memory(cgroup, mount)), default=None)


def memory_left(cgroup: Path | None = None, mount: Path | None = None) -> int | None:
    """Bytes that the tightest group still allows, inactive file pages counted as free; None: no limit."""
    return min((max(0, limit - used) for limit, used in _memory(cgroup, mount)), default=None)


def oom_kills(cgroup: Path | None = None, mount: Path | None = None) -> int:
    """How often the kernel has killed for memory in this process's own group; 0 where it is not told."""
    for version, folder in _groups("memory", cgroup, mount):
        value = _field(folder / ("memory.events" if version == 2 else "memory.oom_control"), "oom_kill")
        if value is not None:
            return value
    return 0


def _memory(cgroup: Path | None, mount: Path | None) -> Iterator[tuple[int, int]]:
    """Limit and use of each group that has a limit, bytes; pages of files that are not in active use do not count."""
    for version, folder in _groups("memory", cgroup, mount):
        names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        with contextlib.suppress(OSError, ValueError):
            limit = int(_text(folder / names[0]))
            if limit >= _UNLIMITED:
                continue
            used = 0
            with contextlib.suppress(OSError, ValueError):
                used = int(_text(folder / names[1]))
            inactive = _field(folder / "memory.stat", "inactive_file" if version == 2 else "total_inactive_file")
            yield limit, max(0, used - (inactive or 0))


def _groups(controller: str, cgroup: Path | None, mount: Path | None) -> Iterator[tuple[int, Path]]:
    """Version and folder of this process's group for a controller, then of each ancestor."""
    cgroup, mount = cgroup or CGROUP, mount or MOUNT
    try:
        lines = [line.split(":", 2) for line in _text(cgroup).splitlines()]
    except OSError:
        return
    for _, controllers, path in lines:
        if controllers == "":
            # A hybrid system mounts version 2 beside version 1.
            version, roots = 2, [mount / "unified", mount]
        elif controller in controllers.split(","):
            version, roots = 1, [mount / controllers, mount / controller]
        else:
            continue
        root = next((root for root in roots if root.is_dir()), None)
        if root is None:
            continue
        own = Path(path.lstrip("/"))
        yield from ((version, root / part) for part in (own, *own.parents) if ".." not in part.parts)


def _field(file: Path, name: str) -> int | None:
    """The number after `name` in a file of lines "name number"."""
    with contextlib.suppress(OSError, ValueError):
        return next((int(line.split()[1]) for line in _text(file).splitlines() if line.split()[:1] == [name]), None)
    return None


def _text(file: Path) -> str:
    return file.read_text().strip()
