"""Every back end of attention against the formula, token by token: groups, offsets, single steps, dtypes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ttbench.errors import UnsupportedError
from ttbench.kernels import attention
from ttbench.kernels.dispatch.running import watching
from ttbench.types import ATTENTION

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}


def draw(num_queries: int, num_keys: int, *, groups: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_queries * 1000 + num_keys)
    shapes = ((2, 4, num_queries, 8), (2, groups, num_keys, 8), (2, groups, num_keys, 8))
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return (4 * q).to(dtype), k.to(dtype), v.to(dtype)


def expected(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x.double().repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    return attention.reference(q.double(), k, v)


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


def test_the_back_ends_are_those_that_a_run_can_ask_for() -> None:
    assert tuple(attention.BACKENDS) == ATTENTION


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
@pytest.mark.parametrize("groups", [1, 2, 4], ids=["MQA", "GQA", "MHA"])
@pytest.mark.parametrize(
    ("num_queries", "num_keys"), [(1, 1), (15, 15), (100, 100), (1, 63), (15, 100), (63, 64)], ids=str
)
@pytest.mark.parametrize("name", ATTENTION)
def test_a_back_end_follows_the_formula_with_and_without_a_past(
    name: str, num_queries: int, num_keys: int, groups: int, dtype: torch.dtype
) -> None:
    q, k, v = draw(num_queries, num_keys, groups=groups, dtype=dtype)
    with torch.no_grad():
        found = attention.BACKENDS[name].prefill(q, k, v)
    assert found.dtype == dtype
    assert error(found, expected(q, k, v)) < TOLERANCE[dtype]


@pytest.mark.parametrize("groups", [1, 2, 4], ids=["MQA", "GQA", "MHA"])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(2, 3), (15, 100), (63, 64)], ids=str)
def test_training_behind_a_past_follows_the_formula_and_its_gradients(
    num_queries: int, num_keys: int, groups: int
) -> None:
    # with gradients, and on a GPU, the mask is written out
    q, k, v = (x.requires_grad_() for x in draw(num_queries, num_keys, groups=groups, dtype=torch.float64))
    found, wanted = attention.chunked(q, k, v), expected(q, k, v)
    assert error(found.detach(), wanted.detach()) < TOLERANCE[torch.float64]
    weights = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view(found.shape)
    mine, formula = (torch.autograd.grad((out * weights).sum(), (q, k, v)) for out in (found, wanted))
    assert all(error(one, two) < TOLERANCE[torch.float64] for one, two in zip(mine, formula, strict=True))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
@pytest.mark.parametrize("groups", [1, 2, 4], ids=["MQA", "GQA", "MHA"])
@pytest.mark.parametrize("name", ATTENTION)
def test_a_step_reads_the_keys_that_exist_and_no_others(name: str, groups: int, dtype: torch.dtype) -> None:
    backend = attention.BACKENDS[name]
    q, k, v = draw(1, 33, groups=groups, dtype=dtype)
    wanted = expected(q, k[:, :, :17], v[:, :, :17])
    # room beyond the seventeenth key only for those that take a mask
    room = 33 if backend.takes_mask else 17
    seen = (torch.arange(room) <= 16)[None, None, None]
    with torch.no_grad():
        found = backend.step(q, k[:, :, :room], v[:, :, :room], seen)
    assert error(found, wanted) < TOLERANCE[dtype]


def test_flash_runs_the_kernel_of_its_name_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", None)
    with torch.no_grad(), torch.profiler.profile() as profile:
        attention.flash(*draw(15, 63, groups=2, dtype=torch.float32))
    names = {event.key for event in profile.key_averages()}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in names
    assert "aten::scaled_dot_product_attention" not in names


def test_flash_says_where_it_cannot_run() -> None:
    q, k, v = (x.to("meta") for x in draw(15, 63, groups=2, dtype=torch.float32))
    with pytest.raises(UnsupportedError, match="no FlashAttention kernel for meta; use --attention sdpa"):
        attention.flash(q, k, v)


def test_flash_is_for_inference() -> None:
    q, k, v = draw(15, 15, groups=4, dtype=torch.float32)
    with pytest.raises(UnsupportedError, match="for inference; train with sdpa"):
        attention.flash(q.requires_grad_(), k, v)


def test_eager_computes_a_half_precision_model_in_float32() -> None:
    q, k, v = draw(63, 63, groups=2, dtype=torch.bfloat16)
    own = error(attention.chunked(q, k, v), expected(q, k, v))
    assert error(attention.eager(q, k, v), expected(q, k, v)) < 1.1 * own


def on_cpu(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> tuple[Tensor, Tensor]:
    """The processor's kernel, as a GPU's are called: with a log-sum-exp."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, is_causal=is_causal)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
@pytest.mark.parametrize("groups", [1, 2, 4], ids=["MQA", "GQA", "MHA"])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(1, 2), (2, 3), (15, 100), (63, 64), (100, 301)], ids=str)
@pytest.mark.parametrize("kernel", [attention.written_out, on_cpu])
def test_past_and_present_merge_to_the_formula(
    kernel: attention.Kernel, num_queries: int, num_keys: int, groups: int, dtype: torch.dtype
) -> None:
    q, k, v = draw(num_queries, num_keys, groups=groups, dtype=dtype)
    with torch.no_grad():
        found = attention.merged(q, k, v, kernel)
    assert error(found, expected(q, k, v)) < TOLERANCE[dtype]


def test_a_past_that_outweighs_the_present_by_far_is_merged_without_overflow() -> None:
    # scores of the past around 2000, far beyond what exp can hold, and of the present around 0
    q, k, v = (x.abs() for x in draw(5, 12, groups=4, dtype=torch.float32))
    k[:, :, :7] *= 400
    with torch.no_grad():
        found = attention.merged(q, k, v, attention.written_out)
    assert torch.isfinite(found).all()
    assert error(found, expected(q, k, v)) < 1e-4


def test_the_written_out_form_knows_the_log_sum_exp_of_its_scores() -> None:
    q, k, v = draw(15, 15, groups=4, dtype=torch.float64)
    _, lse = attention.written_out(q, k, v, True)
    scores = torch.einsum("bhtd,bhsd->bhts", q, k) / 8**0.5
    for t in (0, 7, 14):
        torch.testing.assert_close(lse[:, :, t], scores[:, :, t, : t + 1].exp().sum(-1).log())


@pytest.mark.parametrize("groups", [1, 2, 4], ids=["MQA", "GQA", "MHA"])
@pytest.mark.parametrize("num_queries", [1, 15])
def test_heads_that_share_keys_stand_behind_each_other_under_a_mask(
    groups: int, num_queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = draw(num_queries, 33, groups=groups, dtype=torch.float64)
    mask = torch.rand(num_queries, 33, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[:, 3] = True
    rows = torch.where(mask, 0.0, -torch.inf).double()
    wide = [x.repeat_interleave(4 // groups, dim=1) for x in (k, v)]
    scores = torch.einsum("bhtd,bhsd->bhts", q, wide[0]) / 8**0.5 + rows
    wanted = torch.einsum("bhts,bhsd->bhtd", scores.softmax(-1), wide[1])
    asked: list[dict[str, object]] = []
    whole = torch.nn.functional.scaled_dot_product_attention

    def watched(*args: Tensor, **kwargs: object) -> Tensor:
        asked.append(kwargs)
        return whole(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", watched)
    # what a GPU does, on a processor
    monkeypatch.setattr(attention, "_keeps_groups", lambda device: False)
    with torch.no_grad():
        found = attention.masked("attention", q, k, v, mask)
    assert error(found, wanted) < 1e-12
    assert [call["enable_gqa"] for call in asked] == [False]


def test_the_kernel_that_ran_is_noted() -> None:
    q, k, v = draw(15, 15, groups=4, dtype=torch.float32)
    with torch.no_grad(), watching() as ran, torch.profiler.profile() as profile:
        attention.chunked(q, k, v)
    names = {event.key for event in profile.key_averages()}
    assert ran == {"attention": "sdpa + flash_cpu"}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in names
    with torch.no_grad(), watching() as ran:
        attention.step(q[:, :, :1], k, v, torch.ones(1, 1, 1, 15, dtype=torch.bool))
    assert set(ran) == {"attention_step"}
    assert ran["attention_step"] in ("sdpa + flash_cpu", "sdpa + math_cpu")


@pytest.mark.parametrize(
    ("dtype", "dim", "capability", "kernel"),
    [
        (torch.bfloat16, 64, (9, 0), "flash"),
        (torch.float16, 128, (8, 0), "flash"),
        (torch.float16, 128, (7, 5), "efficient"),
        (torch.bfloat16, 512, (9, 0), "efficient"),
        (torch.float32, 64, (9, 0), "efficient"),
        (torch.float64, 64, (9, 0), "math"),
    ],
)
def test_a_gpu_runs_the_best_kernel_that_it_has(
    dtype: torch.dtype, dim: int, capability: tuple[int, int], kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_has_flash", lambda device: capability >= (8, 0))
    assert attention.fused_kernel(torch.empty(1, 1, 1, dim, dtype=dtype)) == kernel


def test_the_operators_of_a_gpu_take_what_they_are_given() -> None:
    aten = torch.ops.aten
    for operator, names in (
        (aten._scaled_dot_product_flash_attention, ["query", "key", "value", "dropout_p", "is_causal"]),
        (
            aten._scaled_dot_product_efficient_attention,
            ["query", "key", "value", "attn_bias", "compute_log_sumexp", "dropout_p", "is_causal"],
        ),
    ):
        schema = operator.default._schema
        assert [argument.name for argument in schema.arguments][: len(names)] == names
        assert schema.arguments[-1].name == "scale"


def test_asking_torch_for_its_choice_is_no_operation_that_a_watcher_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            asked.append(func.name())
            return func(*args, **(kwargs or {}))

    q, k, v = draw(3, 3, groups=2, dtype=torch.float32)
    monkeypatch.setattr(attention, "_CHOICES", {})
    with torch.no_grad(), Watch():
        attention.chunked(q, k, v)
    assert asked
    assert not any("choice" in name for name in asked)
    # and so what was not asked is not noted
    with torch.no_grad(), Watch(), watching() as ran:
        attention.chunked(q, k, v)
    assert ran == {"attention": "sdpa"}
    with torch.no_grad(), watching() as ran:
        attention.chunked(q, k, v)
    assert ran == {"attention": "sdpa + flash_cpu"}
