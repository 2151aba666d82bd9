"""The authors' JAX train states: written here in their layout, converted, and computed with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from convert_files import write_json
from flax_writer import array_bytes, jax_name, parameters, train_state, write_pairs

from ttbench.checkpoints.checkpoint import resolve
from ttbench.checkpoints.convert.conversion import convert
from ttbench.checkpoints.convert.ttt_jax import RULES, presets
from ttbench.checkpoints.loading import load_model
from ttbench.errors import CheckpointError, WeightsError
from ttbench.models.ttt import TTT, TTTMLP, TTTLinear
from ttbench.models.ttt_config import TTTConfig

MAMBA = {"use_gate": True, "share_qk": True, "pre_conv": True}
PLAIN = dict.fromkeys(MAMBA, False)
VARIANTS = [
    pytest.param(TTTLinear, PLAIN, id="linear-transformer"),
    pytest.param(TTTLinear, MAMBA, id="linear-mamba"),
    pytest.param(TTTMLP, PLAIN, id="mlp-transformer"),
    pytest.param(TTTMLP, MAMBA, id="mlp-mamba"),
    pytest.param(TTTLinear, {**MAMBA, "tie_word_embeddings": False}, id="linear-untied"),
]


def silent(done: int, total: int) -> None:
    assert 0 <= done <= total


def make(model_class: type[TTT], **overrides: Any) -> TTT:
    """A tiny model with no weight left at a value that two others share."""
    torch.manual_seed(0)
    model = model_class.tiny(**overrides)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def held(model: TTT) -> dict[str, torch.Tensor]:
    """The model's tensors under the authors' PyTorch names; a tied head is not among them."""
    dialect = model.DIALECTS[0]
    found = {dialect.source(name): tensor for name, tensor in model.named_parameters()}
    return {name: tensor.detach() for name, tensor in found.items() if name is not None}


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.head(model(ids))


@pytest.mark.parametrize(("model_class", "overrides"), VARIANTS)
def test_a_model_written_in_the_jax_layout_and_converted_computes_the_same(
    tmp_path: Path, model_class: type[TTT], overrides: dict[str, Any]
) -> None:
    model = make(model_class, **overrides)
    source = tmp_path / "published"
    source.mkdir()
    write_pairs(source / "streaming_train_state", train_state(parameters(held(model))))
    (source / "metadata.pkl").write_bytes(b"\x80\x04 never opened")
    found = convert(source, tmp_path / "out", config=model.config.to_json(), report=silent)
    assert (found.num_tensors, found.num_skipped) == (len(held(model)), 2 * len(held(model)) + 1)
    checkpoint = resolve(str(tmp_path / "out"))
    assert checkpoint.architecture == found.architecture
    back = load_model(checkpoint, device="cpu", dtype="float32", attention="sdpa")
    ids = torch.randint(model.config.vocab_size, (2, 37))
    assert torch.equal(logits(back, ids), logits(model, ids))


def test_a_file_of_parameters_alone_is_read_too_in_several_shards(tmp_path: Path) -> None:
    model = make(TTTLinear)
    tensors = [(key, tensor.to(torch.bfloat16)) for key, tensor in parameters(held(model))]
    path = tmp_path / "streaming_params"
    write_pairs(path, [(key, array_bytes(tensor)) for key, tensor in tensors])
    out = tmp_path / "out"
    found = convert(path, out, config=model.config.to_json(), report=silent, shard_bytes=4096)
    assert found.weight_bytes == 2 * found.num_elements
    assert len(list(out.glob("model-*.safetensors"))) > 2
    assert not list(out.glob("part-*"))
    assert load_model(resolve(str(out)), device="cpu", dtype="float32", attention="sdpa")


def test_every_tensor_of_the_authors_code_has_a_rule() -> None:
    names = {name for cls in (TTTLinear, TTTMLP) for extra in (PLAIN, MAMBA) for name in held(make(cls, **extra))}
    names |= set(held(make(TTTLinear, tie_word_embeddings=False)))
    targets = {"/".join(jax_name(name)).replace("/h/0/", "/h/{i}/") for name in names if ".layers.1." not in name}
    assert targets == set(RULES)


@pytest.mark.parametrize("change", ["gate", "mlp", "width", "key"])
def test_a_configuration_that_does_not_fit_is_refused_and_nothing_is_left(tmp_path: Path, change: str) -> None:
    model = make(TTTLinear, **MAMBA)
    config = model.config.to_json()
    pairs = parameters(held(model))
    if change == "key":
        pairs.append((("model", "h", "0", "seq_modeling_block", "wx", "kernel"), torch.zeros(2, 2)))
    changed = {"gate": {"use_gate": False}, "mlp": {"ttt_layer_type": "mlp"}, "width": {"intermediate_size": 8}}
    write_pairs(tmp_path / "streaming_train_state", train_state(pairs))
    with pytest.raises(WeightsError, match=r"do not fit|no TTT model has"):
        convert(
            tmp_path / "streaming_train_state",
            tmp_path / "out",
            config={**config, **changed.get(change, {})},
            report=silent,
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["streaming_train_state"]


def test_no_configuration_is_guessed(tmp_path: Path) -> None:
    path = tmp_path / "streaming_train_state"
    write_pairs(path, train_state(parameters(held(make(TTTLinear)))))
    with pytest.raises(CheckpointError, match="never guessed; give it with --config FILE or one of ttt-linear-125m"):
        convert(path, tmp_path / "out", config=None, report=silent)
    config = make(TTTLinear).config.to_json()
    del config["ttt_base_lr"]
    write_json(tmp_path / "config.json", config)
    with pytest.raises(CheckpointError, match="lacks ttt_base_lr"):
        convert(path, tmp_path / "out", config=None, report=silent)
    assert not (tmp_path / "out").exists()


def test_a_train_state_without_parameters_says_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "streaming_train_state"
    write_pairs(path, train_state([])[:1])
    with pytest.raises(WeightsError, match="holds no parameters: its keys begin with step"):
        convert(path, tmp_path / "out", config=make(TTTLinear).config.to_json(), report=silent)


def test_presets_are_the_sizes_of_the_paper() -> None:
    found = {name: TTTConfig.from_json(config) for name, config in presets().items()}
    assert len(found) == 16
    small, large = found["ttt-linear-125m"], found["ttt-mlp-base-1b"]
    assert (small.hidden_size, small.num_hidden_layers, small.ttt_base_lr, small.use_gate) == (768, 12, 1.0, True)
    assert (large.hidden_size, large.intermediate_size, large.ttt_base_lr, large.use_gate) == (2048, 5504, 0.1, False)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("ttt-linear-base-125m", 110.28), ("ttt-mlp-350m", 348.79), ("ttt-linear-760m", 733.61), ("ttt-mlp-1b", 1307.86)],
)
def test_presets_have_the_published_numbers_of_parameters(name: str, millions: float) -> None:
    config = TTTConfig.from_json(presets()[name])
    model_class = TTTMLP if config.ttt_layer_type == "mlp" else TTTLinear
    with torch.device("meta"):
        num_params, _ = model_class.from_config(config).num_params()
    assert num_params / 1e6 == pytest.approx(millions, abs=0.005)


# As ttt-lm-jax's model.py @ a9b2904 writes its presets: the layer in one word, and the convolution's width.
JAX_FIELDS = {"initializer_range": 0.02, "use_cache": True, "ttt_base_lr_init": -1.0, "ttt_base_lr_warmup": -1}
JAX_FIELDS |= {"max_sequence_length": 2048, "remat_mini_batch_group_size": 4, "rope_theta": 10000.0}


def jax_fields(model: TTT, block: str) -> dict[str, Any]:
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    others = ("ttt_base_lr", "mini_batch_size", "tie_word_embeddings", "pre_conv", "rms_norm_eps")
    fields = {name: getattr(model.config, name) for name in (*sizes, *others)}
    return {**fields, **JAX_FIELDS, "seq_modeling_block": block, "conv_width": model.config.conv_kernel}


BLOCKS = [
    pytest.param(TTTLinear, MAMBA, "ttt_linear", id="ttt_linear"),
    pytest.param(TTTMLP, MAMBA, "ttt_mlp", id="ttt_mlp"),
    pytest.param(TTTLinear, PLAIN, "ttt_linear_base", id="ttt_linear_base"),
    pytest.param(TTTMLP, PLAIN, "ttt_mlp_base", id="ttt_mlp_base"),
]


@pytest.mark.parametrize(("model_class", "overrides", "block"), BLOCKS)
def test_the_authors_own_json_says_layer_and_width_in_its_own_words(
    tmp_path: Path, model_class: type[TTT], overrides: dict[str, Any], block: str
) -> None:
    model = make(model_class, **overrides, conv_kernel=3)
    write_pairs(tmp_path / "streaming_params", [(k, array_bytes(t)) for k, t in parameters(held(model))])
    convert(tmp_path / "streaming_params", tmp_path / "out", config=jax_fields(model, block), report=silent)
    checkpoint = resolve(str(tmp_path / "out"))
    assert checkpoint.train_ctx == 2048
    back = load_model(checkpoint, device="cpu", dtype="float32", attention="sdpa")
    ids = torch.randint(model.config.vocab_size, (2, 37))
    assert torch.equal(logits(back, ids), logits(model, ids))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seq_modeling_block": "self_attention"}, "seq_modeling_block='self_attention', the authors' Transformer"),
        ({"seq_modeling_block": "ttt_cubic"}, "seq_modeling_block='ttt_cubic'; converted are ttt_linear"),
        ({"use_gate": False}, "seq_modeling_block='ttt_linear', which is use_gate=True, and use_gate=False"),
        ({"pre_conv": None}, "lacks pre_conv"),
        ({"rope_tetha": 1.0}, "unknown field 'rope_tetha'"),
    ],
    ids=["attention", "unknown", "contradiction", "pre_conv", "misspelt"],
)
def test_a_jax_configuration_that_is_not_read_says_why(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    model = make(TTTLinear, **MAMBA)
    write_pairs(tmp_path / "streaming_params", [(k, array_bytes(t)) for k, t in parameters(held(model))])
    config = {key: value for key, value in {**jax_fields(model, "ttt_linear"), **change}.items() if value is not None}
    with pytest.raises(CheckpointError) as caught:
        convert(tmp_path / "streaming_params", tmp_path / "out", config=config, report=silent)
    assert said in str(caught.value)


def test_a_jax_transformer_is_called_one(tmp_path: Path) -> None:
    """The authors' attention has the names of a TTT layer's projections, and no inner model."""
    model = make(TTTLinear, **PLAIN)
    kept = ("wq", "wk", "wv", "wo", "seq_norm", "ffn_norm", "feed_forward", "wte", "ln_f")
    pairs = [(key, array_bytes(tensor)) for key, tensor in parameters(held(model)) if set(key) & set(kept)]
    write_pairs(tmp_path / "streaming_params", pairs)
    with pytest.raises(WeightsError, match=r"no weights of an inner model .* the authors' JAX Transformer"):
        convert(tmp_path / "streaming_params", tmp_path / "out", config=model.config.to_json(), report=silent)


def test_a_misfit_names_the_file_that_was_given_not_a_folder_that_is_gone(tmp_path: Path) -> None:
    model = make(TTTLinear, **MAMBA)
    path = tmp_path / "streaming_params"
    write_pairs(path, [(k, array_bytes(t)) for k, t in parameters(held(model))])
    with pytest.raises(WeightsError, match="do not fit") as caught:
        convert(path, tmp_path / "out", config={**model.config.to_json(), "intermediate_size": 8}, report=silent)
    assert f"the weights in '{path}' do not fit" in str(caught.value)
    assert ".out-" not in str(caught.value)
