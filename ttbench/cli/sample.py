"""`ttbench show RUN CELL --sample N`: one score down to its prompt, tokens, answer and log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ttbench.cli import console
from ttbench.cli.console import Column

MOST_TOKENS = 32  # printed of a window, and questions of a sequence; --json has all
ENDS = 240  # characters printed of a prompt, at each end
PROMPT = ("prompt_start", "first_ids", "prompt_end", "last_ids")
# Of a sample's evidence, what has a form of its own.
PRINTED = {
    *PROMPT,
    *("value_token_nats", "value_token_control_nats", "candidates", "nats", "control_nats"),
    *("arguments", "responses", "token_nats"),
}


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
        _print_answer(kept)
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


def _print_answer(kept: Mapping[str, Any]) -> None:
    """What a task kept: its known parts as tables, the rest as it stands."""
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
    if kept.get("arguments"):
        _print_requests(kept["arguments"], kept["responses"])
    if kept.get("token_nats") and not nats:
        console.out().print(f"\nnats of the scored tokens: {' '.join(f'{nat:.3f}' for nat in kept['token_nats'])}")
    _print(
        "kept", [(name, value) for name, value in kept.items() if value is not None and name not in PRINTED | {*names}]
    )


def _print_requests(requests: Sequence[Sequence[str]], responses: Sequence[Sequence[Any]]) -> None:
    """What lm-eval asked, each with the model's answer: a log-likelihood and whether it is greedy, or a text."""
    contexts = list(dict.fromkeys(request[0] for request in requests))
    for number, context in enumerate(contexts, 1):
        ends = [("prompt start", context[:ENDS])] + ([("prompt end", context[-ENDS:])] if len(context) > ENDS else [])
        _print("prompt" if len(contexts) == 1 else f"prompt {number}", ends)
    rows = []
    for request, answers in zip(requests, responses, strict=True):
        asked = f"'{_plain(request[1])}'" if len(request) > 1 else None
        number = contexts.index(request[0]) + 1
        rows += [(number, asked, *(answer if isinstance(answer, list) else [answer])) for answer in answers]
    answer = "answer text" if isinstance(rows[0][2], str) else "log-likelihood"
    _table("requests", ("prompt", "text asked for", answer, "greedy")[: len(rows[0])], rows)


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
