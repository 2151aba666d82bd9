"""Text to token ids and back as lm-eval does it: with the checkpoint's tokenizer.json as it is.

`ttbench.harness.tokenizer` takes from a vocabulary what adds or drops text, so that bytes can be counted. Here the
file is used unchanged, as transformers uses it: a SentencePiece-like vocabulary puts its space in front, "<s>" in a
text is the token, and BOS stands where the file (or tokenizer_config.json) puts it. Torch-free.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ttbench.errors import CheckpointError, UnsupportedError
from ttbench.harness.files import MAX_CONFIG_BYTES, MAX_TOKENIZER_BYTES, member, parse_json, read_bytes, read_json
from ttbench.harness.tokenizer import ByteTokenizer


class Text(Protocol):
    """What the lm-eval model needs of a tokenizer."""

    name: str
    prefix_id: int | None  # stands in front of a text without context: BOS, else EOS
    end_id: int | None  # what ends a generated text
    end_text: str | None  # the same as text
    prefix_text: str | None  # a text that begins with it gets no other in front
    rolling_prefix: bool  # whether a text to be rolled over is encoded with its own BOS, as transformers would

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Ids; with `special`, what the tokenizer puts around a text is there."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        ...


class ByteText:
    """One token per byte; BOS, 256, in front of every text. BOS also begins the next document, and so ends a text."""

    name = "bytes"
    prefix_id: int | None = ByteTokenizer.bos_id
    end_id: int | None = ByteTokenizer.bos_id
    end_text: str | None = None
    prefix_text: str | None = None
    rolling_prefix = False

    def encode(self, text: str, *, special: bool) -> list[int]:
        start = [self.prefix_id] if special and self.prefix_id is not None else []
        return [*start, *text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(index for index in ids if index < 256).decode(errors="replace")


class FileText:
    """A tokenizer.json, unchanged."""

    rolling_prefix = True

    def __init__(self, data: bytes, settings: Mapping[str, Any], config: Mapping[str, Any], *, where: Path) -> None:
        """Read tokenizer.json's `data`; `settings` is tokenizer_config.json, `config` config.json.

        Raises:
            CheckpointError: the library cannot read it.
        """
        # Late: most checkpoints need only bytes.
        import tokenizers

        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(parse_json(data, where=where)))
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"'{where}' is not read by the tokenizers library: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.name = str(where.parent)
        bos_id = self._id_of(_token(settings, "bos_token"), config.get("bos_token_id"), known=bool(settings))
        self.end_id = self._id_of(_token(settings, "eos_token"), config.get("eos_token_id"), known=bool(settings))
        self.prefix_id = self.end_id if bos_id is None else bos_id
        self.end_text = self._text_of(self.end_id)
        self.prefix_text = self._text_of(self.prefix_id)
        # What tokenizer_config.json says goes before the file's own template, as in transformers.
        given = [settings.get(key) for key in ("add_bos_token", "add_eos_token")]
        self._around: tuple[list[int], list[int]] | None = None
        if any(isinstance(value, bool) for value in given):
            before = [bos_id] if given[0] and bos_id is not None else []
            after = [self.end_id] if given[1] and self.end_id is not None else []
            self._around = before, after

    def encode(self, text: str, *, special: bool) -> list[int]:
        if special and self._around is not None:
            before, after = self._around
            return [*before, *self._tokenizer.encode(text, add_special_tokens=False).ids, *after]
        return self._tokenizer.encode(text, add_special_tokens=special).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def _id_of(self, token: str | None, number: Any, *, known: bool) -> int | None:
        """The id of a token by its text; of config.json's number only where there is no tokenizer_config.json."""
        if token is not None:
            return self._tokenizer.token_to_id(token)
        return number if not known and type(number) is int else None

    def _text_of(self, index: int | None) -> str | None:
        return None if index is None else self._tokenizer.decode([index], skip_special_tokens=False)


def _token(settings: Mapping[str, Any], key: str) -> str | None:
    value = settings.get(key)
    value = value.get("content") if isinstance(value, dict) else value
    return value if isinstance(value, str) else None


def read_text(folder: Path) -> Text:
    """How a checkpoint's folder encodes text.

    Raises:
        UnsupportedError: it has no tokenizer.
        CheckpointError: what it has cannot be read.
    """
    config = read_json(folder / "config.json", max_bytes=MAX_CONFIG_BYTES)
    if config.get("tokenizer") == "bytes":
        return ByteText()
    path, settings = member(folder, "tokenizer.json"), member(folder, "tokenizer_config.json")
    if path is None:
        raise UnsupportedError(f"'{folder}' has no tokenizer.json, and lm-eval's tasks are text")
    return FileText(
        read_bytes(path, max_bytes=MAX_TOKENIZER_BYTES),
        {} if settings is None else read_json(settings, max_bytes=MAX_CONFIG_BYTES),
        config,
        where=path,
    )
