"""What a gate found, for people on a pull request (Markdown), for CI servers (JUnit XML), and for a terminal."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

from ttbench.report.gate.lines import EQUAL, SHOWN_ONLY, TO_CONFIRM, Gate, GateLine
from ttbench.report.words import significant, unit_words

# What XML 1.0 cannot hold, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MARKED = re.compile(r"([\\`*_\[\]<>|#~&])")
_MOST = 50  # lines of a table that is not red


def change(line: GateLine) -> str:
    """How much worse, with its interval and margin: `0.0081 bits per byte worse (0.0061 to 0.0102), margin 0.005`."""
    if line.worse_by is None:
        return ""
    unit = "" if _as_share(line) or line.statistic == "proportion" else unit_words(line.unit or "")
    size = " ".join(filter(None, (_size(line, abs(line.worse_by)), unit)))
    parts = [f"{size} {'worse' if line.worse_by > 0 else 'better'}"] if line.worse_by else []
    if line.low is not None and line.high is not None and line.low < line.high:
        parts.append(f"({' to '.join(_signed(line, end) for end in (line.low, line.high))})")
    if line.margin is not None and line.verdict != EQUAL:
        parts.append(f"margin {_size(line, line.margin)}")
    return ", ".join(parts).replace(", (", " (")


def _as_share(line: GateLine) -> bool:
    return line.rule == "time" or line.statistic in ("exp_ratio", "median", "max")


def _size(line: GateLine, value: float) -> str:
    if _as_share(line):
        return f"{significant(100 * value, 3)} %"
    if line.statistic == "proportion":
        return f"{significant(100 * value, 3)} points of 100"
    return f"{value:,.0f}" if line.rule == "count" else significant(value, 3)


def _signed(line: GateLine, value: float) -> str:
    return f"{'-' if value < 0 else ''}{_size(line, abs(value))}"


def why(line: GateLine) -> str:
    """The change and the reason of a line, in one."""
    return "; ".join(filter(None, (change(line), line.reason)))


# Markdown


def markdown(gate: Gate) -> str:
    """A summary for a pull request: the red lines first, times that were only shown, and the rest folded."""
    parts = [f"### ttbench gate: {_plain(gate.headline)}", ""]
    red = [line for line in gate.lines if line.red or line.verdict == TO_CONFIRM]
    shown = [line for line in gate.lines if line.verdict == SHOWN_ONLY]
    green = [line for line in gate.lines if line not in red and line not in shown]
    if red:
        parts += [*_table(red), ""]
    if shown:
        parts += [*_folded(f"{len(shown)} times, shown and not gated", shown), ""]
    if green:
        parts += [*_folded(f"{len(green)} green", green), ""]
    return "\n".join(parts)


def _folded(title: str, lines: Sequence[GateLine]) -> list[str]:
    left = [f"... and {len(lines) - _MOST} more; `--json` has all of them"] if len(lines) > _MOST else []
    table = _table(lines[:_MOST])
    return ["<details>", f"<summary>{title}</summary>", "", *table, "", *left, "</details>"]


def _table(lines: Sequence[GateLine]) -> list[str]:
    head = ["| what | verdict | baseline → run | change |", "|---|---|---|---|"]
    rows = [(line.what, line.verdict, line.numbers, why(line)) for line in lines]
    return [*head, *(f"| {' | '.join(map(_plain, row))} |" for row in rows)]


def _plain(text: str) -> str:
    """Text of others as text: no markup, no line of its own."""
    return _MARKED.sub(r"\\\1", " ".join(text.split()))


# JUnit


def junit(gate: Gate) -> bytes:
    """JUnit XML: a suite for each task, a case for each line; red ones fail, times that are only shown are skipped."""
    cases = gate.lines
    root = ET.Element("testsuites", {"name": "ttbench gate", **_counts(cases)})
    for task in dict.fromkeys(line.task for line in cases):
        mine = [line for line in cases if line.task == task]
        suite = ET.SubElement(root, "testsuite", {"name": _xml(task), **_counts(mine)})
        for line in mine:
            name = " ".join(filter(None, (line.label or "cell", line.place)))
            case = ET.SubElement(suite, "testcase", classname=_xml(f"{task}.{line.checkpoint}"), name=_xml(name))
            said = ". ".join(filter(None, (line.numbers, why(line))))
            if line.red or line.verdict == TO_CONFIRM:
                ET.SubElement(case, "failure", message=_xml(line.verdict)).text = _xml(said)
            elif line.verdict == SHOWN_ONLY:
                ET.SubElement(case, "skipped", message=_xml(line.verdict))
                ET.SubElement(case, "system-out").text = _xml(said)
            else:
                ET.SubElement(case, "system-out").text = _xml(f"{line.verdict}. {said}")
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _counts(lines: Sequence[GateLine]) -> dict[str, str]:
    failed = sum(line.red or line.verdict == TO_CONFIRM for line in lines)
    skipped = sum(line.verdict == SHOWN_ONLY for line in lines)
    return {"tests": str(len(lines)), "failures": str(failed), "errors": "0", "skipped": str(skipped)}


def _xml(text: str) -> str:
    return _NOT_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
