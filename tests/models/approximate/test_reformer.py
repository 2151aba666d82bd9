"""The streaming Reformer: its configuration, hashing, cost. Logits against numpy are in tests/conformance."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ttbench.errors import CheckpointError
from ttbench.models.approximate.reformer import Reformer, ReformerConfig, ReformerMixer
from ttbench.models.layers import rotary_angles
from ttbench.models.stack import At

CONFIG = Reformer.tiny().config.to_json()


def mixers(model: Reformer) -> list[ReformerMixer]:
    return [block.mixer for block in model.blocks() if isinstance(block.mixer, ReformerMixer)]


def test_config_survives_its_own_json():
    for overrides in ({}, {"conv_kernel": 0, "num_buckets": 1}, {"hash_seed": 7, "rope_theta": 5e5}):
        config = Reformer.tiny(**overrides).config
        assert ReformerConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("field", ["lsh_form", "num_hashes", "num_buckets", "bucket_keys", "hash_seed"])
def test_a_missing_choice_is_named(field):
    with pytest.raises(CheckpointError, match=field):
        ReformerConfig.from_json({key: value for key, value in CONFIG.items() if key != field})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lsh_form": "chunks"}, "lsh_form='chunks'; available: streaming"),
        ({"num_buckets": 7}, "num_buckets=7; .* must be even"),
        ({"num_buckets": 1 << 21}, "at most 1048576"),
        ({"num_hashes": 0}, "num_hashes=0"),
        ({"bucket_keys": 0}, "bucket_keys=0"),
        ({"conv_kernel": -1}, "conv_kernel=-1"),
        ({"rope_theta": 0.0}, "rope_theta=0.0"),
        ({"hash_seed": -1}, "hash_seed=-1; it must be at least 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_impossible_choice_is_refused(change: dict[str, Any], message: str):
    with pytest.raises(CheckpointError, match=message):
        ReformerConfig.from_json(CONFIG | change)


def test_every_row_says_that_it_is_a_variant_and_published_reformers_are_not_taken_for_it():
    assert "variant" in str(Reformer.tiny().choices["lsh_form"])
    assert (CONFIG["model_type"], CONFIG["lsh_form"]) == ("reformer-streaming", "streaming")
    assert not any(dialect.matches({"model_type": "reformer"}) for dialect in Reformer.DIALECTS)


def test_the_seed_alone_decides_the_rotations_and_no_layer_head_or_round_has_anothers():
    one, same, other = (Reformer.tiny(hash_seed=seed) for seed in (3, 3, 4))
    drawn = [torch.cat([mixer.rotations.flatten(0, 1) for mixer in mixers(model)]) for model in (one, same, other)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert len({tuple(each.flatten().tolist()) for each in drawn[0]}) == len(drawn[0]) == 2 * 4 * 2
    assert not any("rotations" in name for name, _ in one.named_parameters())


def test_where_a_token_stands_turns_its_query_and_moves_no_bucket():
    model = Reformer.tiny(conv_kernel=0).double()
    (mixer, *_), x = mixers(model), torch.randn(1, 50, 32, generator=torch.Generator().manual_seed(0)).double()
    found = []
    with torch.inference_mode():
        for start in (0, 2_000_000):
            positions = torch.arange(50) + start
            turns = rotary_angles(positions, dim=8, theta=10000.0, dtype=torch.float64)
            found.append(mixer.project(x, None, at=At(positions=positions, turns=turns)))
    (q, v, buckets), (far_q, far_v, far_buckets) = found
    assert torch.equal(buckets, far_buckets)
    assert torch.equal(v, far_v)
    assert not torch.allclose(q, far_q)
    # and what two tokens score depends on their distance only
    torch.testing.assert_close(q @ q.mT, far_q @ far_q.mT, rtol=1e-8, atol=1e-8)


def test_gradient_reaches_every_parameter_through_attention():
    model = Reformer.tiny()
    ids = torch.randint(257, (2, 60), generator=torch.Generator().manual_seed(0))
    model.head(model(ids)).logsumexp(-1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("overrides", [{}, {"conv_kernel": 0, "num_hashes": 3, "num_buckets": 8, "bucket_keys": 11}])
def test_flops_of_a_step_match_what_torch_counts(overrides):
    model = Reformer.tiny(**overrides)
    config = model.config
    with torch.inference_mode():
        state = model.new_state(1, 8)
        with FlopCounterMode(display=False) as counter:
            model.head(model.step(torch.zeros(1, dtype=torch.int64), state, 0))
    # torch counts matrix products only, and the convolutions are not
    convolutions = config.num_hidden_layers * 2 * 2 * config.conv_kernel * config.hidden_size
    for context_len in (0, 1_000_000):
        cost = Reformer.cost(config, dtype_bytes=4)
        assert cost.decode_flops(context_len) == counter.get_total_flops() + convolutions


def test_the_state_is_of_one_size_and_that_of_the_formula():
    config = Reformer.tiny().config
    slots = 4 * 2 * 4 * 5
    layer = slots * 2 * 8 * 4 + slots * 2 * 8 + 4 * 2 * 4 * 8 + 3 * 2 * 32 * 4
    cost = Reformer.cost(config, dtype_bytes=4)
    assert (cost.state_nbytes(0), cost.state_nbytes(10_000_000)) == (2 * layer, 2 * layer)
    with torch.inference_mode():
        assert Reformer.tiny().new_state(3, 10_000_000).nbytes_allocated == 3 * 2 * layer


def test_something_far_behind_is_recalled_from_a_state_of_one_size():
    """A token whose kind is rare stays in its ring while thousands of another kind pass by."""
    torch.manual_seed(0)
    model = Reformer.tiny(num_hidden_layers=1, conv_kernel=0, num_buckets=8, num_hashes=4)
    draw = torch.Generator().manual_seed(2)
    noise = torch.full((1, 3000), 17)
    rare = torch.randint(100, 200, (1, 1), generator=draw)
    changed = torch.cat((rare, noise, rare), 1), torch.cat((rare + 1, noise, rare), 1)
    with torch.inference_mode():
        buckets = []
        for ids in (rare, noise[:, :1]):
            x = next(model.blocks()).mixer_norm(model.embed(ids))
            at = At(positions=torch.zeros(1, dtype=torch.int64), turns=(torch.ones(1, 4), torch.zeros(1, 4)))
            buckets.append(mixers(model)[0].project(x, None, at=at)[2])
        assert (buckets[0] != buckets[1]).any()
        one, other = (model(ids)[:, -1] for ids in changed)
        assert (one - other).abs().max() > 1e-3
