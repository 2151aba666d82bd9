"""`ttbench compare` and `ttbench claims`: what is shown of checkpoints by what was measured."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group
from rich.text import Text

from ttbench.cli import console
from ttbench.cli import gather as reading
from ttbench.cli.console import Column
from ttbench.cli.formats.format_commands import require_one_form
from ttbench.errors import UsageError
from ttbench.report import words
from ttbench.report.claims import telling
from ttbench.report.claims.claim_files import chosen, field_claims, read_claims
from ttbench.report.claims.printed import all_borne_out
from ttbench.report.claims.ruling import rule_on
from ttbench.report.comparison.sentences import caption, effect
from ttbench.report.comparison.variants import read_variant
from ttbench.report.foreign.reading import compare_logs
from ttbench.report.foreign.scores import BENCHMARK
from ttbench.report.formats.verdict_sheets import comparison_sheet, verdict_sheets
from ttbench.report.formats.writing import written
from ttbench.report.head_to_head.rendering import render
from ttbench.report.head_to_head.verdicts import HeadToHead, head_to_head, said


def compare(names: Sequence[str], *, runs: Sequence[str], root: Path, form: str | None, as_json: bool) -> None:
    """Print what differs between checkpoints or settings of one, from the runs named or from all.

    Args:
        names: two or more; none: every checkpoint of the runs.
        form: the tables alone, in this format.

    Raises UsageError for one name alone, and where no two of them can be compared in anything.
    """
    require_one_form(form, as_json=as_json)
    if len(names) == 1:
        raise UsageError(f"'{names[0]}' alone cannot be compared; name two checkpoints, or none to compare all")
    if names:
        frames = reading.rows_of([read_variant(name) for name in names], runs=runs, root=root)
        found = head_to_head(frames, names)
        for text, rows in zip(names, frames, strict=True):
            reading.say_age(rows.loc[rows["checkpoint"] == read_variant(text).name], text)
    else:
        rows = reading.rows_of_all(runs, root=root)
        found = head_to_head(rows)
        reading.say_age(rows, "of these runs")
    for text in found.left_out:
        console.say(text, style="yellow")
    if not found.num_comparable:
        raise UsageError(_nothing(found))
    if form is not None:
        # in the text of the terminal it stands beneath the tables
        console.say(found.training_noise)
        sys.stdout.write(written(verdict_sheets(found), form))
        return
    console.print_json(found.to_json()) if as_json else console.print_rich(render(found))


def compare_foreign(places: Sequence[str], *, runs: Sequence[str], form: str | None, as_json: bool) -> None:
    """Print what differs between two folders of logs that other tools wrote.

    Raises UsageError for other than two folders, and for logs that cannot be read or share nothing.
    """
    require_one_form(form, as_json=as_json)
    if len(places) != 2 or runs:
        raise UsageError("--from takes two folders of logs and nothing else: ttbench compare --from DIR_A DIR_B")
    made = compare_logs(*map(Path, places))
    for text in made.remarks:
        console.say(text, style="yellow")
    entries = words.records(made.found)
    if form is not None:
        sys.stdout.write(written([comparison_sheet(entries, place=BENCHMARK)], form))
        return
    if as_json:
        console.print_json({"comparisons": [entry | {"said": said(entry)} for entry in entries]})
        return
    for metric in words.by(entries, "metric"):
        told = [entry for entry in metric if entry["effect"] is not None]
        scale = words.of_metric(told or metric, ("value_a", "value_b"))
        rows = [
            (
                entry[BENCHMARK],
                *(None if entry[side] is None else scale.text(entry[side]) for side in ("value_a", "value_b")),
                None if entry["effect"] is None else effect(entry),
                said(entry),
            )
            for entry in metric
        ]
        columns = [Column("benchmark"), *(Column(metric[0][side], numeric=True) for side in ("a", "b"))]
        columns += [Column("effect (95% interval)"), Column("verdict", wrap=True)]
        console.print_table(rows, columns, title=words.title({**metric[0], "axes": "context_len"}, scale.unit))
        if told:
            console.print_rich(words.Paragraph(caption(told), "dim"))
        console.out().print()


def _nothing(found: HeadToHead) -> str:
    """Why no two checkpoints can be compared in anything, and what to do."""
    told = " and ".join(f"'{name}'" for name in found.names)
    reasons = dict.fromkeys(str(entry["reason"]) for entry in words.records(found.verdicts))
    why = "; ".join(list(reasons)[:3]) or "they have no metric in common yet"
    return f"nothing of {told} can be compared: {why}; measure them alike: ttbench run TASK {_flags(found)}"


def _flags(found: HeadToHead) -> str:
    return " ".join(f"--checkpoint {name}" for name in dict.fromkeys(read_variant(name).name for name in found.names))


def claims(ids: Sequence[str], *, file: Path | None, runs: Sequence[str], root: Path, as_json: bool) -> None:
    """Print what rows and the papers' own numbers say of claims: all in a table, those named in full."""
    known = field_claims() if file is None else read_claims([file])
    wanted = chosen(known, ids)
    # All are ruled on, whichever are shown: who picks one does not get narrower intervals for it.
    sources = reading.sources(runs, root=root, tasks={claim.cell.task for claim in known})
    rulings = rule_on(known, sources).of(wanted)
    borne = all_borne_out(wanted)
    if as_json:
        console.print_json(telling.records(rulings, borne))
        return
    if ids:
        console.print_rich(telling.details(rulings, borne))
    else:
        columns = [Column("claim", wrap=True), Column("answer"), Column("why, or what decided it", wrap=True)]
        console.print_table(telling.table(rulings, borne), [*columns, Column("the paper's own numbers", wrap=True)])
        console.out().print()
    console.print_rich(Group(words.Paragraph(telling.closing(rulings)), Text()))
    if not ids:
        console.say("rules, rows and intervals of one claim: ttbench claims ID")
