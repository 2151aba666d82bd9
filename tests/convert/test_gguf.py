"""GGUF files, written here with the format's own library from a model of ours."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from ttbench.convert.conversion import Converted, convert
from ttbench.errors import CheckpointError
from ttbench.harness.checkpoint import resolve
from ttbench.harness.loading import load_model, load_tokenizer
from ttbench.harness.tokenizer import _BYTE_OF
from ttbench.models.transformer import Transformer

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def interleaved(weight: Tensor, num_heads: int) -> Tensor:
    """Rows of a projection as llama.cpp keeps them: rotary pairs side by side, not half a head apart."""
    rows = weight.reshape(num_heads, 2, -1, weight.shape[-1])
    return rows.transpose(1, 2).reshape(weight.shape)


def gguf_name(key: str) -> str:
    if not key.startswith("model.layers."):
        return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[key]
    layer, _, rest = key.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def write_gguf(path: Path, model: Transformer, *, leave_out: str = "") -> None:
    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    marks = sorted(_BYTE_OF, key=lambda mark: _BYTE_OF[mark])
    tokens = [*marks, "he", *(f"<unused{i}>" for i in range(config.vocab_size - 257))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    dialect = model.DIALECTS[0]
    for name, tensor in model.named_parameters():
        key, value = str(dialect.source(name)), tensor.detach()
        if ".q_proj." in key or ".k_proj." in key:
            heads = config.num_attention_heads if ".q_proj." in key else config.num_key_value_heads
            value = interleaved(value, heads)
        if key != leave_out:
            writer.add_tensor(gguf_name(key), np.ascontiguousarray(value.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer.tiny(conv_kernel=0, tie_word_embeddings=True, vocab_size=260).eval()


def run(source: Path, out: Path) -> Converted:
    return convert(source, out, config=None, report=lambda done, total: None)


def test_a_gguf_file_computes_what_its_model_computed(tmp_path: Path, model: Transformer) -> None:
    write_gguf(tmp_path / "tiny.gguf", model)
    found = run(tmp_path / "tiny.gguf", tmp_path / "out")
    assert (found.architecture, found.has_tokenizer, found.remarks) == ("transformer", True, ())
    assert found.num_elements == model.num_params()[0]
    checkpoint = resolve(str(tmp_path / "out"))
    assert checkpoint.train_ctx == 64
    back = load_model(checkpoint, device="cpu", dtype="float32", attention="sdpa")
    ids = torch.randint(260, (2, 15))
    with torch.inference_mode():
        apart = (back.head(back(ids)) - model.head(model(ids))).abs().max().item()
    assert apart < 1e-5
    tokenizer = load_tokenizer(checkpoint)
    assert tokenizer is not None
    assert tokenizer.encode(b"hehe!").tolist() == [256, 256, 33]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_configuration_says_nothing_of_the_place_it_was_read_at(tmp_path: Path, model: Transformer) -> None:
    configs = []
    for place in ("one", "another"):
        (tmp_path / place).mkdir()
        write_gguf(tmp_path / place / "tiny.gguf", model)
        run(tmp_path / place / "tiny.gguf", tmp_path / place / "out")
        configs.append((tmp_path / place / "out" / "config.json").read_text())
    assert configs[0] == configs[1]
    assert "quantization_config" not in json.loads(configs[0])


def test_a_weight_that_the_file_lacks_is_an_error_not_a_random_number(tmp_path: Path, model: Transformer) -> None:
    write_gguf(tmp_path / "tiny.gguf", model, leave_out="model.layers.1.mlp.up_proj.weight")
    with pytest.raises(CheckpointError, match=r"lacks 1 weights, model\.layers\.1\.mlp\.up_proj\.weight among them"):
        run(tmp_path / "tiny.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [4, 100, 20_000], ids=["magic", "header", "tensors"])
def test_a_truncated_gguf_file_is_an_error_and_leaves_nothing(tmp_path: Path, model: Transformer, size: int) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, model)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="cannot be read by transformers"):
        run(path, tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["tiny.gguf"]
