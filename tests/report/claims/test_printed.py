"""What papers' own numbers say of their claims, computed from the published lines by the claims' rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ttbench.errors import SuiteError, UnknownNameError
from ttbench.report.claims.claim import Claim, PrintedSides
from ttbench.report.claims.claim_files import field_claims
from ttbench.report.claims.printed import all_borne_out, borne_out
from ttbench.report.papers.numbers import PublishedNumber, read_published

FIELD = {claim.id: claim for claim in field_claims()}


@pytest.mark.parametrize(
    ("name", "answer", "held", "compared", "said"),
    [
        ("attention-quadratic", "holds", 2, 2, "curvature"),
        ("flash-attention-exact", "holds", 4, 4, "14.3"),
        ("flash-attention-linear-memory", "holds", 1, 1, "curvature"),
        ("state-space-near-linear", "holds", 1, 1, "read off the figure"),
        # 4.98 times is best bar against best bar; at equal batches it is 1.8 to 4.0
        ("mamba-generates-faster", "fails", 0, 6, "140 tokens/s against Transformer 1.3B"),
        ("mamba-matches-transformer", "partly", 5, 8, "11.85 against Transformer++, point 125M"),
        ("mamba2-faster-than-mamba", "holds", 11, 11, "read off the figure"),
        ("titans-beyond-2m", "holds", 2, 2, "69 % against Llama3.1-8B + RAG"),
        ("titans-needles", "holds", 9, 9, "98.4 % against TTT"),
        ("titans-beat-transformers", "holds", 12, 12, "Transformer++"),
        # MAC at 400M is above Gated DeltaNet
        ("titans-beat-recurrent", "partly", 55, 56, "25.61 against Gated DeltaNet (Wikitext, 400 M) 25.47"),
        ("svf-fewer-parameters", "holds", 12, 12, "580,000 parameters against"),
        ("svf-beats-lora", "partly", 6, 9, "copied from others"),
        ("two-passes-cost-time", "holds", 3, 3, "MATH 13 %"),
        ("ttt-ablation-learned-start", "holds", 1, 1, "15.27"),
        ("ttt-ablation-mini-batch", "holds", 1, 1, "12.35"),
        ("ttt-ablation-mamba-backbone", "holds", 1, 1, "11.09"),
    ],
)
def test_the_papers_own_numbers_bear_the_claim_out_or_not(
    name: str, answer: str, held: int, compared: int, said: str
) -> None:
    found = borne_out(FIELD[name])
    assert (found.answer, found.num_held, found.num_compared) == (answer, held, compared)
    assert said in found.told()


def test_what_is_only_drawn_is_said_and_not_computed() -> None:
    found = borne_out(FIELD["ttt-keeps-improving"])
    assert (found.told(), found.num_compared) == ("only drawn (figures 2 and 11)", 0)


def test_every_claim_with_numbers_can_be_computed() -> None:
    for name, found in all_borne_out(FIELD.values()).items():
        assert (found.answer in ("holds", "partly", "fails")) == (FIELD[name].printed is not None), name


def ablation(variant: str, value: str) -> Callable[[str], Sequence[PublishedNumber]]:
    """Published numbers in which one variant has another value."""

    def read(paper: str) -> Sequence[PublishedNumber]:
        real = read_published(paper)
        return [dataclasses.replace(each, printed=value) if each.variant == variant else each for each in real]

    return read


def test_editing_a_published_number_changes_what_is_said() -> None:
    claim = FIELD["ttt-ablation-mini-batch"]
    assert borne_out(claim).answer == "holds"
    assert borne_out(claim, read=ablation("+ mini-batch TTT", "14.06")).answer == "fails"
    # the difference of the two decides, so the other side counts as well
    assert borne_out(claim, read=ablation("+ LN and residual in f", "12.34")).answer == "fails"


def test_numbers_that_are_equal_are_not_better() -> None:
    level = ablation("+ mini-batch TTT", "14.05")
    assert borne_out(FIELD["ttt-ablation-mini-batch"], read=level).answer == "fails"
    assert borne_out(FIELD["ttt-ablation-ttt-is-linear-attention"], read=level).answer == "holds"


def test_swapped_sides_swap_the_answer() -> None:
    claim = FIELD["titans-needles"]
    assert claim.printed is not None
    swapped = dataclasses.replace(claim.printed, a=claim.printed.b, b=claim.printed.a)
    found = borne_out(dataclasses.replace(claim, printed=swapped))
    assert (found.answer, found.num_compared) == ("fails", 9)


def changed(name: str, **fields: Any) -> Claim:
    claim = FIELD[name]
    assert isinstance(claim.printed, PrintedSides)
    return dataclasses.replace(claim, printed=dataclasses.replace(claim.printed, **fields))


@pytest.mark.parametrize(
    ("claim", "error", "said"),
    [
        (changed("titans-needles", paper="titan"), UnknownNameError, "unknown paper 'titan'"),
        (changed("titans-needles", a={"modle": ("x",)}), UnknownNameError, "did you mean 'model'"),
        (changed("titans-needles", b={"model": ("TTTT",)}), UnknownNameError, "did you mean 'TTT'"),
        (changed("titans-needles", match=("model",)), SuiteError, "no published number of a matches"),
        (changed("attention-quadratic", least_context=8192), SuiteError, "too few published numbers"),
        (changed("attention-quadratic", least_context=10**9), SuiteError, "no published number has a place"),
        (changed("titans-needles", compared="ratio"), SuiteError, "must be positive"),
    ],
)
def test_lines_that_are_not_there_or_cannot_be_compared_are_refused(
    claim: Claim, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        borne_out(claim)
