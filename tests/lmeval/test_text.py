from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers

from ttbench.checkpoints.tokenizer import NOTHING_GIVEN, read_tokenizer
from ttbench.errors import CheckpointError, UnsupportedError
from ttbench.lmeval.text import ByteText, FileText, read_text

TEXTS = ["Ann found a ring.", " lost", "", "<s> what</s>", "naïve 🦊\n\n"]


def write(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def sentencepiece() -> tokenizers.Tokenizer:
    """A vocabulary that puts its space in front of a text, as Llama 2's does."""
    pieces = ["<s>", "</s>", "▁", "a", "b", "▁a", "ab"] + [f"<0x{byte:02X}>" for byte in range(256)]
    merges = [("▁", "a"), ("a", "b")]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    made = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True))
    made.add_special_tokens(["<s>", "</s>"])
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return made


def test_bytes_begin_with_bos_and_end_with_it() -> None:
    text = ByteText()
    assert text.encode("Añ", special=True) == [256, 65, 0xC3, 0xB1]
    assert text.encode("A", special=False) == [65]
    assert text.decode([256, 65, 0xC3, 0xB1]) == "Añ"
    assert text.prefix_id == text.end_id == 256


def test_a_file_is_read_as_transformers_reads_it(llama: Any) -> None:
    from transformers import AutoTokenizer

    text, theirs = read_text(llama.path), AutoTokenizer.from_pretrained(llama.path)
    for each in TEXTS:
        ids = text.encode(each, special=True)
        assert ids == theirs.encode(each)
        assert text.encode(each, special=False) == theirs.encode(each, add_special_tokens=False)
        assert text.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert (text.prefix_id, text.end_id) == (theirs.bos_token_id, theirs.eos_token_id)
    assert (text.encode("Ann", special=True)[0] == text.prefix_id) == llama.adds_bos


@pytest.mark.parametrize(
    ("settings", "before", "after"),
    [({}, [], []), ({"add_bos_token": True}, [0], []), ({"add_bos_token": False, "add_eos_token": True}, [], [1])],
)
def test_the_settings_say_what_stands_around_a_text(
    tmp_path: Path, settings: dict[str, Any], before: list[int], after: list[int]
) -> None:
    sentencepiece().save(str(tmp_path / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, **settings}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    text = read_text(write(tmp_path))
    assert text.encode("ab", special=True) == [*before, 5, 4, *after]
    assert text.encode("ab", special=False) == [5, 4]


def test_every_eos_ends_a_written_text_and_bos_is_that_of_every_other_command(tmp_path: Path) -> None:
    sentencepiece().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "add_bos_token": False}))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 900]}')
    config = {"bos_token_id": 3, "eos_token_id": 4}
    text, other = read_text(write(tmp_path, **config)), read_tokenizer(tmp_path, config)
    assert other is not None
    # 4 is "b": a default of the library, not an end
    assert text.end_ids == other.end_ids == {1, 900}
    assert (text.prefix_id, other.bos_id) == (0, None)
    assert text.remark == other.remark
    assert "config.json says BOS is 3 ('a')" in str(text.remark)


def test_without_settings_the_ids_of_config_json_count(tmp_path: Path) -> None:
    sentencepiece().save(str(tmp_path / "tokenizer.json"))
    text = read_text(write(tmp_path, bos_token_id=None, eos_token_id=1))
    assert (text.prefix_id, text.end_id, text.end_text) == (1, 1, "</s>")


def test_a_folder_without_a_tokenizer_is_an_answer_and_a_broken_one_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"holds no tokenizer\.json"):
        read_text(write(tmp_path))
    with pytest.raises(CheckpointError, match="not read by the tokenizers library"):
        FileText(b'{"model": 3}', NOTHING_GIVEN, where=tmp_path / "tokenizer.json")
