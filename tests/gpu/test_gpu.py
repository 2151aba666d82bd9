"""`make gpu`: one process per stage, lines on the disk before anything else, and an honest end without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ttbench.gpu import conductor
from ttbench.gpu.conductor import NO_GPU, conduct
from ttbench.gpu.final_table import final_table
from ttbench.gpu.lines import Lines, read_lines
from ttbench.gpu.stage import BY_NAME, STAGES, SUBJECTS

ROOT = Path(__file__).parents[2]
KINDS = {"fact", "measured", "verdict", "absent", "failed", "ended"}
# All that a machine with a GPU needs to have, with what torch and pandas themselves require.
ALLOWED = (
    *("ttbench", "torch", "triton", "numpy", "pandas", "pyarrow", "typer", "rich", "safetensors"),
    *("typing_extensions", "sympy", "mpmath", "networkx", "jinja2", "markupsafe", "fsspec", "filelock", "functorch"),
    *("torchgen", "dateutil", "six", "pytz", "tzdata", "click", "shellingham", "pygments", "markdown_it", "mdurl"),
    *("setuptools", "pkg_resources", "packaging", "_distutils_hack", "annotated_doc", "colorama", "cuda", "nvidia"),
)
BLOCKED = ("datasets", "lm_eval", "platformdirs", "pydantic", "pythonbible", "gguf", "jaxtyping", "yaml", "psutil")
# A Python in which nothing can be imported but the standard library and what is allowed.
BARE = """
import importlib.util, os, sys
allowed = {allowed!r}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in allowed or top.startswith("_"):
            return None
        raise ModuleNotFoundError("blocked: " + name, name=name)
sys.meta_path.insert(0, Blocker())
find = importlib.util.find_spec
def found(name, package=None):
    try:
        return find(name, package)
    except ModuleNotFoundError:
        return None
importlib.util.find_spec = found
"""


def bare(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    text = BARE.format(allowed=ALLOWED) + code
    return subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, **options)


IMPORTS = """
from ttbench.gpu import bare, conductor, __main__
bare.stand_in()
for name in ("facts", "proof", "speed", "peers", "weight", "sanitizer"):
    __import__("ttbench.gpu." + name)
print("imported", bare.absent())
"""


@pytest.mark.parametrize("name", BLOCKED)
def test_the_blocker_blocks(name: str) -> None:
    assert name not in ALLOWED


def test_every_stage_is_imported_with_torch_and_little_else() -> None:
    done = bare(IMPORTS)
    assert done.stdout.split() == ["imported", "True"], done.stderr[-2000:]


# A whole stage where nothing more can be imported, on a model of the zoo.
STAGE = """
import sys
from pathlib import Path
sys.argv = ["gpu", "--stage", "decode", "--device", "cpu", "--seconds", "3600", "--out", {out!r}]
from ttbench.gpu.__main__ import main
sys.exit(main())
"""


def test_a_stage_runs_with_torch_and_little_else(tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    done = bare(STAGE.format(out=str(report)))
    assert done.returncode == 0, done.stderr[-2000:]
    lines = list(read_lines(report))
    assert {line["checkpoint"] for line in lines if line["kind"] == "measured"} == set(SUBJECTS["cpu"].checkpoints)
    assert not [line for line in lines if line["kind"] == "failed"]


# Stages in this process: what they write, not how fast


def run_stage(name: str, tmp_path: Path, *, seconds: float = 3600.0) -> list[dict[str, Any]]:
    """The lines of a stage, which has time enough on the busiest machine."""
    report = tmp_path / f"{name}.jsonl"
    BY_NAME[name].run(SUBJECTS["cpu"], Lines(report, stage=name, seconds=seconds))
    texts = report.read_text().splitlines()
    lines = [json.loads(text) for text in texts]
    assert all(line["stage"] == name and line["kind"] in KINDS and line["at_s"] >= 0 for line in lines)
    return lines


def test_facts_say_what_is_there_and_what_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    lines = run_stage("facts", tmp_path)
    packages = {line["name"] for line in lines if line["what"] == "package"}
    assert {"torch", "triton", "safetensors"} <= packages
    assert any(line["kind"] == "absent" and line["what"] == "nvidia-smi" for line in lines)
    assert not [line for line in lines if line["kind"] == "failed"]


def test_ceilings_are_lines_of_their_own(tmp_path: Path) -> None:
    lines = run_stage("ceilings", tmp_path)
    found = {line["what"]: line for line in lines if line["kind"] == "measured"}
    assert {"read", "copy", "matmul", "cached_read", "launch"} <= found.keys()
    assert found["read"]["bytes_per_s"] > 0
    assert [line["what"] for line in lines if line["kind"] == "absent"] == ["graph_node"]


def test_proof_without_kernels_or_graphs_says_so_and_proves_the_rest(tmp_path: Path) -> None:
    lines = run_stage("graphs", tmp_path)
    verdicts = [line for line in lines if line["kind"] == "verdict"]
    assert {line["what"] for line in verdicts} >= {"state_stays_in_place", "same_bits_twice"}
    assert all(line["ok"] for line in verdicts)
    assert any(line["what"] == "sync_debug_mode" for line in lines if line["kind"] == "absent")


def test_blocks_of_every_engine_are_lines_with_what_a_call_needs(tmp_path: Path) -> None:
    for name in ("decode", "prefill"):
        lines = run_stage(name, tmp_path)
        assert not [line for line in lines if line["kind"] == "failed"], lines
        blocks = [line for line in lines if line["kind"] == "measured" and line["what"] == name]
        points = SUBJECTS["cpu"].decode if name == "decode" else SUBJECTS["cpu"].prefill
        eager = [line for line in blocks if line["engine"] == "eager"]
        assert len(eager) == len(SUBJECTS["cpu"].checkpoints) * len(points) * SUBJECTS["cpu"].repeats
        assert all(line["seconds"] > 0 and line["flops"] > 0 and line["num_bytes"] > 0 for line in blocks)


def test_memory_and_peers_are_told_even_without_a_gpu(tmp_path: Path) -> None:
    memory = run_stage("bytes", tmp_path)
    phases = [line["phase"] for line in memory if line["kind"] == "measured" and line["engine"] == "eager"]
    assert phases == ["load", "prefill", "decode"] * len(SUBJECTS["cpu"].checkpoints)
    peers = run_stage("peers", tmp_path)
    assert any("MATH" in line["name"] for line in peers if line["kind"] == "measured")
    assert any(line["what"] == "selective_scan" for line in peers if line["kind"] == "absent")


def test_fused_kernels_are_left_to_a_gpu(tmp_path: Path) -> None:
    (line,) = run_stage("kernels", tmp_path)
    assert (line["kind"], line["what"]) == ("absent", "fused kernels")
    assert line["why"]


def test_each_case_of_a_kernel_is_a_line_those_of_one_token_and_of_published_sizes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ttbench.gpu import proof
    from ttbench.kernels.dispatch.proof import Proof

    cases = (SimpleNamespace(label="odd", large=False), SimpleNamespace(label="published", large=True))
    monkeypatch.setattr(proof, "absent", lambda: None)
    monkeypatch.setattr(proof, "FUSED", {"scan": "", "scan_step": ""})
    monkeypatch.setattr(proof, "load_twin", lambda name: SimpleNamespace(name=name, cases=cases))
    monkeypatch.setattr(proof, "torch_device", lambda name: name)

    def prove(twin: Any, case: Any, *, device: Any, dtype: Any) -> Proof:
        if twin.name == "scan" and case.large:
            raise RuntimeError("out of resources: shared memory")
        error = 0.5 if case.label == "odd" else 1e-4
        named = {"twin": twin.name, "case": case.label, "dtype": str(dtype)}
        return Proof(**named, error=error, bound=1e-3, repeats=True)

    monkeypatch.setattr(proof, "prove", prove)
    report = tmp_path / "kernels.jsonl"
    proof.kernels(SUBJECTS["cuda"], Lines(report, stage="kernels", seconds=3600))
    lines = list(read_lines(report))
    told = [(line.get("twin", line.get("name")), line["case"], line.get("ok")) for line in lines]
    step, scan = ("scan_step", "published", True), ("scan", "published", None)
    assert told == [step, step, scan, scan, *([("scan_step", "odd", False)] * 2), *([("scan", "odd", False)] * 2)]
    assert lines[2]["message"] == "out of resources: shared memory"
    assert "NOT: kernel scan_step odd" in final_table(lines)


def test_a_program_that_is_not_there_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (line,) = run_stage("sanitizer", tmp_path)
    assert (line["kind"], line["what"]) == ("absent", "compute-sanitizer")


def test_without_time_a_stage_stops_and_says_where(tmp_path: Path) -> None:
    lines = run_stage("decode", tmp_path, seconds=0.0)
    assert {line["why"] for line in lines if line["what"] == "decode"} == {"no time left"}


# The parent


def program(tmp_path: Path, code: str) -> list[str]:
    """A program that stands for a stage."""
    file = tmp_path / "stage.py"
    head = f"import sys, time, os\nsys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path\n"
    head += "from ttbench.gpu.lines import Lines\n"
    head += "given = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
    head += "lines = Lines(Path(given['--out']), stage=given['--stage'], seconds=float(given['--seconds']))\n"
    file.write_text(head + code)
    return [sys.executable, str(file)]


def conducted(tmp_path: Path, code: str, *, budget_s: float, only: tuple[str, ...]) -> tuple[list[Any], list[str], int]:
    report, said = tmp_path / "report.jsonl", list[str]()
    done = conduct(
        device="cpu", budget_s=budget_s, report=report, only=only, say=said.append, program=program(tmp_path, code)
    )
    return list(read_lines(report)), said, done


def test_a_stage_that_hangs_is_killed_and_leaves_its_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conductor, "GRACE_S", 0.0)
    code = "lines.write('measured', 'first', seconds=1.5)\ntime.sleep(600)\n"
    # long enough for a Python to start on a busy machine: 240 s of budget are 7.6 s of this stage
    began = time.monotonic()
    lines, said, done = conducted(tmp_path, code, budget_s=240.0, only=("facts",))
    assert time.monotonic() - began < 60
    assert [(line["kind"], line["what"]) for line in lines[:2]] == [("measured", "first"), ("ended", "stage")]
    assert lines[1]["how"] == "killed"
    assert "stage facts killed" in "\n".join(said)
    assert done == 0


def test_a_stage_that_dies_leaves_its_last_words_and_the_next_one_runs(tmp_path: Path) -> None:
    code = "lines.write('fact', given['--stage'])\nprint('the end', file=sys.stderr)\nsys.stderr.flush()\n"
    code += "os.kill(os.getpid(), 9) if given['--stage'] == 'facts' else None\n"
    lines, _, done = conducted(tmp_path, code, budget_s=475.0, only=("facts", "peers"))
    ended = [line for line in lines if line["kind"] == "ended"]
    assert [(line["stage"], line["how"]) for line in ended] == [("facts", "died"), ("peers", "done")]
    assert ended[0]["exit_code"] == -9
    assert ended[0]["stderr"] == ["the end"]
    assert done == 0


def test_the_table_comes_last_and_is_a_line_too(tmp_path: Path) -> None:
    code = "lines.write('measured', 'read', bytes_per_s=2.0 * 2**30)\n"
    lines, said, _ = conducted(tmp_path, code, budget_s=475.0, only=("ceilings",))
    assert lines[-1]["stage"] == "table"
    assert any("reading" in text and "2.00 GiB/s" in text for text in lines[-1]["text"])
    assert "send it back" in said[-1]


def test_without_a_gpu_nothing_is_started_and_it_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conductor, "missing_gpu", lambda: "torch 9.9 sees 0 CUDA devices")
    said: list[str] = []
    report = tmp_path / "report.jsonl"
    code = conduct(device="cuda", budget_s=480, report=report, say=said.append, program=["/nonexistent"])
    assert code == NO_GPU
    assert said == [f"no GPU to try: torch 9.9 sees 0 CUDA devices; nothing was measured. Report: {report}"]
    assert [line["kind"] for line in read_lines(report)] == ["absent"]


def test_shares_of_the_time_add_up_to_the_budget() -> None:
    assert [stage.name for stage in STAGES][:3] == ["facts", "ceilings", "kernels"]
    assert sum(stage.seconds for stage in STAGES) == 480


# Lines and table


def test_a_line_that_was_cut_off_hides_no_other(tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    lines = Lines(report, stage="decode", seconds=1.0)
    lines.write("measured", "a", seconds=float("nan"), place=(1, 2), odd=Path("x"))
    lines.write("measured", "b")
    with report.open("a") as file:
        file.write('{"stage": "decode", "kind": "meas')
    first, second = read_lines(report)
    assert (first["seconds"], first["place"], first["odd"]) == ("nan", [1, 2], "x")
    assert second["what"] == "b"


def test_each_line_is_on_the_disk_before_the_next_thing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    report = tmp_path / "report.jsonl"
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(report.read_text()))
    Lines(report, stage="s", seconds=1.0).write("fact", "x")
    assert len(synced) == 1
    assert json.loads(synced[0])["what"] == "x"


def timed(seconds: float, **changed: Any) -> dict[str, Any]:
    return {
        **{"stage": "decode", "kind": "measured", "what": "decode", "checkpoint": "random:ttt-linear-1.3b"},
        **{"engine": "eager", "dtype": "bfloat16", "context_len": 512, "batch_size": 1, "seconds": seconds},
        **{"kernels": "torch", "flops": 2e9, "num_bytes": 3e9, **changed},
    }


def test_the_table_shares_times_out_by_the_ceilings_that_were_seen() -> None:
    lines = [
        {"stage": "ceilings", "kind": "measured", "what": "read", "bytes_per_s": 3e12},
        {"stage": "ceilings", "kind": "measured", "what": "matmul", "dtype": "bfloat16", "flops_per_s": 5e14},
        {"stage": "ceilings", "kind": "measured", "what": "matmul", "dtype": "float32", "flops_per_s": 5e13},
        *(timed(seconds) for seconds in (0.004, 0.002, 0.01)),
        timed(0.002, engine="graph"),
        {"stage": "graphs", "kind": "verdict", "what": "as_eager", "ok": False, "engine": "graph"},
        {"stage": "peers", "kind": "failed", "what": "peer", "name": "fla", "error": "ValueError", "message": "no"},
    ]
    said = final_table(lines)
    # 3e9 bytes at 3e12 bytes/s are 1 ms, of a median of 4 ms
    assert "4.000 ms   25.0 %" in said
    assert "2.000 ms   50.0 %" in said
    assert "0 of 1 checks hold" in said
    assert "NOT: as_eager graph" in said
    assert "failed: peers fla ValueError: no" in said


def test_make_gpu_without_a_gpu_ends_in_seconds_and_says_so(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    command = [sys.executable, "-m", "ttbench.gpu", "--budget", "480", "--out", str(tmp_path / "r.jsonl")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == NO_GPU
    assert "sees 0 CUDA devices; nothing was measured" in done.stdout
