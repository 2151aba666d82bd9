"""Control groups of both versions, rebuilt as files: every reader takes the tightest limit on the way to the root."""

from __future__ import annotations

from pathlib import Path

import pytest

from ttbench.machine import cgroups

# cgroup file, files below the mount, then quota (cores), waits (s), limit, left (bytes), kills
NOTHING = (None, None, None, None, 0)
CASES = {
    "v2": (
        "0::/a/b\n",
        {
            "a/b/cpu.max": "max 100000",
            "a/cpu.max": "150000 100000",
            "a/b/cpu.stat": "usage_usec 9\nnr_throttled 3\nthrottled_usec 2500000",
            "a/b/memory.max": "max",
            "a/memory.max": "3000",
            "a/memory.current": "1000",
            "a/memory.stat": "anon 600\ninactive_file 400",
            "memory.max": "5000",
            "memory.current": "4900",
            "a/b/memory.events": "oom 4\noom_kill 2\noom_group_kill 0",
        },
        # Of 3000, 1000 - 400 are in use; the root leaves only 100.
        (1.5, 2.5, 3000, 100, 2),
    ),
    "v2-unlimited": ("0::/a\n", {"a/memory.max": "max", "a/cpu.max": "max 100000"}, NOTHING),
    "v2-own-path-not-mounted": (
        "0::/outside/of/here\n",
        {"memory.max": "7000", "memory.current": "9000", "cpu.max": "20000 100000"},
        (0.2, None, 7000, 0, 0),
    ),
    "v2-in-a-namespace": ("0::/../..\n", {"cpu.max": "50000 100000"}, (0.5, None, None, None, 0)),
    "v1": (
        "4:cpu:/x\n7:memory:/x\n0::/\n",
        {
            "cpu/x/cpu.cfs_quota_us": "20000",
            "cpu/x/cpu.cfs_period_us": "100000",
            "cpu/x/cpu.stat": "nr_periods 10\nnr_throttled 5\nthrottled_time 3000000000",
            "cpu/cpu.stat": "nr_periods 0\nnr_throttled 0\nthrottled_time 0",
            "memory/x/memory.limit_in_bytes": "4000",
            "memory/x/memory.usage_in_bytes": "1500",
            "memory/x/memory.stat": "inactive_file 1\ntotal_inactive_file 500",
            "memory/x/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3",
            "memory.max": "max",
        },
        (0.2, 3.0, 4000, 3000, 3),
    ),
    "v1-two-controllers-in-one-folder": (
        "4:cpu,cpuacct:/x\n",
        {"cpu,cpuacct/x/cpu.cfs_quota_us": "300000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
        (3.0, None, None, None, 0),
    ),
    "v1-unlimited": (
        "7:memory:/x\n4:cpu:/x\n",
        {
            "memory/x/memory.limit_in_bytes": "9223372036854771712",
            "cpu/x/cpu.cfs_quota_us": "-1",
            "cpu/x/cpu.cfs_period_us": "100000",
        },
        NOTHING,
    ),
    "hybrid": (
        "4:memory:/x\n0::/y\n",
        {
            "memory/x/memory.limit_in_bytes": "4000",
            "memory/x/memory.usage_in_bytes": "0",
            "unified/y/cpu.max": "70000 100000",
        },
        (0.7, None, 4000, 4000, 0),
    ),
    "none": ("", {}, NOTHING),
}


@pytest.mark.parametrize("name", CASES)
def test_every_limit_is_read_where_it_is_tightest(name: str, tmp_path: Path) -> None:
    lines, files, expected = CASES[name]
    cgroup, mount = tmp_path / "cgroup", tmp_path / "mount"
    cgroup.write_text(lines)
    mount.mkdir()
    for file, text in files.items():
        (mount / file).parent.mkdir(parents=True, exist_ok=True)
        (mount / file).write_text(text + "\n")
    readers = (cgroups.cpu_quota, cgroups.throttled_seconds, cgroups.memory_limit, cgroups.memory_left)
    assert tuple(reader(cgroup, mount) for reader in (*readers, cgroups.oom_kills)) == expected


def test_a_system_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert cgroups.cpu_quota(absent, tmp_path) is None
    assert cgroups.memory_limit(absent, tmp_path) is None
    assert cgroups.memory_left(absent, tmp_path) is None
    assert cgroups.oom_kills(absent, tmp_path) == 0
