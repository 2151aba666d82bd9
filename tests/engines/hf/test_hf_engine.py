"""The hf engine over tiny random models of many families: logits, continuation, snapshots, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hf_families import FAMILIES, VOCAB, save
from safetensors.torch import load_file, save_file

from ttbench.checkpoints.checkpoint import resolve
from ttbench.engines.hf.hf_checkpoint import position_limit
from ttbench.engines.hf.hf_engine import HFEngine
from ttbench.engines.kinds import check_engine, load_engine
from ttbench.errors import CheckpointError, TooLongError, UnsupportedError, UsageError, WeightsError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")

TOLERANCE = 5e-5  # relative to the greatest logit, float32


class Saved:
    """A family's folder, the model that transformers holds of it, and the engine over the folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.model: Any = save(name, folder)
        engine = load_engine(str(folder), device="cpu", dtype="float32", attention=None, engine="hf", unchecked=True)
        assert isinstance(engine, HFEngine)
        self.engine = engine

    @torch.inference_mode()
    def logits(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids, use_cache=False).logits.float()


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(request.param, tmp_path_factory.mktemp(request.param) / request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved("llama", tmp_path_factory.mktemp("one") / "llama")


def draw(batch_size: int, num_tokens: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB, (batch_size, num_tokens), generator=torch.Generator().manual_seed(seed))


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


def test_the_probe_finds_what_each_family_can_do_with_its_cache(saved: Saved) -> None:
    family, engine = FAMILIES[saved.name], saved.engine
    assert (engine.probe.mode, engine.probe.causal) == (family.mode, family.causal)
    assert engine.probe.batched == family.batched or not family.causal
    assert engine.max_context == family.max_context
    assert engine.choices["cache"] == family.mode
    assert ("leak" in engine.choices) == (not family.causal)


def test_scores_are_the_log_softmax_of_one_plain_forward(saved: Saved) -> None:
    batch_size = 2 if FAMILIES[saved.name].batched else 1
    ids = draw(batch_size, 65)
    saved.engine.reset(batch_size, 65)
    targets = ids[:, 1:].clone()
    targets[0, 7] = -1
    nats = saved.engine.score(ids[:, :-1], targets, lengths=np.array([64, 50][:batch_size]))
    logits = saved.logits(ids[:, :-1])
    wanted = -logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0].double()
    wanted[0, 7] = 0
    wanted[1:, 50:] = 0
    np.testing.assert_allclose(nats, wanted.numpy(), rtol=0, atol=TOLERANCE * float(logits.abs().max()))


# the logits of a model that looks ahead depend on what follows
@pytest.mark.parametrize("saved", [name for name, family in FAMILIES.items() if family.causal], indirect=True)
def test_prefill_and_decoding_give_the_logits_of_one_forward(saved: Saved) -> None:
    ids, engine = draw(1, 60, seed=1), saved.engine
    whole = saved.logits(ids)
    engine.reset(1, 60)
    end = 0
    for length in (31, 1, 20):
        end += length
        assert error(engine.prefill(ids[:, end - length : end]), whole[:, end - 1]) < TOLERANCE
    for place in range(end, 60):
        assert error(engine.decode(ids[:, place]), whole[:, place]) < TOLERANCE
    assert engine.num_tokens == 60


def test_a_snapshot_brings_the_state_back_bit_for_bit_and_onto_a_batch(saved: Saved) -> None:
    ids, engine = draw(1, 48, seed=2), saved.engine
    engine.reset(1, 48)
    engine.prefill(ids[:, :40])
    before = engine.snapshot()
    used = engine.state_bytes
    first = torch.cat([engine.decode(ids[:, place]) for place in range(40, 46)])
    engine.restore(before)
    assert (engine.num_tokens, engine.state_bytes) == (40, used)
    again = torch.cat([engine.decode(ids[:, place]) for place in range(40, 46)])
    assert torch.equal(first, again)
    if not FAMILIES[saved.name].batched:
        with pytest.raises(UnsupportedError, match=r"several sequences at once wrongly .*; use --batch-size 1"):
            engine.reset(2, 48)
        return
    engine.reset(2, 48)
    engine.restore(before)
    twice = torch.stack([engine.decode(ids[:, place].expand(2)) for place in range(40, 46)])
    if FAMILIES[saved.name].causal:
        assert error(twice, first[:, None].expand_as(twice)) < TOLERANCE


def test_state_is_measured_and_reset_forgets_it(saved: Saved) -> None:
    ids, engine = draw(1, 40), saved.engine
    engine.reset(1, 40)
    assert engine.state_bytes == 0
    fresh = engine.prefill(ids)
    assert 0 < engine.state_bytes <= engine.state_allocated_bytes
    engine.reset(1, 40)
    assert torch.equal(engine.prefill(ids), fresh)


def test_state_bytes_of_a_transformer_are_those_of_its_keys_and_values(llama: Saved) -> None:
    engine = llama.engine
    engine.reset(3, 40)
    engine.prefill(draw(3, 40))
    # batch, tokens, layers, keys and values, heads, head size, bytes
    assert engine.state_bytes == 3 * 40 * 2 * 2 * 2 * 8 * 4


def test_the_same_weights_score_the_same_natively_and_through_transformers(llama: Saved) -> None:
    native = load_engine(str(llama.folder), device="cpu", dtype="float32", attention="eager")
    ids = draw(1, 65, seed=4)
    nats = []
    for engine in (native, llama.engine):
        engine.reset(1, 64)
        nats.append(engine.score(ids[:, :-1], ids[:, 1:]))
    np.testing.assert_allclose(nats[0], nats[1], atol=1e-4)
    one, two = resolve(str(llama.folder)), resolve(str(llama.folder), engine="hf")
    assert (one.weights_digest, one.config_digest, one.num_params) == (
        two.weights_digest,
        two.config_digest,
        two.num_params,
    )
    assert (two.architecture, two.dialect, two.cost, two.attention) == (
        "llama",
        "transformers",
        None,
        ("sdpa", "eager"),
    )


def test_attention_is_chosen_and_flash_is_refused(llama: Saved) -> None:
    engine = load_engine(str(llama.folder), device="cpu", dtype="float32", attention="eager", engine="hf")
    assert engine.choices["attention"] == "eager"
    assert error(engine.logits(draw(1, 50)), llama.logits(draw(1, 50))) < TOLERANCE
    with pytest.raises(UnsupportedError, match="'llama' cannot attend with 'flash' in transformers"):
        load_engine(str(llama.folder), device="cpu", dtype="float32", attention="flash", engine="hf")


def test_greedy_text_is_that_of_step_by_step_argmax(llama: Saved) -> None:
    ids = draw(1, 20, seed=5)
    llama.engine.reset(1, 26)
    written = llama.engine.generate(ids, 6)
    for place in range(6):
        grown = torch.cat([ids, torch.as_tensor(written[:, :place])], dim=1)
        assert int(llama.logits(grown)[0, -1].argmax()) == written[0, place]


def test_more_tokens_than_there_are_positions_is_an_answer(tmp_path: Path) -> None:
    engine = Saved("gpt2", tmp_path / "gpt2").engine
    engine.reset(1, 128)
    with pytest.raises(TooLongError, match="the model has 128 positions; 129 tokens were asked for"):
        engine.reset(1, 129)


@pytest.mark.parametrize("name", ["Roberta", "XLMRoberta", "Camembert", "OPT", "GPT2"])
def test_every_position_that_is_offered_can_be_read(name: str) -> None:
    """RoBERTa's table of 34 rows gives padding (id 1) a row and counts from 2: 32 positions; OPT's adds two."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"vocab_size": 40, "max_position_embeddings": 34, "pad_token_id": 1, "is_decoder": True}
    if name == "OPT":
        sizes |= {"ffn_dim": 16, "word_embed_proj_dim": 16}
    config = getattr(transformers, f"{name}Config")(**sizes)
    model = getattr(transformers, {"GPT2": "GPT2LMHeadModel"}.get(name, f"{name}ForCausalLM"))(config).eval()
    most = position_limit(model) or 0
    assert most == (34 if name in ("OPT", "GPT2") else 32)
    with torch.inference_mode():
        model(torch.full((1, most), 7))
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            model(torch.full((1, most + 1), 7))


MASKED = [("gpt2", "attn", {}), ("gptj", "attn", {"rotary_dim": 4}), ("gpt_neo", "attn.attention", {})]


@pytest.mark.parametrize(("kind", "stem", "more"), MASKED, ids=[kind for kind, _, _ in MASKED])
@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_masks_that_older_versions_saved_are_dropped_by_name(
    tmp_path: Path, kind: str, stem: str, more: dict[str, Any], prefix: str
) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "max_position_embeddings": 32, "hidden_size": 16, "num_attention_heads": 2, **more}
    sizes |= {"attention_types": [[["global", "local"], 1]], "num_layers": 2} if kind == "gpt_neo" else {"n_layer": 2}
    config = transformers.AutoConfig.for_model(kind, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path / kind)
    tensors = load_file(tmp_path / kind / "model.safetensors")
    mask = torch.ones(1, 1, 32, 32, dtype=torch.bool).tril()
    for layer in range(2):
        tensors[f"transformer.h.{layer}.{stem}.bias"] = mask.clone()
        tensors[f"transformer.h.{layer}.{stem}.masked_bias"] = torch.tensor(-1e9)
    renamed = {name.replace("transformer.", prefix, 1): tensor for name, tensor in tensors.items()}
    save_file(renamed, tmp_path / kind / "model.safetensors", metadata={"format": "pt"})
    engine = load_engine(str(tmp_path / kind), device="cpu", dtype="float32", attention=None, engine="hf")
    ids = torch.randint(40, (1, 20))
    with torch.inference_mode():
        expected = model(ids).logits
    assert error(torch.as_tensor(engine.logits(ids)), expected) < TOLERANCE


def test_a_tensor_with_a_masks_name_and_another_shape_is_not_dropped(tmp_path: Path) -> None:
    save("gpt2", tmp_path / "odd")
    tensors = load_file(tmp_path / "odd" / "model.safetensors")
    tensors["transformer.h.0.attn.masked_bias"] = torch.zeros(3)
    save_file(tensors, tmp_path / "odd" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="1 unexpected"):
        load_engine(str(tmp_path / "odd"), device="cpu", dtype="float32", attention=None, engine="hf")


def test_what_reset_gave_no_room_for_is_refused(llama: Saved) -> None:
    llama.engine.reset(1, 8)
    with pytest.raises(UsageError, match="9 more tokens after 0 are beyond the 8"):
        llama.engine.prefill(draw(1, 9))


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_unknown_model_type_says_which_engine_may_know_it(llama: Saved, tmp_path: Path) -> None:
    save("gpt_neox", tmp_path / "pythia")
    with pytest.raises(CheckpointError, match="add --engine hf"):
        resolve(str(tmp_path / "pythia"))
    edit_config(tmp_path / "pythia", model_type="nonesuch", auto_map={"AutoModelForCausalLM": "evil.Model"})
    with pytest.raises(CheckpointError, match=r"no model_type 'nonesuch'.*code of its own, which is never run"):
        resolve(str(tmp_path / "pythia"), engine="hf")
    # neither engine sends to the other one
    for engine in ("eager", "hf"):
        with pytest.raises(CheckpointError) as caught:
            resolve(str(tmp_path / "pythia"), engine=engine)
        assert "add --engine hf" not in str(caught.value)
        assert "leave --engine hf out" not in str(caught.value)
        assert len(str(caught.value)) < 400
    edit_config(tmp_path / "pythia", model_type="vit")
    with pytest.raises(CheckpointError, match="no causal language model for model_type 'vit'"):
        resolve(str(tmp_path / "pythia"), engine="hf")
    with pytest.raises(CheckpointError, match="no causal language model of it") as caught:
        resolve(str(tmp_path / "pythia"))
    assert "add --engine hf" not in str(caught.value)


def test_a_field_of_the_wrong_type_is_one_line(tmp_path: Path) -> None:
    save("llama", tmp_path / "text")
    edit_config(tmp_path / "text", intermediate_size="48")
    with pytest.raises(CheckpointError, match=r"config\.json'.*TypeError.*\bint") as caught:
        resolve(str(tmp_path / "text"), engine="hf")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape", "codes", "nan"])
def test_weights_that_do_not_fit_are_refused(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    save("llama", folder)
    tensors = load_file(folder / "model.safetensors")
    key = "model.layers.0.mlp.up_proj.weight"
    if damage == "missing":
        del tensors[key]
    elif damage == "unexpected":
        tensors["model.layers.0.mlp.gate.bias"] = torch.zeros(3)
    elif damage == "shape":
        tensors[key] = torch.zeros(47, 32)
    elif damage == "codes":
        tensors[key] = torch.ones(48, 32, dtype=torch.int8)
    else:
        tensors[key][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    expected = {
        "missing": f"1 missing: {key}",
        "unexpected": "1 unexpected",
        "shape": rf"1 mismatched: {key} \(\[47, 32\], expected \[48, 32\]\)",
        "codes": rf"whole numbers where weights are expected: {key} \(I8\), 1 in all",
        "nan": f"'{key}' .* NaN or infinite",
    }
    with pytest.raises(WeightsError, match=expected[damage]):
        load_engine(str(folder), device="cpu", dtype="float32", attention=None, engine="hf")


def test_a_reformer_of_transformers_runs_whole_through_hf_alone_and_its_leak_is_large(tmp_path: Path) -> None:
    engine = Saved("reformer", tmp_path / "reformer").engine
    # each call reads all again, and earlier logits move by a quarter of the greatest when later tokens change
    assert (engine.probe.mode, engine.choices["cache"]) == ("whole", "whole")
    assert 0.1 < engine.probe.leak < 0.5
    assert float(str(engine.choices["leak"])) == pytest.approx(engine.probe.leak, rel=0.05)
    # the streaming variant of the registry does not take it for its own
    with pytest.raises(CheckpointError, match=r"'reformer', which no architecture here reads; .* add --engine hf"):
        resolve(str(tmp_path / "reformer"))


@pytest.mark.parametrize(("name", "failed"), [("mamba", []), ("reformer", ["causality"])])
def test_check_prints_the_mode_and_the_leak(name: str, failed: list[str], tmp_path: Path) -> None:
    save(name, tmp_path / name)
    results = check_engine(str(tmp_path / name), device="cpu", dtype="float32", engine="hf")
    by_name = {result.name: result for result in results}
    assert by_name["cache_mode"].explanation.startswith(f"mode {FAMILIES[name].mode}, on 72 tokens in float32")
    assert [result.name for result in results if result.passed is False and result.name == "causality"] == failed
    if not failed:
        assert all(result.passed is not False for result in results)


def test_targets_that_lead_are_those_that_greedy_decoding_writes(llama: Saved) -> None:
    ids = np.random.default_rng(3).integers(0, VOCAB, (1, 30))
    likely = llama.engine.logits(ids).argmax(-1).numpy()
    targets = np.where(np.arange(30) % 3 == 0, (likely + 1) % VOCAB, likely)
    llama.engine.reset(1, 40)
    nats, top = llama.engine.score_top(ids, targets)
    assert np.array_equal(top, targets == likely)
    llama.engine.reset(1, 40)
    assert np.array_equal(nats, llama.engine.score(ids, targets))


def test_a_model_that_looks_ahead_is_refused_where_its_score_is_asked_for(tmp_path: Path) -> None:
    save("reformer", tmp_path / "reformer")
    engine = load_engine(str(tmp_path / "reformer"), device="cpu", dtype="float32", attention=None, engine="hf")
    with pytest.raises(UnsupportedError, match=r"probe 'causality' failed: .* sees what it is scored on; --unchecked"):
        engine.reset(1, 32)
