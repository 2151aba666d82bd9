"""The text of samples whose evidence has its place or its ids only: cut from the corpus again, or decoded. Torch-free.

Letters: T tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from ttbench.errors import UsageError
from ttbench.tasks.ends import prompt_ends, readable
from ttbench.tasks.view import EvidenceTable, RebuiltText, Remark, TextSource
from ttbench.types import Sample

if TYPE_CHECKING:
    from ttbench.checkpoints.tokenizer import Tokenizer


def ends_of(ids: Int[np.ndarray, "T"], tokenizer: Tokenizer) -> dict[str, Any]:
    """The two ends of what was read, and what it was read behind."""
    return {**prompt_ends(ids, tokenizer), "bos_id": tokenizer.bos_id}


def window_text(sample: Sample, source: TextSource, *, counted: str) -> RebuiltText:
    """The targets of a window with the nats of each where they were kept, and the ends of the text before them.

    Args:
        sample: with `document`, `window_start`, `num_tokens` and `counted`.
        counted: the column that has the bytes of the targets, by which the text is recognised.

    Raises UsageError when the text has another number of bytes, and what `source` raises.
    """
    # Of published rows nobody says which of a sample's columns are its keys.
    told = {**sample.keys, **sample.values}
    name, start, num_tokens = str(told["document"]), int(told["window_start"] or 0), int(told["num_tokens"] or 0)
    ids, tokenizer = source.document(name), source.tokenizer()
    # A context holds its window; without BOS one more token of the document is read before it.
    read = source.context_len - num_tokens + (tokenizer.bos_id is None)
    before, targets = ids[max(0, start - read) : start], ids[start : start + num_tokens]
    num_bytes = int(tokenizer.byte_lengths(targets).sum())
    if num_bytes != told[counted]:
        raise UsageError(
            f"the {num_tokens} tokens from {start} of '{name}' are {num_bytes} bytes; the row has {told[counted]}"
        )
    nats = (sample.evidence or {}).get("token_nats") or [None] * num_tokens
    texts = [readable(tokenizer.decode(np.array([token]))) for token in targets]
    rows = tuple(zip(range(num_tokens), targets.tolist(), texts, nats, strict=True))
    return RebuiltText(
        ends=ends_of(before, tokenizer),
        data={"targets": [{"id": token, "text": text, "nats": cost} for _, token, text, cost in rows]},
        parts=(EvidenceTable(title="scored tokens", heads=("", "id", "text", "nats"), rows=rows),),
    )


def document_text(name: str, source: TextSource) -> RebuiltText:
    """The ends of a document over which a sample is a sum. Raises what `source` raises."""
    ids = source.document(name)
    remark = (
        f"the document has {len(ids):,} tokens; this row is a sum over what was scored of them, "
        "and the nats of single tokens were not kept"
    )
    data = {"document_tokens": len(ids)}
    return RebuiltText(ends=ends_of(ids, source.tokenizer()), data=data, parts=(Remark(text=remark),))
