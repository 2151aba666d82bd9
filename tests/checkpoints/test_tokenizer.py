"""Tokens that account for every byte of the text, or an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttbench.checkpoints.special_tokens import before_end
from ttbench.checkpoints.tokenizer import NOTHING_GIVEN, ByteTokenizer, TableTokenizer, read_tokenizer, tokenizer_digest
from ttbench.errors import CheckpointError, UsageError

TEXT = "The café  at\tthe corner,\r\n\n opens at 9: naïve ▁no 🦊 ends \x00 <s> <|end|> ".replace("▁", "_").encode()


def byte_marks() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in the order of the bytes."""
    marks, extra = [], 256
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174:
            marks.append(chr(byte))
        else:
            marks.append(chr(extra))
            extra += 1
    return marks


def added(content: str, index: int, *, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    return {"id": index, "content": content, "normalized": False, "special": special, **flags}


def gpt_spec(**changes: Any) -> dict[str, Any]:
    """A byte-level vocabulary with some merges, as GPT-2 has it."""
    vocab = {mark: index for index, mark in enumerate(byte_marks())}
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ã", "©")]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    end = len(vocab)
    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
        "added_tokens": [added("<|end|>", end, special=True), added("  ", end + 1, special=False)],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "dropout": 0.5, "vocab": vocab, "merges": [" ".join(pair) for pair in merges]},
        **changes,
    }


def llama_spec(**changes: Any) -> dict[str, Any]:
    """A vocabulary with "▁" for a space and bytes to fall back on, as Llama 2 has it."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    for token in ("▁", "t", "h", "e", "c", "a", "th", "the", "▁the"):
        vocab[token] = len(vocab)
    return {
        "version": "1.0",
        "added_tokens": [added(token, index, special=True) for index, token in enumerate(("<unk>", "<s>", "</s>"))],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "byte_fallback": True,
            "vocab": vocab,
            "merges": ["t h", "th e", "▁ the"],
        },
        **changes,
    }


def table(spec: dict[str, Any], *, bos: str | None = None, num_ids: int | None = None, **given: Any) -> TableTokenizer:
    said = {**NOTHING_GIVEN, **({} if bos is None else {"bos": {"bos_token": bos}}), **given}
    return TableTokenizer(json.dumps(spec).encode(), given=said, where=Path("model/tokenizer.json"), num_ids=num_ids)


@given(st.binary(max_size=300))
def test_the_byte_tokenizer_keeps_any_bytes(text: bytes) -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_lengths(ids).sum() == len(ids) == len(text)


def test_bos_stands_for_no_byte() -> None:
    tokenizer = ByteTokenizer()
    ids = np.array([256, 65, 256, 66])
    assert tokenizer.decode(ids) == b"AB"
    assert tokenizer.byte_lengths(ids).tolist() == [0, 1, 0, 1]


@pytest.mark.wrong_types
@pytest.mark.parametrize("ids", [[257], [-1], [[65]]])
def test_ids_outside_the_vocabulary_are_refused(ids: list[Any]) -> None:
    for call in (ByteTokenizer().decode, ByteTokenizer().byte_lengths):
        with pytest.raises(UsageError, match="ids must"):
            call(np.array(ids))


@pytest.mark.parametrize("spec", [gpt_spec(), llama_spec()], ids=["byte-level", "sentencepiece"])
def test_every_byte_of_a_text_is_in_one_token(spec: dict[str, Any]) -> None:
    tokenizer = table(spec)
    ids = tokenizer.encode(TEXT)
    assert tokenizer.decode(ids) == TEXT
    assert tokenizer.byte_lengths(ids).sum() == len(TEXT)
    assert tokenizer.byte_lengths(tokenizer.encode(b" the")).tolist() == [4]


def test_the_fast_table_agrees_with_the_library_on_plain_text() -> None:
    import tokenizers

    tokenizer = table(gpt_spec())
    text = "the café in the thé"
    library = tokenizers.Tokenizer.from_str(
        json.dumps(gpt_spec(truncation=None, model=gpt_spec()["model"] | {"dropout": None}))
    )
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert tokenizer.encode(text.encode()).tolist() == library.encode(text).ids


def test_long_texts_are_not_truncated_and_dropout_is_off() -> None:
    tokenizer = table(gpt_spec())
    found = {tuple(tokenizer.encode(b" the" * 50).tolist()) for _ in range(5)}
    assert {len(ids) for ids in found} == {50}
    assert len(found) == 1


def test_special_tokens_in_a_text_are_spelled_out() -> None:
    tokenizer = table(gpt_spec(), bos="<|end|>")
    ids = tokenizer.encode(b"a<|end|>b")
    assert tokenizer.bos_id is not None
    assert tokenizer.bos_id not in ids
    assert tokenizer.decode(np.concatenate(([tokenizer.bos_id], ids))) == b"a<|end|>b"


@pytest.mark.parametrize("prepend", ["always", "first", "never"])
def test_no_space_is_invented_in_front(prepend: str) -> None:
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": prepend, "split": True}
    tokenizer = table(llama_spec(normalizer=None, pre_tokenizer=metaspace))
    assert tokenizer.byte_lengths(tokenizer.encode(b"the the")).tolist() == [3, 4]


def test_text_that_is_not_utf8_is_refused_with_its_place() -> None:
    with pytest.raises(UsageError, match=r"byte 3 of this text \(5 bytes\)"):
        table(gpt_spec()).encode(b"abc\xffd")


def test_a_text_that_would_come_back_changed_is_refused() -> None:
    with pytest.raises(UsageError, match=r"from byte 2, .* comes back as"):
        table(llama_spec()).encode("th▁e".encode())
    composed = table(gpt_spec(normalizer={"type": "NFC"}))
    assert composed.decode(composed.encode("é".encode())) == "é".encode()
    with pytest.raises(UsageError, match="does not keep this text"):
        composed.encode("e\u0301".encode())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": {"type": "Lowercase"}}, "normaliser Lowercase rewrites text"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]}}, "normaliser NFKC"),
        ({"normalizer": {"type": "Prepend", "prepend": "#"}}, "normaliser Prepend"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "pre-tokeniser Whitespace drops text"),
        (
            {"pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}},
            "pre-tokeniser Split drops text",
        ),
        ({"model": {"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "a"}}, "its model is WordPiece"),
        ({"model": {**gpt_spec()["model"], "end_of_word_suffix": "</w>"}}, "end_of_word_suffix"),
        ({"model": None}, "its model is None"),
        ({"normalizer": 3}, "normaliser 3"),
    ],
    ids=range(9),
)
def test_a_tokenizer_that_cannot_count_bytes_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        table(gpt_spec(**changes))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"model": {"type": "BPE"}}'])
def test_a_broken_tokenizer_file_is_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        TableTokenizer(data, where=Path("model/tokenizer.json"))


def test_an_unknown_bos_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no token of"):
        table(gpt_spec(), bos="<bos>")


def test_a_folder_says_which_tokenizer_it_has(tmp_path: Path) -> None:
    assert read_tokenizer(tmp_path, {}) is None
    assert tokenizer_digest(tmp_path, {}) is None
    assert isinstance(read_tokenizer(tmp_path, {"tokenizer": "bytes"}), ByteTokenizer)
    with pytest.raises(CheckpointError, match="tokenizer='words'; allowed: 'bytes'"):
        read_tokenizer(tmp_path, {"tokenizer": "words"})
    (tmp_path / "tokenizer.json").write_text(json.dumps(llama_spec()))
    plain = read_tokenizer(tmp_path, {})
    with_bos = read_tokenizer(tmp_path, {"bos_token_id": 1})
    assert plain is not None
    assert with_bos is not None
    assert (plain.bos_id, with_bos.bos_id) == (None, 1)
    assert plain.digest == tokenizer_digest(tmp_path, {})
    assert with_bos.digest == tokenizer_digest(tmp_path, {"bos_token_id": 1}) != plain.digest
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": {"content": "<s>"}}')
    from_file = read_tokenizer(tmp_path, {})
    assert from_file is not None
    assert from_file.bos_id == 1
    with pytest.raises(CheckpointError, match="expected one token id"):
        read_tokenizer(tmp_path, {"bos_token_id": [1, 2]})


def with_template(spec: dict[str, Any], token: str, index: int) -> dict[str, Any]:
    """The vocabulary with a post-processor that puts a token in front, as Llama 3's and Gemma's have it."""
    single = [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {token: {"id": token, "ids": [index], "tokens": [token]}}
    return spec | {
        "post_processor": {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special}
    }


# Ids of llama_spec: <unk> 0, <s> 1, </s> 2, and from 3 on ordinary pieces.
BOS = [
    pytest.param({"bos_token": "<s>"}, {"bos_token_id": 0}, 1, "config.json says BOS is 0", id="llama1-unk"),
    pytest.param(
        {"bos_token": "<s>", "add_bos_token": False}, {"bos_token_id": 1}, None, "add_bos_token", id="not-added"
    ),
    pytest.param({"eos_token": "</s>"}, {"bos_token_id": 5}, None, "'<0x02>'", id="library-default"),
    pytest.param({"eos_token": "</s>"}, {"bos_token_id": 1}, 1, None, id="special-in-config"),
    pytest.param({"bos_token": None}, {"bos_token_id": 1}, None, "the tokenizer's files say none", id="null"),
    pytest.param({"bos_token": {"content": "<s>"}}, {"bos_token_id": 1}, 1, None, id="agree"),
    pytest.param({}, {}, None, None, id="nothing"),
]


@pytest.mark.parametrize(("settings", "config", "expected", "remark"), BOS)
def test_bos_is_the_tokenizers_and_disagreement_is_said(
    tmp_path: Path, settings: dict[str, Any], config: dict[str, Any], expected: int | None, remark: str | None
) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(llama_spec()))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = read_tokenizer(tmp_path, config)
    assert isinstance(tokenizer, TableTokenizer)
    assert tokenizer.bos_id == expected
    assert (remark or "") in (tokenizer.remark or "")
    assert (tokenizer.remark is None) == (remark is None)


@pytest.mark.parametrize(
    "settings", [{}, {"bos_token": "</s>"}, {"add_bos_token": False}], ids=["none", "named", "off"]
)
def test_a_template_puts_bos_in_front_unless_the_settings_say_otherwise(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(with_template(llama_spec(), "<s>", 1)))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = read_tokenizer(tmp_path, {"bos_token_id": 0})
    assert tokenizer is not None
    assert tokenizer.bos_id == {"": 1, "bos_token": 2, "add_bos_token": None}["".join(settings)]


@pytest.mark.parametrize("spelled", ["two", "one-name", "sequence"])
def test_several_tokens_in_front_of_a_text_are_refused_not_cut_to_one(tmp_path: Path, spelled: str) -> None:
    # [gMASK] <sop> of GLM-4, with the names of this vocabulary.
    spec = with_template(llama_spec(), "<s>", 1)
    processor = spec["post_processor"]
    if spelled == "two":
        processor["single"].insert(1, {"SpecialToken": {"id": "</s>", "type_id": 0}})
        processor["special_tokens"]["</s>"] = {"id": "</s>", "ids": [2], "tokens": ["</s>"]}
    elif spelled == "one-name":
        processor["special_tokens"]["<s>"] = {"id": "<s>", "ids": [1, 2], "tokens": ["<s>", "</s>"]}
    else:
        inner = with_template(llama_spec(), "</s>", 2)["post_processor"]
        spec["post_processor"] = {"type": "Sequence", "processors": [inner, processor]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(CheckpointError, match="puts <s> </s> in front of every text, and one token is read"):
        read_tokenizer(tmp_path, {})
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    tokenizer = read_tokenizer(tmp_path, {})
    assert tokenizer is not None
    assert tokenizer.bos_id is None


def test_every_eos_of_three_files_ends_a_text(tmp_path: Path) -> None:
    spec = llama_spec()
    spec["added_tokens"] += [added("<|eot|>", 268, special=True), added("<|eom|>", 269, special=False)]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [268, 999]}')
    # 7 is "<0x04>", ordinary text: a library's default, not this vocabulary's end
    tokenizer = read_tokenizer(tmp_path, {"eos_token_id": [269, 7]}, num_ids=1000)
    assert tokenizer is not None
    assert tokenizer.end_ids == {2, 268, 269, 999}
    assert tokenizer.decode(np.array([265, 2, 268, 269, 999])) == b"th"
    assert tokenizer.byte_lengths(np.array([265, 2, 268, 999])).tolist() == [2, 0, 0, 0]


def unigram_spec() -> dict[str, Any]:
    """A Unigram vocabulary as T5 and XLM-R have it: control tokens are pieces like any other."""
    pieces: list[list[Any]] = [["<unk>", 0.0], ["<s>", 0.0], ["</s>", 0.0], ["<pad>", 0.0], ["▁", -3.0]]
    pieces += [[letter, -4.0] for letter in "abcdknpsu<>/"]
    return {
        "version": "1.0",
        "added_tokens": [added(piece, index, special=True) for index, (piece, _) in enumerate(pieces[:4])],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False},
    }


def whole_word_spec() -> dict[str, Any]:
    """A BPE that looks a piece up whole before it merges, as Llama 3's, with a control token among its pieces."""
    spec = gpt_spec()
    model = spec["model"]
    return spec | {
        "model": model | {"vocab": model["vocab"] | {"<|end|>": 260}, "ignore_merges": True, "dropout": None}
    }


@pytest.mark.parametrize("control", ["<s>", "</s>", "<unk>", "<pad>"])
def test_a_unigram_vocabulary_spells_control_tokens_letter_by_letter(control: str) -> None:
    tokenizer = table(unigram_spec(), bos="<s>", eos="</s>")
    text = f"a{control}b"
    pieces = [piece for piece, _ in unigram_spec()["model"]["vocab"]]
    ids = tokenizer.encode(text.encode())
    assert ids.tolist() == [pieces.index(letter) for letter in text]
    assert tokenizer.decode(ids) == text.encode()


def test_a_bpe_that_looks_pieces_up_whole_spells_control_tokens_too() -> None:
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer = table(whole_word_spec() | {"pre_tokenizer": level})
    assert tokenizer.encode(b"<|end|>").tolist() == [byte_marks().index(letter) for letter in "<|end|>"]


def test_an_unknown_letter_is_refused_not_scored_as_the_unknown_token() -> None:
    with pytest.raises(UsageError, match="does not keep this text: from byte 1"):
        table(unigram_spec()).encode(b"aZb")


@pytest.mark.parametrize("normalized", [False, True])
def test_runs_of_spaces_as_added_tokens_stand_for_spaces(normalized: bool) -> None:
    spec = llama_spec(normalizer={"type": "Replace", "pattern": {"String": " "}, "content": "▁"})
    spec["model"]["vocab"] |= {"▁▁": 268, "▁▁▁▁": 269}
    spec["model"]["merges"] += ["▁ ▁", "▁▁ ▁▁"]
    spec["added_tokens"] += [
        added("▁▁", 268, special=False) | {"normalized": normalized},
        added("▁▁▁▁", 269, special=False) | {"normalized": normalized},
    ]
    tokenizer = table(spec)
    text = b"the    the  the the"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_lengths(ids).sum() == len(text)
    assert {268, 269} & set(ids.tolist())


def test_an_answer_ends_before_the_first_of_its_ends() -> None:
    ids = np.array([7, 8, 2, 9, 3])
    assert before_end(ids, frozenset({2, 3})).tolist() == [7, 8]
    assert before_end(ids, frozenset({7})).tolist() == []
    assert before_end(ids, frozenset()).tolist() == before_end(ids, frozenset({99})).tolist() == ids.tolist()


def test_ids_of_a_models_padding_stand_for_no_text() -> None:
    for tokenizer in (table(gpt_spec(), num_ids=300), ByteTokenizer(num_ids=300)):
        assert tokenizer.decode(np.array([65, 299])) == tokenizer.decode(np.array([65]))
        assert tokenizer.byte_lengths(np.array([299])).tolist() == [0]
        with pytest.raises(UsageError, match=r"0\.\.299"):
            tokenizer.decode(np.array([300]))
