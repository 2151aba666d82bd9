"""A Slurm cluster of two nodes on loopback, for as long as a block runs; everything of it lies in one folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PORTS = {"slurmctld": 16817, "slurmdbd": 16819, "mariadbd": 13306, "nodes": "[17001-17002]"}
HOST = socket.gethostname()


def say(text: str) -> None:
    print(text, flush=True)


def until(what: str, seen: Callable[[], bool], *, seconds: float = 120) -> None:
    """Wait until something is so; else end with what was waited for."""
    deadline = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > deadline:
            raise SystemExit(f"make slurm: waited {seconds:g} s in vain for {what}")
        time.sleep(0.5)


def told(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


class Cluster:
    """The processes of a cluster, and what can be done to its nodes."""

    def __init__(self, root: Path, *, accounting: bool) -> None:
        self.root, self.accounting = root, accounting
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        # Version 1 of control groups, with memory and freezer: the only one that this Slurm can limit memory by here.
        self.limits_memory = all((CGROUPS / name / "tasks").exists() for name in ("memory", "freezer"))
        for name in ("state", "spool", "log", "munge", "db"):
            (root / name).mkdir(parents=True)
        root.chmod(0o755)

    def start(self) -> None:
        self._start_munge()
        self._write_conf()
        os.environ["SLURM_CONF"] = str(self.root / "slurm.conf")
        if self.accounting:
            self._start_accounts()
        self._daemon("slurmctld", "slurmctld", "-D")
        for node in ("n1", "n2"):
            self.start_node(node)
        until("two idle nodes", lambda: told("sinfo", "-h", "-o", "%T %D").split() == ["idle", "2"], seconds=60)
        version = told("sinfo", "--version").strip()
        limits = "memory by cgroup v1" if self.limits_memory else "no memory limits: cgroup v1 is missing, linuxproc"
        say(f"{version}, two nodes, {'slurmdbd' if self.accounting else 'no accounting'}, {limits}")

    def _daemon(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with open(self.root / "log" / f"{name}.out", "ab") as out:
            found = subprocess.Popen(words, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        self.processes[name] = found
        return found

    def start_node(self, node: str) -> None:
        self._daemon(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """SIGKILL for slurmd alone: its tasks live on."""
        self.processes[node].kill()
        self.processes[node].wait()

    def _start_munge(self) -> None:
        folder = self.root / "munge"
        folder.chmod(0o711)
        key = folder / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        files = [f"--{name}-file={folder / name}" for name in ("pid", "log", "seed")]
        self._daemon("munged", "munged", "-F", f"--key-file={key}", f"--socket={folder / 'socket'}", *files)
        until("munged", lambda: (folder / "socket").exists(), seconds=20)

    def _write_conf(self) -> None:
        root = self.root
        kinds = ("proctrack/cgroup", "task/cgroup") if self.limits_memory else ("proctrack/linuxproc", "task/none")
        lines = [
            "ClusterName=ttbench",
            f"SlurmctldHost={HOST}(127.0.0.1)",
            "SlurmUser=root",
            f"AuthInfo=socket={root}/munge/socket",
            f"SlurmctldPort={PORTS['slurmctld']}",
            "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny",
            f"StateSaveLocation={root}/state",
            f"SlurmdSpoolDir={root}/spool/%n",
            f"SlurmctldPidFile={root}/slurmctld.pid",
            f"SlurmdPidFile={root}/slurmd-%n.pid",
            f"SlurmctldLogFile={root}/log/slurmctld.log",
            f"SlurmdLogFile={root}/log/slurmd-%n.log",
            "SlurmdParameters=config_overrides",
            "MpiDefault=none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core_Memory",
            "SchedulerParameters=bf_interval=1,sched_min_interval=0",
            "PreemptType=preempt/partition_prio",
            "PreemptMode=REQUEUE",
            # With accounting, what slurmctld forgets must come from there.
            f"MinJobAge={2 if self.accounting else 3600}",
            "ReturnToService=2",
            "SlurmdTimeout=10",
            "KillWait=2",
            "DefMemPerCPU=900",
            "MaxArraySize=12",
            f"ProctrackType={kinds[0]}",
            f"TaskPlugin={kinds[1]}",
            f"NodeName=n[1-2] NodeHostname={HOST} NodeAddr=127.0.0.1 Port={PORTS['nodes']} CPUs=2 RealMemory=4000",
            "PartitionName=cpu Nodes=ALL Default=YES MaxTime=60 PriorityTier=1",
            "PartitionName=high Nodes=ALL MaxTime=60 PriorityTier=10 PreemptMode=OFF",
        ]
        if self.accounting:
            lines += ["AccountingStorageType=accounting_storage/slurmdbd", "AccountingStorageHost=127.0.0.1"]
            lines += [f"AccountingStoragePort={PORTS['slurmdbd']}", f"AccountingStoragePass={root}/munge/socket"]
        (root / "slurm.conf").write_text("\n".join([*lines, ""]))
        cgroup = ["CgroupPlugin=cgroup/v1", f"CgroupMountpoint={CGROUPS}", "ConstrainRAMSpace=yes"]
        (root / "cgroup.conf").write_text("\n".join([*(cgroup if self.limits_memory else []), ""]))

    def _start_accounts(self) -> None:
        data, port = self.root / "db", PORTS["mariadbd"]
        made = ["mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal", "--user=root"]
        subprocess.run([*made, f"--datadir={data}"], check=True, capture_output=True)
        words = [f"--datadir={data}", f"--socket={data}/socket", f"--port={port}", "--bind-address=127.0.0.1"]
        self._daemon("mariadbd", "mariadbd", "--no-defaults", "--user=root", *words)
        until("mariadbd", lambda: (data / "socket").exists(), seconds=60)
        conf = self.root / "slurmdbd.conf"
        lines = ["AuthType=auth/munge", f"AuthInfo=socket={self.root}/munge/socket", f"DbdHost={HOST}"]
        lines += [
            "DbdAddr=127.0.0.1",
            f"DbdPort={PORTS['slurmdbd']}",
            "SlurmUser=root",
            "StorageType=accounting_storage/mysql",
        ]
        lines += ["StorageHost=127.0.0.1", f"StoragePort={port}", "StorageUser=root", "StorageLoc=slurm_acct"]
        lines += [f"LogFile={self.root}/log/slurmdbd.log", f"PidFile={self.root}/slurmdbd.pid"]
        conf.write_text("\n".join([*lines, ""]))
        conf.chmod(0o600)
        self._daemon("slurmdbd", "slurmdbd", "-D")
        log = self.root / "log" / "slurmdbd.log"
        until("slurmdbd", lambda: log.exists() and "started" in log.read_text(), seconds=90)
        subprocess.run(["sacctmgr", "-i", "add", "cluster", "ttbench"], capture_output=True, check=False)

    def stop(self) -> None:
        """End every process that was started here, and what it left in the control groups."""
        for state in ("PENDING", "RUNNING", "SUSPENDED"):
            told("scancel", f"--state={state}", "-u", "root")
        deadline = time.monotonic() + 20
        while told("squeue", "-h").strip() and time.monotonic() < deadline:
            time.sleep(0.5)
        for name in reversed(list(self.processes)):
            found = self.processes[name]
            if found.poll() is None:
                found.send_signal(signal.SIGTERM)
            try:
                found.wait(30)
            except subprocess.TimeoutExpired:
                found.kill()
                found.wait()
        for pid in self._steps():
            os.kill(pid, signal.SIGKILL)
        time.sleep(1)
        for controller in ("memory", "freezer"):
            for folder in sorted(CGROUPS.glob(f"{controller}/slurm_n[12]")):
                for inner in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
                    with contextlib.suppress(OSError):
                        inner.rmdir()
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def _steps(self) -> list[int]:
        """Daemons of tasks that outlived their slurmd: those that hold a file of this cluster's."""
        found = []
        for proc in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if "slurmstepd" in (proc / "cmdline").read_text():
                    held = [os.readlink(handle) for handle in (proc / "fd").iterdir()]
                    if any(name.startswith(f"{self.root}/") for name in held):
                        found.append(int(proc.name))
        return found


@contextlib.contextmanager
def cluster(root: Path, *, accounting: bool) -> Iterator[Cluster]:
    """A cluster in a folder, which is removed with it; kept, and said, where the block fails."""
    found = Cluster(root, accounting=accounting)
    try:
        found.start()
        yield found
    except BaseException:
        say(f"logs of the cluster: {root}/log")
        found.stop()
        raise
    found.stop()
    shutil.rmtree(root)


def require(names: Sequence[str]) -> None:
    missing = [name for name in names if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        sys.exit(f"make slurm needs root and {', '.join(names)}; missing: {', '.join(missing) or 'root'}")
