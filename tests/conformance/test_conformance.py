"""What every architecture in the registry must do, at `tiny()`; `test_ops` has the same for the ops.

Nothing here names behaviour of one architecture: a new one is picked up from the registry. It may add variants to
`VARIANTS`, an oracle to `ORACLES` and, where its state grows, `SMALLEST`; for what it has not added, a line is printed.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import (
    hybrid_logits,
    llama_logits,
    mamba2_logits,
    mamba_logits,
    performer_logits,
    reformer_logits,
    s4d_logits,
    skyformer_logits,
    ttt_logits,
)
from oracle_titans import TITANS_LOGITS
from safetensors.torch import load_file, save_file
from torch import Tensor

from ttbench.checkpoints.checkpoint import resolve
from ttbench.checkpoints.loading import load_model, save_checkpoint
from ttbench.errors import WeightsError
from ttbench.models.base import SequenceModel, State
from ttbench.registry import ARCHITECTURES

LENGTHS = (1, 15, 17, 63, 100)
FAR = 2_000_000  # tokens

# Overrides of tiny() beside the plain one, so that every dialect and every switch is built.
PLAIN_TTT = {"use_gate": False, "share_qk": False, "pre_conv": False}
BY_MAMBA_SSM = {"written_by": "mamba_ssm", "use_bias": True, "use_conv_bias": False}
JAMBA = {"written_by": "transformers", "rope_theta": None, "mamba_conv_bias": False, "mamba_proj_bias": True}
RENE = {
    "written_by": "cartesia",
    "qkv_bias": False,
    "out_bias": False,
    "mlp_layer_bias": False,
    "tie_word_embeddings": False,
}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "hybrid": [
        {**JAMBA, "layer_types": ("mamba", "attention") * 2, "sliding_window": None, "tie_word_embeddings": False},
        {"layer_types": ("sliding_attention", "mamba"), "mamba_norms": False, "sliding_window": 17},
        {"written_by": "cartesia"},
        {**RENE, "layer_types": ("fused_attention", "mlp", "mamba2"), "sliding_window": 17},
    ],
    "mamba": [{**BY_MAMBA_SSM, "conv_kernel": 3, "tie_word_embeddings": False}],
    "mamba2": [
        {**BY_MAMBA_SSM, "norm_before_gate": True, "time_step_limit": (0.1, 0.9)},
        {"n_groups": 1, "tie_word_embeddings": True, "residual_in_fp32": False},
    ],
    "transformer": [{"conv_kernel": 0, "tie_word_embeddings": False}],
    "performer": [{"feature_eps": 1e-3, "num_features": 5, "tie_word_embeddings": True}],
    "reformer": [
        {"num_hashes": 3, "num_buckets": 6, "bucket_keys": 1, "conv_kernel": 0, "tie_word_embeddings": True},
        {"num_hashes": 1, "num_buckets": 1, "bucket_keys": 23},
    ],
    "s4d": [{"state_size": 2, "tie_word_embeddings": False}],
    "skyformer": [{"normalisation": "rows", "tie_word_embeddings": True}, {"normalisation": "mean"}],
    "titans-lmm": [
        {"memory_read": "chunk", "num_persistent": 0, "memory_layers": 4, "tie_word_embeddings": True},
        {"memory_layers": 1, "memory_init": "zero", "chunk_size": 5, "conv_kernel": 0, "unit_norm": "qk"},
    ],
    "titans-mac": [
        {"memory_read": "chunk", "num_persistent": 0, "memory_layers": 1, "tie_word_embeddings": True},
        {"memory_layers": 3, "chunk_size": 5, "conv_kernel": 0, "damped_step": False, "max_step": 0.05},
    ],
    "titans-mag": [
        {"memory_read": "chunk", "num_persistent": 0, "window": 40, "tie_word_embeddings": True},
        {"memory_layers": 1, "memory_init": "zero", "chunk_size": 5, "conv_kernel": 0, "window": 2},
    ],
    "titans-mal": [
        {"memory_read": "chunk", "num_persistent": 0, "window": 40, "tie_word_embeddings": True},
        {"memory_layers": 1, "memory_init": "zero", "chunk_size": 5, "conv_kernel": 0, "window": 2},
    ],
    "ttt-linear": [PLAIN_TTT, {"mini_batch_size": 5, "tie_word_embeddings": False}],
    "ttt-mlp": [PLAIN_TTT, {"mini_batch_size": 5, "tie_word_embeddings": False}],
}
# Overrides of tiny() for an architecture whose state would be a gigabyte at two million tokens.
SMALLEST: dict[str, dict[str, Any]] = {
    "skyformer": {"num_hidden_layers": 1, "hidden_size": 4, "num_attention_heads": 1},
    "transformer": {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4},
}
ORACLES: dict[str, Callable[..., np.ndarray]] = {
    "hybrid": hybrid_logits,
    "mamba": mamba_logits,
    "mamba2": mamba2_logits,
    "transformer": llama_logits,
    "performer": performer_logits,
    "reformer": reformer_logits,
    "s4d": s4d_logits,
    "skyformer": skyformer_logits,
    **TITANS_LOGITS,
    "ttt-linear": ttt_logits,
    "ttt-mlp": ttt_logits,
}


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _cases() -> Iterator[Any]:
    for name in ARCHITECTURES:
        for overrides in ({}, *VARIANTS.get(name, [])):
            label = ",".join(f"{key}={value}" for key, value in overrides.items())
            yield pytest.param((name, overrides), id=f"{name}[{label}]" if label else name)


def build(name: str, overrides: dict[str, Any], *, dtype: torch.dtype = torch.float64) -> SequenceModel:
    """tiny() with every parameter moved from its initial value, so that zeros and ones hide nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ARCHITECTURES.load(name).tiny(**overrides).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.to(dtype)


@pytest.fixture(params=_cases())
def case(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return request.param


@pytest.fixture
def model(case) -> SequenceModel:
    return build(*case)


@pytest.fixture(autouse=True)
def _no_grad_for_models(request: pytest.FixtureRequest) -> Iterator[None]:
    with torch.inference_mode("model" in request.fixturenames):
        yield


def tokens(model: SequenceModel, batch_size: int, num_tokens: int, *, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, model.config.vocab_size, (batch_size, num_tokens), generator=draw)


def read(model: SequenceModel, ids: Tensor, state: State) -> Tensor:
    """One forward that continues the state, as an engine does it."""
    out = model(ids, state)
    state.num_tokens += ids.shape[1]
    return out


def walk(model: SequenceModel, ids: Tensor, state: State) -> Tensor:
    """Token by token."""
    out = []
    for i in range(ids.shape[1]):
        out.append(model.step(ids[:, i], state, model.step_variant(state.num_tokens)))
        state.num_tokens += 1
    return torch.stack(out, 1)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)


def tensors_of(state: State) -> dict[str, Tensor]:
    return {name: value for name, (value, _, _) in state.tensors().items()}


def same(one: State, other: State) -> bool:
    """Bit for bit, over what is in use."""
    ours, theirs = one.save(), other.save()
    return ours.num_tokens == theirs.num_tokens and all(
        torch.equal(value, theirs.tensors[name]) for name, value in ours.tensors.items()
    )


# 1. Steps and forward


def test_steps_equal_forward(model):
    ids, stepped = tokens(model, 2, max(LENGTHS)), model.new_state(2, max(LENGTHS))
    steps = walk(model, ids, stepped)
    assert int(stepped.position) == max(LENGTHS)
    for num_tokens in LENGTHS:
        state = model.new_state(2, num_tokens)
        expected = read(model, ids[:, :num_tokens], state)
        close(steps[:, :num_tokens], expected)
        close(model(ids[:, :num_tokens]), expected)
        assert int(state.position) == num_tokens


@pytest.mark.parametrize(
    ("num_tokens", "cuts"), [(1, ()), (15, (1,)), (63, (16, 62)), (100, ()), (100, (15, 17)), (100, (16, 62))], ids=str
)
def test_a_prefill_is_the_last_token_of_forward_and_leaves_the_same_state(model, num_tokens, cuts):
    ids = tokens(model, 2, num_tokens)
    state, filled = model.new_state(2, num_tokens + 3), model.new_state(2, num_tokens + 3)
    expected = read(model, ids, state)
    for start, end in itertools.pairwise([0, *cuts, num_tokens]):
        last = model.prefill(ids[:, start:end], filled)
        filled.num_tokens += end - start
        close(last, expected[:, end - 1])
    for name, value in state.save().tensors.items():
        close(filled.save().tensors[name], value)
    more = tokens(model, 2, 3, seed=1)
    close(read(model, more, filled), read(model, more, state))


def test_position_two_million_is_as_exact_as_position_zero(case, model):
    single, num_tokens, num_texts = build(*case, dtype=torch.float32), 40, 5
    errors: dict[int, list[float]] = {0: [], FAR: []}
    for position, found in errors.items():
        for seed in range(num_texts):
            ids, hidden = tokens(model, 1, num_tokens, seed=seed), []
            for each in (model, single):
                state = each.new_state(1, num_tokens)
                state.position.fill_(position)
                hidden.append(each(ids, state).double())
            found.append(float((hidden[0] - hidden[1]).abs().max() / hidden[0].abs().max()))
    # Rounding differs from text to text and from processor to processor by more than the position changes it, so a
    # typical text far away is held against the worst text near by; angles in float32 would be wrong by 0.1 there.
    assert statistics.median(errors[FAR]) <= 2 * max(errors[0])


def test_steps_equal_forward_at_position_two_million(case, model):
    name, overrides = case
    model = build(name, overrides | SMALLEST.get(name, {}))
    ids = tokens(model, 1, 3, seed=1)
    state = model.new_state(1, FAR + ids.shape[1])
    out = []
    for run in (walk, read):
        # One state, filled twice: where it grows it is large.
        fill(state, num_tokens=FAR)
        out.append(run(model, ids, state))
        assert int(state.position) == state.num_tokens == FAR + ids.shape[1]
    close(*out)


def fill(state: State, *, num_tokens: int) -> None:
    """The state of some long text: random, and the same at every call. What grows repeats every thousand tokens."""
    for name, (value, _, length_dim) in state.tensors().items():
        if name == "position":
            continue
        used = value if length_dim is None else value.narrow(length_dim, 0, num_tokens)
        if length_dim is not None:
            used = used.unflatten(length_dim, (-1, 1000))
        period = used if length_dim is None else used.narrow(length_dim, 0, 1)
        used.copy_(_normal(*period.shape, seed=len(name)).to(value.dtype))
    state.position.fill_(num_tokens)
    state.num_tokens = num_tokens


# 2. Splits


def test_any_split_gives_the_same_result(model):
    ids, more = tokens(model, 2, 100), tokens(model, 2, 20, seed=1)
    whole = model.new_state(2, 120)
    expected = read(model, ids, whole)
    then = walk(model, more, whole)
    close(model(ids), expected)
    for splits in ([1, 99], [15, 1, 16, 68], [7, 50, 43], [63, 37], [33, 33, 34]):
        print("parts of", splits)
        state = model.new_state(2, 120)
        close(torch.cat([read(model, part, state) for part in ids.split(splits, dim=1)], 1), expected)
        # and steps go on from there
        close(walk(model, more, state), then)


# 3. Causality, 4. neighbours


def test_later_tokens_change_no_earlier_output(model):
    ids = tokens(model, 1, 50)
    before = model(ids)
    leaks = []
    for cut in (1, 15, 16, 17, 40):
        changed = ids.clone()
        changed[:, cut:] = (changed[:, cut:] + 1) % model.config.vocab_size
        after = model(changed)
        leaks.append(float((after[:, :cut] - before[:, :cut]).abs().max() / before.abs().max()))
        assert (after[:, cut] - before[:, cut]).abs().max() > 0
    print(f"{type(model).__name__}: largest leak of a later token {max(leaks):.1e}")
    assert max(leaks) < 1e-12 or not model.strictly_causal


def test_a_row_agrees_with_itself_alone(model):
    ids = tokens(model, 3, 50)
    together = model(ids)
    state = model.new_state(3, 60)
    read(model, ids[:, :37], state)
    stepped = walk(model, ids[:, 37:], state)
    for row in range(3):
        alone = model(ids[row : row + 1])
        close(together[row : row + 1], alone)
        close(stepped[row : row + 1], alone[:, 37:])


# 5. Save, load, reset


def test_a_loaded_state_decodes_bit_for_bit_at_the_same_addresses(model):
    state = model.new_state(2, 100)
    read(model, tokens(model, 2, 41), state)
    addresses = {name: value.data_ptr() for name, value in tensors_of(state).items()}
    snapshot, more = state.save(), tokens(model, 2, 20, seed=1)
    kept = {name: value.clone() for name, value in snapshot.tensors.items()}
    first = walk(model, more, state)
    assert all(torch.equal(value, snapshot.tensors[name]) for name, value in kept.items())
    state.load(snapshot)
    assert torch.equal(walk(model, more, state), first)
    assert {name: value.data_ptr() for name, value in tensors_of(state).items()} == addresses


def test_a_snapshot_of_one_row_serves_a_batch(model):
    ids, more = tokens(model, 1, 41), tokens(model, 3, 20, seed=1)
    one, three = model.new_state(1, 100), model.new_state(3, 100)
    read(model, ids, one)
    three.load(one.save())
    close(walk(model, more, three), model(torch.cat((ids.expand(3, -1), more), 1))[:, 41:])


def test_reset_restores_the_first_state_bit_for_bit(model):
    fresh, used = model.new_state(2, 100), model.new_state(2, 100)
    read(model, tokens(model, 2, 41), used)
    walk(model, tokens(model, 2, 5), used)
    addresses = {name: value.data_ptr() for name, value in tensors_of(used).items()}
    model.reset(used)
    assert same(fresh, used)
    assert (int(used.position), used.num_tokens) == (0, 0)
    assert {name: value.data_ptr() for name, value in tensors_of(used).items()} == addresses
    ids = tokens(model, 2, 41, seed=2)
    assert torch.equal(read(model, ids, used), read(model, ids, fresh))


# 6. Size of the state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_state_bytes_equal_the_analytic_figure_and_grow_only_where_said(case, dtype):
    model = build(*case, dtype=dtype)
    cost, sizes = model.cost(model.config, dtype_bytes=dtype.itemsize), []
    with torch.inference_mode():
        for num_tokens in (1, 17, 100):
            state = model.new_state(2, 128)
            read(model, tokens(model, 2, num_tokens), state)
            assert state.nbytes_used == 2 * cost.state_nbytes(num_tokens)
            assert state.nbytes_used <= state.nbytes_allocated
            sizes.append(state.nbytes_used)
    assert (sizes[0] < sizes[1] < sizes[2]) if model.state_grows else len(set(sizes)) == 1
    assert cost.decode_flops(100) > 2 * model.num_params()[1]


# 7. Dialects


def written(model: SequenceModel, folder: Path) -> Path:
    save_checkpoint(model, folder, dtype="float64", extra={"train_ctx": 64, "tokenizer": "bytes"})
    return folder


def test_write_and_load_give_equal_logits(case, model, tmp_path):
    checkpoint = resolve(str(written(model, tmp_path / "model")))
    assert (checkpoint.architecture, checkpoint.train_ctx) == (case[0], 64)
    loaded = load_model(checkpoint, device="cpu", dtype="float64", attention="sdpa")
    ids = tokens(model, 2, 33)
    assert torch.equal(loaded.head(loaded(ids)), model.head(model(ids)))


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_dialect_is_written_by_some_variant(name, tmp_path):
    model_class = ARCHITECTURES.load(name)
    seen = set()
    for i, overrides in enumerate(({}, *VARIANTS.get(name, []))):
        seen.add(resolve(str(written(build(name, overrides), tmp_path / str(i)))).dialect)
    assert seen == {dialect.name for dialect in model_class.DIALECTS}


def test_a_missing_or_unexpected_weight_is_an_error(model, tmp_path):
    folder = written(model, tmp_path / "model")
    file = folder / "model.safetensors"
    stored = load_file(file)
    last = sorted(stored)[-1]
    save_file({key: value for key, value in stored.items() if key != last}, file)
    with pytest.raises(WeightsError, match=rf"missing: {last}"):
        resolve(str(folder))
    save_file({**stored, "surprise.weight": torch.ones(1)}, file)
    with pytest.raises(WeightsError, match=r"unexpected: surprise\.weight"):
        resolve(str(folder))


# 8. A second implementation; the authors' own logits are in tests/models, recorded in tests/golden


def test_every_architecture_of_this_package_has_an_oracle():
    assert {name for name, where in ARCHITECTURES.items() if where.startswith("ttbench.")} == set(ORACLES)


def test_logits_equal_those_of_the_numpy_oracle(case, model):
    oracle = ORACLES.get(case[0])
    if oracle is None:
        pytest.skip(f"{case[0]} has no oracle")
    config = model.config.to_json()
    (dialect,) = (dialect for dialect in model.DIALECTS if dialect.matches(config))
    weights = {dialect.source(name): value.numpy() for name, value in model.state_dict().items()}
    ids = tokens(model, 1, 37)
    expected = oracle(ids[0].numpy(), weights, config)
    close(model.head(model(ids))[0], torch.from_numpy(expected))
