"""The questions of a sequence as text, from the ids that evidence keeps. Torch-free."""

from __future__ import annotations

from typing import Any

import numpy as np

from ttbench.tasks.ends import ENDS_TOKENS, readable
from ttbench.tasks.rebuilt import ends_of
from ttbench.tasks.view import EvidenceTable, RebuiltText, TextSource
from ttbench.types import Sample

HEADS = ("after token", "text before", "text asked for", "ids", "nats", "answered")


def questions_text(sample: Sample, source: TextSource) -> RebuiltText | None:
    """What was read, and each question: the place it was asked at, and the tokens that would have answered it.

    None without evidence. Raises what `source` raises.
    """
    kept = sample.evidence
    if kept is None or not {"ids", "target_ids"} <= kept.keys():
        return None
    tokenizer, ids = source.tokenizer(), np.array(kept["ids"], dtype=np.int64)
    names = ("question", "asked_after", "target_ids", "token_nats")
    questions: dict[int, dict[str, Any]] = {}
    for number, place, target, nats in zip(*(kept[name] for name in names), strict=True):
        entry = {"question": number, "asked_after": place, "ids": [], "nats": [], "answered": kept["answered"][number]}
        entry = questions.setdefault(number, entry)
        entry["ids"].append(target)
        entry["nats"].append(nats)
    for entry in questions.values():
        entry["before"] = readable(tokenizer.decode(ids[: entry["asked_after"] + 1][-ENDS_TOKENS:]))
        entry["text"] = readable(tokenizer.decode(np.array(entry["ids"])))
    rows = tuple(
        (
            each["asked_after"],
            each["before"],
            each["text"],
            each["ids"],
            sum(each["nats"]),
            "yes" if each["answered"] else "no",
        )
        for each in questions.values()
    )
    return RebuiltText(
        ends=ends_of(ids, tokenizer),
        data={"questions": list(questions.values())},
        parts=(EvidenceTable(title="questions", heads=HEADS, rows=rows),),
    )
