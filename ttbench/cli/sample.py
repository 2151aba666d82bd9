"""`ttbench show RUN CELL --sample N`: one score down to its prompt, tokens, answer and log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ttbench.cli import console
from ttbench.cli.console import Column
from ttbench.tasks.view import PROMPT

MOST_TOKENS = 32  # printed of a window, and questions of a sequence; --json has all


def print_sample(view: Mapping[str, Any]) -> None:
    """Print what `ttbench.runs.evidence.open_sample` found."""
    place = f"sample {view['sample']} of {view['num_samples']}, counted from 0"
    head = [("cell", view["cell_id"]), ("sample", place), ("checkpoint", view["checkpoint"])]
    head += [("task", f"{view['task']}, context {view['context_len']} tokens")]
    _print("", head)
    _print("recipe", (view["recipe"] or {}).items())
    _print("row", [(name, value) for name, value in {**view["keys"], **view["values"]}.items() if value is not None])
    kept, rebuilt = view["evidence"] or {}, view["rebuilt"]
    if rebuilt is not None:
        _print_prompt(rebuilt)
        _print_rebuilt(rebuilt)
    elif kept:
        _print_prompt(kept)
        for part in view["view"]:
            _print_part(part)
    elif not view["not_rebuilt"]:
        console.say("no text was kept of this sample")
    if view["not_rebuilt"]:
        console.say(f"the text cannot be shown: {view['not_rebuilt']}", style="yellow")


def _print_prompt(part: Mapping[str, Any]) -> None:
    rows = [(name.replace("_", " "), part.get(name)) for name in PROMPT]
    _print("prompt", [(name, value) for name, value in rows if value])


def _print_rebuilt(rebuilt: Mapping[str, Any]) -> None:
    if "targets" in rebuilt:
        _print_tokens("scored tokens", rebuilt["targets"])
    if "questions" in rebuilt:
        _print_questions(rebuilt["questions"])
    if "document_tokens" in rebuilt:
        console.say(
            f"the document has {rebuilt['document_tokens']:,} tokens; this row is a sum over what was scored of them, "
            "and the nats of single tokens were not kept"
        )


def _print_questions(questions: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        (
            each["asked_after"],
            f"'{_plain(each['before'])}'",
            f"'{_plain(each['text'])}'",
            " ".join(map(str, each["ids"])),
            sum(each["nats"]),
            "yes" if each["answered"] else "no",
        )
        for each in questions[:MOST_TOKENS]
    ]
    _table("questions", ("after token", "text before", "text asked for", "ids", "nats", "answered"), rows)
    if len(questions) > MOST_TOKENS:
        console.say(f"{len(questions) - MOST_TOKENS} more questions: --json")


def _print_part(part: Mapping[str, Any]) -> None:
    """One part of what the task shows of its evidence: names with values, or a table."""
    if "heads" not in part:
        _print(part["title"], part["rows"])
        return
    heads = part["heads"]
    rows = [
        [_quoted(value) if "text" in head else value for head, value in zip(heads, row, strict=True)]
        for row in part["rows"]
    ]
    _table(part["title"], heads, rows)


def _quoted(value: Any) -> Any:
    return f"'{_plain(value)}'" if isinstance(value, str) else value


def _print_tokens(title: str, targets: Sequence[Mapping[str, Any]]) -> None:
    rows = [(index, each["id"], repr(each["text"]), each["nats"]) for index, each in enumerate(targets[:MOST_TOKENS])]
    _table(title, ("", "id", "text", "nats"), rows)
    if len(targets) > MOST_TOKENS:
        console.say(f"{len(targets) - MOST_TOKENS} more tokens: --json")


def _print(title: str, rows: Any) -> None:
    rows = [(name, _plain(value)) for name, value in rows]
    if rows:
        console.out().print() if title else None
        console.print_table(rows, [Column(""), Column("", wrap=True)], head=False, title=title)


def _table(title: str, heads: Sequence[str], rows: Any) -> None:
    made = [[f"{value:.4f}" if isinstance(value, float) else value for value in row] for row in rows]
    console.out().print()
    columns = [Column(head, numeric="text" not in head, wrap="text" in head or head == "ids") for head in heads]
    console.print_table(made, columns, title=title)


def _plain(value: Any) -> Any:
    """Text as it stands, with line ends and what a terminal would obey spelled out; lists of ids with spaces."""
    if isinstance(value, str):
        return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in value)
    if isinstance(value, list | tuple):
        return " ".join(str(each) for each in value)
    return f"{value:.6g}" if isinstance(value, float) else value
