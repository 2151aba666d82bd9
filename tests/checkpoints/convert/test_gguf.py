"""GGUF files: what they hold is used or refused by name. The right values are transformers' and the library's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from gguf_writer import byte_bpe, shaken, vocabulary_keys, write_gguf
from tokenizers import Regex, pre_tokenizers

from ttbench.checkpoints.checkpoint import resolve
from ttbench.checkpoints.convert.conversion import Converted, convert
from ttbench.checkpoints.loading import load_model, load_tokenizer
from ttbench.errors import CheckpointError

ATTENTION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA: dict[str, Any] = {**ATTENTION, "vocab_size": 300, "num_key_value_heads": 2, "max_position_embeddings": 512}
TEXT = Path(__file__).read_text()
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SAMPLE = "In 1984, 'twas  2 x 3\n\n1. one,  22\n    333\tdon't — I'LL 7½\n"


def llama(**changes: Any) -> Any:
    torch.manual_seed(0)
    return shaken(transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**LLAMA, **changes})))


def run(source: Path, out: Path) -> Converted:
    return convert(source, out, config=None, report=lambda done, total: None)


def apart(out: Path, model: Any) -> float:
    """Greatest difference between logits of the converted folder, read by transformers, and the model's."""
    back = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    ids = torch.randint(model.config.vocab_size, (2, 33))
    with torch.inference_mode():
        return (back(ids).logits - model(ids).logits).abs().max().item()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_llama_computes_what_its_model_computed(tmp_path: Path, tied: bool) -> None:
    model = llama(tie_word_embeddings=tied, rope_parameters={"rope_type": "default", "rope_theta": 50000.0})
    write_gguf(tmp_path / "m.gguf", model)
    found = run(tmp_path / "m.gguf", tmp_path / "out")
    assert (found.architecture, found.has_tokenizer) == ("transformer", False)
    checkpoint = resolve(str(tmp_path / "out"))
    assert checkpoint.train_ctx == 512
    back = load_model(checkpoint, device="cpu", dtype="float32", attention="sdpa")
    ids = torch.randint(300, (2, 15))
    with torch.inference_mode():
        assert (back.head(back(ids)) - model(ids).logits).abs().max().item() < 1e-4
    assert apart(tmp_path / "out", model) < 1e-5


@pytest.mark.parametrize("bias", [("attention_bias",), ("mlp_bias",), ("attention_bias", "mlp_bias")])
def test_biases_of_a_llama_are_kept(tmp_path: Path, bias: tuple[str, ...]) -> None:
    model = llama(**dict.fromkeys(bias, True))
    write_gguf(tmp_path / "m.gguf", model)
    run(tmp_path / "m.gguf", tmp_path / "out")
    assert apart(tmp_path / "out", model) < 1e-5


def test_keys_that_a_file_may_lack_have_llama_cpps_values_not_a_library_default(tmp_path: Path) -> None:
    model = llama(num_key_value_heads=4, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    lacking = [f"llama.{key}" for key in ("attention.head_count_kv", "attention.key_length", "rope.freq_base")]
    write_gguf(tmp_path / "m.gguf", model, without=[*lacking, "llama.vocab_size"])
    run(tmp_path / "m.gguf", tmp_path / "out")
    assert apart(tmp_path / "out", model) < 1e-5


@pytest.mark.parametrize("name", ["Qwen2", "Qwen3"])
def test_a_qwen_computes_what_its_model_computed(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        **LLAMA, head_dim=8 if name == "Qwen2" else 16, rope_parameters={"rope_type": "default", "rope_theta": 1e6}
    )
    model = shaken(getattr(transformers, f"{name}ForCausalLM")(config))
    write_gguf(tmp_path / "m.gguf", model)
    run(tmp_path / "m.gguf", tmp_path / "out")
    assert apart(tmp_path / "out", model) < 1e-5


@pytest.mark.parametrize("num_layers", [7, 62])
def test_a_gemma3_computes_what_its_model_computed(tmp_path: Path, num_layers: int) -> None:
    """Layers of both kinds, a window shorter than the text, and the scale of scores that only 62 layers have."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {**LLAMA, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": num_layers}
    config = transformers.Gemma3TextConfig(
        **sizes, head_dim=8, sliding_window=8, query_pre_attn_scalar=4 if num_layers == 62 else 8
    )
    model = shaken(transformers.Gemma3ForCausalLM(config))
    write_gguf(tmp_path / "m.gguf", model)
    run(tmp_path / "m.gguf", tmp_path / "out")
    assert resolve(str(tmp_path / "out"), engine="hf").train_ctx == 512
    assert apart(tmp_path / "out", model) < 1e-4
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    for name in ("layer_types", "sliding_window", "rope_parameters", "query_pre_attn_scalar", "tie_word_embeddings"):
        assert written[name] == getattr(config, name), name


def test_a_gemma3_without_a_rotary_base_has_llama_cpps_and_not_its_papers(tmp_path: Path) -> None:
    model = shaken(transformers.Gemma3ForCausalLM(transformers.Gemma3TextConfig(**LLAMA, head_dim=8)))
    write_gguf(tmp_path / "m.gguf", model, without=["gemma3.rope.freq_base"])
    run(tmp_path / "m.gguf", tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["rope_parameters"]["full_attention"]["rope_theta"] == 10000.0


def test_a_mamba_computes_what_its_model_computed_and_has_no_training_length(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, state_size=8)
    model = shaken(transformers.MambaForCausalLM(config))
    write_gguf(tmp_path / "m.gguf", model)
    found = run(tmp_path / "m.gguf", tmp_path / "out")
    assert found.architecture == "mamba"
    assert any("context_length 1048576 is no training length" in remark for remark in found.remarks)
    assert resolve(str(tmp_path / "out")).train_ctx is None
    assert apart(tmp_path / "out", model) < 1e-5


REFUSED = [
    ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, "llama.rope.scaling.type = 'linear'"),
    ({"rope.scaling.factor": 4.0}, "llama.rope.scaling.factor = 4.0"),
    ({"rope.scaling.original_context_length": 64}, "llama.rope.scaling.original_context_length = 64"),
    ({"expert_count": 8}, "llama.expert_count = 8"),
    ({"attention.sliding_window": 64}, "llama.attention.sliding_window = 64"),
    ({"attention.scale": 0.5}, "llama.attention.scale = 0.5"),
    ({"rope.dimension_count": 4}, "rope.dimension_count = 4 and heads of 8"),
    ({"attention.head_count_kv": [2, 1]}, "head_count_kv"),
    ({"vocab_size": 299}, "300 rows of token_embd.weight"),
    ({"never.heard.of": 1}, "llama.never.heard.of = 1"),
]


@pytest.mark.parametrize(("keys", "said"), REFUSED, ids=[next(iter(keys)) for keys, _ in REFUSED])
def test_a_key_that_changes_numbers_and_is_not_read_is_refused_by_name(
    tmp_path: Path, keys: dict[str, Any], said: str
) -> None:
    write_gguf(tmp_path / "m.gguf", llama(num_hidden_layers=1), keys=keys)
    with pytest.raises(CheckpointError, match="cannot be converted") as caught:
        run(tmp_path / "m.gguf", tmp_path / "out")
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["rope_freqs.weight", "blk.0.attn_q.bias", "blk.0.ffn_gate_inp.weight", "blk.1.attn_q.weight"]
)
def test_a_tensor_that_is_not_read_is_refused_by_name(tmp_path: Path, name: str) -> None:
    write_gguf(tmp_path / "m.gguf", llama(num_hidden_layers=1), extra={name: np.ones(4, dtype=np.float32)})
    with pytest.raises(CheckpointError, match=r"rope_freqs|attn_k\.bias|ffn_gate_inp|blk\.1\.attn_q") as caught:
        run(tmp_path / "m.gguf", tmp_path / "out")
    assert str(caught.value).startswith(f"'{tmp_path / 'm.gguf'}' cannot be converted")


def test_a_falcon_mamba_and_an_unknown_architecture_are_refused(tmp_path: Path) -> None:
    config = transformers.MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=1, state_size=8)
    write_gguf(tmp_path / "m.gguf", transformers.MambaForCausalLM(config), keys={"ssm.dt_b_c_rms": True})
    with pytest.raises(CheckpointError, match=r"ssm\.dt_b_c_rms = True"):
        run(tmp_path / "m.gguf", tmp_path / "out")
    writer = gguf.GGUFWriter(str(tmp_path / "x.gguf"), "falcon")
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), dtype=np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    with pytest.raises(
        CheckpointError, match="architecture 'falcon'; read from GGUF are llama, qwen2, qwen3, gemma3, mamba"
    ):
        run(tmp_path / "x.gguf", tmp_path / "out")


@pytest.mark.parametrize("given", ["folder", "first", "second"])
def test_the_parts_of_a_split_file_are_read_together(tmp_path: Path, given: str) -> None:
    model = llama()
    write_gguf(tmp_path / "m.gguf", model, parts=8)
    paths = sorted(tmp_path.glob("*.gguf"))
    assert len(paths) == 3
    run({"folder": tmp_path, "first": paths[0], "second": paths[1]}[given], tmp_path / "out")
    assert apart(tmp_path / "out", model) < 1e-5


def test_a_missing_or_renamed_part_is_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", llama(), parts=8)
    one, two, three = sorted(tmp_path.glob("*.gguf"))
    kept = two.read_bytes()
    two.unlink()
    with pytest.raises(CheckpointError, match=r"one of 3 parts .* m-00002-of-00003\.gguf is missing"):
        run(one, tmp_path / "out")
    (tmp_path / "alone.gguf").write_bytes(kept)
    with pytest.raises(CheckpointError, match=r"part 2 of 3 of a split GGUF; .*llama-gguf-split --merge"):
        run(tmp_path / "alone.gguf", tmp_path / "out")
    assert three.is_file()


SPLITS = {
    "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "llama-bpe": [
        pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
    "qwen2": [
        pre_tokenizers.Split(Regex(LLAMA3.replace("{1,3}", "")), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ],
}


@pytest.mark.parametrize("pre", SPLITS)
def test_text_is_split_as_the_file_names_it(tmp_path: Path, pre: str) -> None:
    made = byte_bpe(TEXT, vocab_size=600, split=SPLITS[pre])
    model = llama(num_hidden_layers=1, vocab_size=made.get_vocab_size())
    write_gguf(tmp_path / "m.gguf", model, vocabulary=vocabulary_keys(made, pre=pre))
    (tmp_path / "tokenizer.json").write_text(byte_bpe("something else", vocab_size=280).to_str())
    run(tmp_path / "m.gguf", tmp_path / "out")
    ours = load_tokenizer(resolve(str(tmp_path / "out")))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert ours is not None
    for text in (SAMPLE, TEXT):
        expected = made.encode(text).ids
        assert ours.encode(text.encode()).tolist() == expected
        assert theirs(text, add_special_tokens=False).input_ids == expected
    assert ours.bos_id is None


@pytest.mark.parametrize("pre", [None, "default", "unheard-of"])
def test_no_splitting_is_guessed(tmp_path: Path, pre: str | None) -> None:
    made = byte_bpe(TEXT, vocab_size=300)
    write_gguf(tmp_path / "m.gguf", llama(num_hidden_layers=1), vocabulary=vocabulary_keys(made, pre=pre))
    found = run(tmp_path / "m.gguf", tmp_path / "out")
    assert not found.has_tokenizer
    assert "tokenizer.ggml.pre is" in found.remarks[0]
    assert load_tokenizer(resolve(str(tmp_path / "out"))) is None


def test_what_stands_around_a_text_and_ends_it_is_what_the_file_says(tmp_path: Path) -> None:
    made = byte_bpe(TEXT, vocab_size=299)
    made.add_special_tokens(["<|turn|>"])
    keys = {**vocabulary_keys(made, pre="smollm"), "bos_token_id": 0, "add_bos_token": True, "eot_token_id": 299}
    keys["tokens"].append("<|turn|>")
    keys["token_type"].append(3)
    write_gguf(tmp_path / "m.gguf", llama(num_hidden_layers=1), vocabulary=keys)
    run(tmp_path / "m.gguf", tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["eos_token_id"] == [0, 299]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs("a").input_ids[0] == 0
    ours = load_tokenizer(resolve(str(tmp_path / "out")))
    assert ours is not None
    assert ours.bos_id == 0


def test_a_sentencepiece_vocabulary_merges_the_best_piece_first(tmp_path: Path) -> None:
    """Worked out by hand from the scores: "▁ab" is reached through "ab" (-1), not through "▁a" (-2)."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "ab", "▁ab"]
    scores = [0.0] * 259 + [-9.0, -9.0, -9.0, -2.0, -1.0, -3.0]
    kinds = [2, 3, 3, *([6] * 256), *([1] * 6)]
    vocabulary = {"model": "llama", "tokens": pieces, "scores": scores, "token_type": kinds}
    vocabulary |= {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
    write_gguf(tmp_path / "m.gguf", llama(num_hidden_layers=1, vocab_size=len(pieces)), vocabulary=vocabulary)
    run(tmp_path / "m.gguf", tmp_path / "out")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    # BOS is there unless the file says otherwise, as in llama.cpp
    assert theirs("ab aab").input_ids == [1, 264, 262, 263]
    ours = load_tokenizer(resolve(str(tmp_path / "out")))
    assert ours is not None
    assert (ours.bos_id, ours.encode("ab aß".encode()).tolist()) == (1, [263, 262, 3 + 0xC3, 3 + 0x9F])


def test_the_configuration_says_nothing_of_the_place_it_was_read_at(tmp_path: Path) -> None:
    configs = []
    for place in ("one", "another"):
        (tmp_path / place).mkdir()
        write_gguf(tmp_path / place / "tiny.gguf", llama(num_hidden_layers=1))
        run(tmp_path / place / "tiny.gguf", tmp_path / place / "out")
        configs.append((tmp_path / place / "out" / "config.json").read_text())
    assert configs[0] == configs[1]


def test_a_weight_that_the_file_lacks_is_an_error_not_a_random_number(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", llama(), without=["blk.1.ffn_up.weight"])
    with pytest.raises(CheckpointError, match=r"lacks 1 weights, blk\.1\.ffn_up\.weight among them"):
        run(tmp_path / "tiny.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [4, 100, 20_000], ids=["magic", "header", "tensors"])
def test_a_truncated_gguf_file_is_an_error_and_leaves_nothing(tmp_path: Path, size: int) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, llama())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="truncated or broken"):
        run(path, tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["tiny.gguf"]
