"""Scores of perplexity on a card: which text they are of, and that they are ratios of sums."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from ttbench.tasks.perplexity.perplexity_card import document_bits, scores


@pytest.mark.parametrize(
    ("kinds", "corpora"),
    [
        (["code", "prose"], ["kjv", "code"]),
        (["code", "languages"], ["languages", "kjv", "code"]),
        (["dna"], ["genomes", "genomes-strain"]),
        (["mqar", "parity"], []),
    ],
)
def test_a_model_is_scored_on_text_like_its_rows(kinds: list[str], corpora: list[str]) -> None:
    found = [score.options for score in scores(kinds, context_len=256, share=0.05)]
    assert [options["corpus"] for options in found] == corpora
    assert all(options["limit"] == 1 and options["ctx"] == 256 for options in found)


def test_bits_of_documents_are_ratios_of_their_own_sums() -> None:
    rows = pd.DataFrame(
        {
            "status": ["ok"] * 3,
            "reason": [None] * 3,
            "document": ["a", "a", "b"],
            "nats": [math.log(2) * 8, math.log(2) * 8, math.log(2) * 3],
            "num_bytes": [4, 4, 3],
            "bzip2_bytes": [10, None, 5],
            "document_bytes": [40, None, 20],
        }
    )
    ours, bzip2 = document_bits(rows)
    assert ours.tolist() == [pytest.approx(4.0 / 2), pytest.approx(1.0)]
    assert bzip2.tolist() == [2.0, 2.0]
    with pytest.raises(ValueError, match="oom"):
        document_bits(rows.assign(status="oom"))
