"""The command line's streams closed, full, broken or of a plain encoding, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Prints a line to stderr and a document to stdout, as commands do.
SCRIPT = """
import sys
from ttbench.cli import streams

def command():
    print("progress", file=sys.stderr)
    sys.stdout.write({text!a} * {times})
    sys.exit({code})

streams.run(command)
"""


def run(
    text: str = "table\n", *, times: int = 1, code: int = 0, shell: str = "", variables: Any = ()
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT.format(text=text, times=times, code=code)]
    given: dict[str, Any] = {"env": {**os.environ, **dict(variables)}, "capture_output": True, "encoding": "utf-8"}
    return subprocess.run(["bash", "-c", f'"$@" {shell}', "bash", *command], check=False, **given)


def test_open_streams_pass_text_and_exit_code_through() -> None:
    done = run("±0.1\n", code=3)
    assert (done.stdout, done.stderr, done.returncode) == ("±0.1\n", "progress\n", 3)


def test_closed_streams_cost_what_they_would_have_shown() -> None:
    assert run(shell=">&-").stderr == "progress\n"
    assert run(shell=">&- 2>&- <&-").returncode == 0


def test_a_closed_stdout_is_not_taken_by_the_next_file(tmp_path: Path) -> None:
    script = f"""
from ttbench.cli import streams
import subprocess
def command():
    with open({str(tmp_path / "rows")!r}, "w") as file:
        subprocess.run(["echo", "a child's line"], check=True)
        file.write("rows")
streams.run(command)
"""
    subprocess.run(["bash", "-c", '"$@" >&-', "bash", sys.executable, "-c", script], check=True)
    assert (tmp_path / "rows").read_text() == "rows"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_disk_behind_stdout_is_one_line_and_exit_code_2() -> None:
    done = run(shell=">/dev/full")
    assert done.stderr == "progress\nerror: cannot write the output: no space left on device\n"
    assert done.returncode == 2


def test_a_reader_that_has_gone_is_one_line_and_exit_code_2() -> None:
    done = run("line\n", times=100_000, shell="| true; exit ${PIPESTATUS[0]}")
    assert done.stderr == "progress\nerror: cannot write the output: what reads it has ended\n"
    assert done.returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_stderr_that_fails_costs_no_result() -> None:
    done = run(shell="2>/dev/full")
    assert (done.stdout, done.returncode) == ("table\n", 0)


def test_a_plain_locale_spells_what_it_lacks() -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    assert run("1.5 ±0.1 · 模\n", variables=plain).stdout == "1.5 +-0.1 | \\u6a21\n"


def test_json_is_json_in_every_locale() -> None:
    script = "from ttbench.cli import streams, console; streams.guard(); console.print_json({'name': '±模😀\\udce9'})"
    for encoding in ("ascii", "utf-8"):
        variables = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, check=True)
        assert json.loads(done.stdout) == {"name": "±模😀\udce9"}
