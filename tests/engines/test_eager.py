"""The eager engine against the definition of what it computes, on every architecture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ttbench.engines import eager
from ttbench.engines.eager import EagerEngine
from ttbench.errors import TooLongError, UsageError
from ttbench.machine.devices import DTYPES
from ttbench.models.base import SequenceModel
from ttbench.models.transformer import Transformer
from ttbench.registry import ARCHITECTURES

VOCAB = 257
# nested lists are allowed although the annotation of ids names arrays only
ONE: Any = [[1]]
ONE_STEP: Any = [1]


def model_of(name: str, *, scale: float = 5.0, **overrides: Any) -> SequenceModel:
    """A tiny model with weights large enough to have opinions."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = ARCHITECTURES.load(name).tiny(**overrides)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(scale)
    return model


def engine_of(
    name: str = "transformer", *, dtype: str = "float64", scale: float = 5.0, **overrides: Any
) -> EagerEngine:
    return EagerEngine(model_of(name, scale=scale, **overrides), device="cpu", dtype=dtype)


def random_ids(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, shape)


def nats_by_definition(engine: EagerEngine, ids: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-log softmax of all logits at once, in float64."""
    log_probs = engine.logits(ids).double().log_softmax(-1)
    return -log_probs.gather(-1, torch.from_numpy(targets)[..., None])[..., 0].numpy()


@pytest.fixture(params=sorted(ARCHITECTURES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks and slices so small that a short text needs many."""
    monkeypatch.setattr(eager, "CHUNK_LEN", 21)
    monkeypatch.setattr(eager, "HEAD_ELEMENTS", 10 * VOCAB)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("num_tokens", [1, 15, 63, 100], ids=lambda t: f"T{t}")
def test_score_equals_log_softmax_of_all_logits(name: str, num_tokens: int) -> None:
    engine, ids = engine_of(name), random_ids(2, num_tokens + 1)
    engine.reset(2, num_tokens)
    nats = engine.score(ids[:, :-1], ids[:, 1:])
    assert nats.dtype == np.float64
    assert engine.num_tokens == num_tokens
    expected = nats_by_definition(engine, ids[:, :-1], ids[:, 1:])
    np.testing.assert_allclose(nats, expected, rtol=1e-10, atol=1e-12)


def test_the_sum_of_nats_is_the_product_of_conditionals(name: str) -> None:
    engine, ids = engine_of(name), random_ids(1, 40)
    engine.reset(1, 39)
    nats = engine.score(ids[:, :-1], ids[:, 1:]).sum()
    engine.reset(1, 39)
    product = 1.0
    logs = 0.0
    for here, following in zip(ids[0, :-1], ids[0, 1:], strict=True):
        probability = float(engine.decode(np.array([here])).softmax(-1)[0, following])
        product *= probability
        logs -= np.log(probability)
    assert nats == pytest.approx(logs, rel=1e-11)
    assert np.exp(-nats) == pytest.approx(product, rel=1e-9)


@pytest.mark.usefixtures("small_pieces")
def test_any_way_of_reading_leads_to_the_same_logits(name: str) -> None:
    engine, ids = engine_of(name), random_ids(2, 57)
    whole = engine.logits(ids)
    for splits in ((57,), (1, 56), (30, 27), (16, 16, 25)):
        engine.reset(2, 60)
        end = 0
        for length in splits:
            logits = engine.prefill(ids[:, end : end + length])
            end += length
            torch.testing.assert_close(logits, whole[:, end - 1], rtol=1e-9, atol=1e-10)
    engine.reset(2, 60)
    engine.score(ids[:, :20], ids[:, :20])
    for t in range(20, 57):
        logits = engine.decode(ids[:, t])
        torch.testing.assert_close(logits, whole[:, t], rtol=1e-9, atol=1e-10)


def test_masked_targets_and_rows_beyond_their_length_give_zero() -> None:
    engine, ids = engine_of(), random_ids(3, 31)
    targets = ids[:, 1:].copy()
    targets[0, 3], targets[1] = -1, -1
    engine.reset(3, 30)
    nats = engine.score(ids[:, :-1], targets, lengths=np.array([30, 30, 7]))
    full = nats_by_definition(engine, ids[:, :-1], ids[:, 1:])
    full[0, 3], full[1], full[2, 7:] = 0, 0, 0
    np.testing.assert_allclose(nats, full, rtol=1e-10, atol=1e-12)
    assert (nats[1] == 0).all()
    assert (nats[2, 7:] == 0).all()


def test_the_head_is_applied_only_where_a_target_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, ids = engine_of(), random_ids(1, 41)
    rows: list[int] = []
    head = engine.model.head
    monkeypatch.setattr(engine.model, "head", lambda hidden: rows.append(hidden.shape[0]) or head(hidden))
    monkeypatch.setattr(eager, "HEAD_ELEMENTS", 4 * VOCAB)
    targets = ids[:, 1:].copy()
    targets[:, :30] = -1
    engine.reset(1, 40)
    engine.score(ids[:, :-1], targets)
    assert rows == [4, 4, 2]


def test_a_certain_token_costs_nothing_not_noise() -> None:
    engine = engine_of(dtype="float32")
    with torch.no_grad():
        assert isinstance(engine.model, Transformer)
        engine.model.embed.weight.mul_(100)
    ids = random_ids(1, 50)
    likely = engine.logits(ids).argmax(-1).numpy()
    engine.reset(1, 50)
    nats = engine.score(ids, likely)
    assert (nats >= 0).all()
    assert nats.min() < 1e-6


def test_greedy_writing_equals_taking_the_best_of_all_logits(name: str) -> None:
    engine, prompt = engine_of(name), random_ids(2, 9)
    engine.reset(2, 20)
    written = engine.generate(prompt, 12)
    assert written.shape == (2, 12)
    assert engine.num_tokens == 9 + 11
    ids = prompt
    for place in range(12):
        best = engine.logits(ids)[:, -1].argmax(-1).numpy()
        assert (best == written[:, place]).all()
        ids = np.concatenate((ids, best[:, None]), axis=1)


def test_writing_nothing_only_reads() -> None:
    engine = engine_of()
    engine.reset(1, 5)
    assert engine.generate(random_ids(1, 5), 0).shape == (1, 0)
    assert engine.num_tokens == 5


def test_reset_keeps_the_allocation_where_it_fits(name: str) -> None:
    engine, ids = engine_of(name), random_ids(2, 30)
    engine.reset(2, 40)
    first, allocated, addresses = engine.prefill(ids), engine.state_allocated_bytes, engine.state_addresses
    for max_len in (40, 31, 40):
        engine.reset(2, max_len)
        assert engine.num_tokens == 0
        assert engine.state_addresses == addresses
        assert torch.equal(engine.prefill(ids), first)
    engine.reset(1, 40)
    assert engine.state_allocated_bytes * 2 == allocated
    engine.reset(1, 80)
    engine.prefill(random_ids(1, 80))
    assert engine.num_tokens == 80


def test_room_is_what_the_last_reset_asked_for() -> None:
    engine = engine_of()
    engine.reset(1, 100)
    engine.reset(1, 10)
    engine.prefill(random_ids(1, 10))
    for call in (
        lambda: engine.decode(ONE_STEP),
        lambda: engine.prefill(ONE),
        lambda: engine.score(ONE, ONE),
        lambda: engine.generate(ONE, 1),
    ):
        with pytest.raises(UsageError, match="1 more tokens after 10 are beyond the 10"):
            call()
    assert engine.num_tokens == 10
    engine.reset(1, 10)
    with pytest.raises(UsageError, match="11 more tokens after 0"):
        engine.generate(random_ids(1, 5), 7)


def test_a_snapshot_brings_the_state_back_bit_for_bit(name: str) -> None:
    engine, ids = engine_of(name, dtype="float32"), random_ids(1, 60)
    engine.reset(1, 60)
    engine.prefill(ids[:, :33])
    saved, used, addresses = engine.snapshot(), engine.state_bytes, engine.state_addresses
    before = engine.prefill(ids[:, 33:])
    engine.restore(saved)
    assert (engine.num_tokens, engine.state_bytes, engine.state_addresses) == (33, used, addresses)
    assert torch.equal(engine.prefill(ids[:, 33:]), before)


def test_a_snapshot_of_one_row_is_broadcast(name: str) -> None:
    engine, ids = engine_of(name), random_ids(4, 50)
    ids[:, :23] = ids[0, :23]
    engine.reset(1, 50)
    engine.prefill(ids[:1, :23])
    saved = engine.snapshot()
    engine.reset(4, 50)
    engine.restore(saved)
    torch.testing.assert_close(engine.prefill(ids[:, 23:]), engine.logits(ids)[:, -1], rtol=1e-9, atol=1e-10)


def test_a_snapshot_that_does_not_fit_is_refused() -> None:
    engine = engine_of()
    engine.reset(2, 20)
    engine.prefill(random_ids(2, 12))
    saved = engine.snapshot()
    engine.reset(2, 11)
    with pytest.raises(UsageError, match="holds 12 tokens; reset gave room for 11"):
        engine.restore(saved)
    engine.reset(3, 20)
    with pytest.raises(UsageError, match="batch size 2; expected 1 or 3"):
        engine.restore(saved)


def test_returned_logits_are_never_written_again(name: str) -> None:
    engine, ids = engine_of(name), random_ids(1, 8)
    engine.reset(1, 30)
    kept = [engine.prefill(ids)] + [engine.decode(ids[:, t]) for t in range(4)]
    copies = [logits.clone() for logits in kept]
    engine.generate(ids, 3)
    engine.reset(1, 30)
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))
    assert len({logits.data_ptr() for logits in kept}) == len(kept)


@pytest.mark.parametrize(
    ("dtype", "logits_dtype"), [(d, torch.float64 if d == "float64" else torch.float32) for d in DTYPES]
)
def test_every_dtype_runs_and_gives_wide_logits(name: str, dtype: str, logits_dtype: torch.dtype) -> None:
    # Five times the usual weights drive Mamba's activations beyond what float16 can hold.
    size = 1.0 if dtype == "float16" else 5.0
    engine, ids = engine_of(name, dtype=dtype, scale=size), random_ids(2, 20)
    engine.reset(2, 21)
    for logits in (engine.prefill(ids), engine.decode(ids[:, 0]), engine.logits(ids)):
        assert logits.dtype == logits_dtype
        assert torch.isfinite(logits).all()
    reference = engine_of(name, scale=size).logits(ids)
    scale = {"float64": 1e-12, "float32": 1e-3, "bfloat16": 1.0, "float16": 0.3}[dtype]
    assert (engine.logits(ids) - reference).abs().mean() <= scale * reference.abs().mean()


@pytest.mark.parametrize("made", [list, np.asarray, torch.as_tensor, lambda x: np.asarray(x, dtype=np.int32)])
def test_ids_may_be_anything_that_holds_integers(made: Any) -> None:
    engine, ids = engine_of(), np.array([[1, 2, 3], [4, 5, 6]])
    engine.reset(2, 9)
    torch.testing.assert_close(engine.prefill(made(ids.tolist())), engine.logits(ids)[:, -1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.prefill([1, 2]), r"ids must have shape \[B, T\] = \(2, T >= 1\); got \(2,\)"),
        (lambda e: e.prefill([[1, 2]]), r"got \(1, 2\)"),
        (lambda e: e.prefill([[], []]), r"got \(2, 0\)"),
        (lambda e: e.decode([[1], [2]]), r"ids must have shape \[B\] = \(2,\); got \(2, 1\)"),
        (lambda e: e.decode([1, 257]), r"ids must be in 0..256; got 1..257"),
        (lambda e: e.decode([-1, 0]), r"got -1..0"),
        (lambda e: e.decode([1.0, 2.0]), "must be integers; got torch.float"),
        (lambda e: e.decode([True, False]), "must be integers; got torch.bool"),
        (lambda e: e.logits([1]), r"ids must have shape \[B, T\] = \(B, T >= 1\); got \(1,\)"),
        (
            lambda e: e.score([[1], [2]], [[1, 2], [3, 4]]),
            r"targets must have the shape of ids, \(2, 1\); got \(2, 2\)",
        ),
        (lambda e: e.score([[1], [2]], [[-2], [0]]), r"targets must be in -1..256; got -2..0"),
        (lambda e: e.score([[1], [2]], [[1], [2]], lengths=[1]), r"lengths must have shape \[B\] = \(2,\)"),
        (lambda e: e.score([[1], [2]], [[1], [2]], lengths=[1, 2]), r"values in 0..1; got \[1, 2\]"),
        (lambda e: e.reset(0, 5), "must be at least 1; got 0 and 5"),
        (lambda e: e.generate([[1], [2]], -1), "num_tokens must be at least 0; got -1"),
    ],
    ids=range(15),
)
@pytest.mark.wrong_types
def test_wrong_input_is_refused_in_words_and_changes_nothing(call: Any, message: str) -> None:
    engine = engine_of()
    engine.reset(2, 9)
    with pytest.raises(UsageError, match=message):
        call(engine)
    assert engine.num_tokens == 0


def test_an_engine_without_a_state_says_so() -> None:
    engine = engine_of()
    assert (engine.num_tokens, engine.state_bytes, engine.state_allocated_bytes) == (0, 0, 0)
    assert engine.logits(ONE).shape == (1, 1, VOCAB)
    for call in (lambda: engine.prefill(ONE), lambda: engine.decode(ONE_STEP), engine.snapshot):
        with pytest.raises(UsageError, match=r"call reset\(batch_size, max_len\) first"):
            call()


def test_a_model_with_a_limit_answers_too_long() -> None:
    model = model_of("transformer")
    model.max_context = 16  # type: ignore[assignment]
    engine = EagerEngine(model, device="cpu", dtype="float32")
    engine.reset(1, 16)
    with pytest.raises(TooLongError, match="at most 16 tokens; 17 were asked for"):
        engine.reset(1, 17)


@pytest.mark.parametrize(
    ("device", "dtype", "message"),
    [
        ("tpu", "float32", "unknown device 'tpu'"),
        ("meta", "float32", "device 'meta' is not supported; available: cpu, cuda"),
        ("cuda:99", "float32", "device 'cuda:99' is not there"),
        ("cpu", "int8", "unknown dtype 'int8'; available: float32"),
    ],
)
def test_an_unknown_device_or_dtype_is_refused(device: str, dtype: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EagerEngine(model_of("transformer"), device=device, dtype=dtype)


def test_bytes_are_those_of_weights_and_state(name: str) -> None:
    engine = engine_of(name, dtype="float32")
    num_buffered = sum(buffer.numel() for buffer in engine.model.buffers())
    assert engine.weight_bytes == 4 * (engine.model.num_params()[0] + num_buffered)
    cost = type(engine.model).cost(engine.model.config, dtype_bytes=4)
    engine.reset(3, 50)
    engine.prefill(random_ids(3, 17))
    assert engine.state_bytes == 3 * cost.state_nbytes(17)
    assert engine.state_allocated_bytes == 3 * cost.state_nbytes(50)
    assert engine.choices == engine.model.choices
    engine.synchronize()


def test_logits_of_a_long_text_never_stand_in_memory() -> None:
    engine = engine_of(dtype="float32", hidden_size=8, intermediate_size=8, num_hidden_layers=1)
    rows: list[int] = []
    head = engine.model.head
    engine.model.head = lambda hidden: rows.append(hidden.shape[0]) or head(hidden)  # type: ignore[method-assign]
    engine.vocab_size = 2**23 // 500
    ids = random_ids(1, 3000)
    engine.reset(1, 3000)
    engine.score(ids % 257, ids % 257)
    assert max(rows) == 500
    assert sum(rows) == 3000


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_the_cpu(name: str) -> None:
    ids = random_ids(2, 101)
    found = []
    for device in ("cpu", "cuda"):
        engine = EagerEngine(model_of(name), device=device, dtype="float64")
        engine.reset(2, 100)
        found.append(engine.score(ids[:, :-1], ids[:, 1:]))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-7)


def test_targets_that_lead_are_those_that_greedy_decoding_writes(name: str) -> None:
    engine, ids = engine_of(name), random_ids(2, 30)
    engine.reset(2, 40)
    likely = engine.logits(ids).argmax(-1).numpy()
    targets = np.where(np.arange(30) % 3 == 0, (likely + 1) % VOCAB, likely)
    targets[:, 1::7] = -1
    nats, top = engine.score_top(ids, targets)
    assert np.array_equal(top, (targets == likely) & (targets >= 0))
    engine.reset(2, 40)
    assert np.array_equal(nats, engine.score(ids, targets))
