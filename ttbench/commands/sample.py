"""`ttbench show RUN CELL --sample N`: one score down to its prompt, tokens, answer and log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ttbench import console
from ttbench.console import Column

MOST_TOKENS = 32  # printed of a window; --json has all


def print_sample(view: Mapping[str, Any]) -> None:
    """Print what `ttbench.evidence.open_sample` found."""
    place = f"sample {view['sample']} of {view['num_samples']}, counted from 0"
    head = [("cell", view["cell_id"]), ("sample", place), ("checkpoint", view["checkpoint"])]
    head += [("task", f"{view['task']}, context {view['context_len']} tokens")]
    _print("", head)
    _print("recipe", (view["recipe"] or {}).items())
    _print("row", [(name, value) for name, value in {**view["keys"], **view["values"]}.items() if value is not None])
    kept, rebuilt = view["evidence"] or {}, view["rebuilt"]
    if rebuilt is not None:
        _print_prompt(rebuilt)
        _print_tokens("scored tokens", rebuilt["targets"])
    elif kept:
        _print_prompt(kept)
        _print_answer(kept)
    else:
        console.say("no text was kept of this sample: it is a sum over a document")
    if view["not_rebuilt"]:
        console.say(f"the text cannot be shown: {view['not_rebuilt']}", style="yellow")


def _print_prompt(part: Mapping[str, Any]) -> None:
    rows = [
        (name.replace("_", " "), part.get(name)) for name in ("prompt_start", "first_ids", "prompt_end", "last_ids")
    ]
    _print("prompt", [(name, value) for name, value in rows if value])


def _print_answer(kept: Mapping[str, Any]) -> None:
    names = ("value", "value_ids", "answer", "answer_ids", "control_answer")
    _print("answer", [(name.replace("_", " "), kept[name]) for name in names if kept.get(name) is not None])
    nats = kept.get("value_token_nats")
    if nats:
        rows = zip(kept["value_ids"], nats, kept["value_token_control_nats"], strict=True)
        _table("tokens of the value", ("id", "nats", "nats without the needle"), rows)
    if kept.get("candidates"):
        rows = zip(kept["candidates"], kept["nats"], kept["control_nats"], strict=True)
        changes = [(value, each, other, each - other) for value, each, other in rows]
        _table("candidates, the true one first", ("value", "nats", "control", "change"), changes)
    if kept.get("token_nats") and not nats:
        console.out().print(f"\nnats of the scored tokens: {' '.join(f'{nat:.3f}' for nat in kept['token_nats'])}")


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
    console.print_table(made, [Column(head, numeric=head != "text") for head in heads], title=title)


def _plain(value: Any) -> Any:
    """Text as it stands, with its line ends spelled out; lists of ids with spaces."""
    if isinstance(value, str):
        return value.replace("\n", "\\n")
    if isinstance(value, list | tuple):
        return " ".join(str(each) for each in value)
    return f"{value:.6g}" if isinstance(value, float) else value
