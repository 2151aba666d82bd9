"""Corpora of the user's own texts: `text:PATH` and `hf:DATASET`. Torch-free.

A split is never guessed. What a corpus leaves out (hidden files, other splits, rows without text) and what was changed
(a byte-order mark taken off) is in `Corpus.notes`, which `plan` and `run` print.

Source: huggingface/datasets issues 5021, 5721, 7201: files left out in silence where a name contains "test".
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttbench.corpora.corpus import SPLITS, Corpus, Document, make_corpus
from ttbench.errors import CorpusError

if TYPE_CHECKING:
    import datasets

HUB = "hf"  # kind of the corpora that are datasets of the hub
_SHOWN = 3  # names in a list that may be long
# The splits of a dataset whose meaning needs no guess.
_HUB_SPLITS = {"train": "train", "validation": "valid", "valid": "valid", "test": "test"}
_DATA_SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".txt")


def text_corpus(path: str) -> Corpus:
    """UTF-8 text: a file is one test document; a folder is one per file, whatever its depth.

    A folder keeps splits only where it holds nothing but folders named train, valid and test. Raises CorpusError when
    nothing can be read, and when it is not clear whether a folder's train or valid is a split.
    """
    root = Path(os.path.expanduser(path))
    name = f"text:{path}"
    if root.is_file():
        document, marked = _read(root, root.name)
        return make_corpus(name, {"test": [document]}, source="a file of the user's", notes=_notes(marks=int(marked)))
    if not root.is_dir():
        raise CorpusError(f"corpus '{name}': no such file or folder; give a UTF-8 text file or a folder of them")
    entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    named = [split for split in SPLITS if (root / split).is_dir()]
    others = [entry.name for entry in entries if entry.name not in named]
    if named and others and named != ["test"]:
        raise CorpusError(
            f"'{root}' holds {_listed(named)} beside {_listed(others)}: are they splits? Give text:{path}/{named[-1]} "
            "to score that folder; move the rest away to keep splits; rename what is no split"
        )
    folders = {split: root / split for split in named} if named and not others else {"test": root}
    splits, marks, empty = {}, 0, 0
    for split, folder in folders.items():
        found = [_read(file, file.relative_to(folder).as_posix()) for file in _files(folder)]
        splits[split] = [document for document, _ in found]
        marks += sum(marked for _, marked in found)
        empty += sum(not document.text for document, _ in found)
    hidden = sum(1 for file in root.rglob("*") if file.is_file() and _is_hidden(file, root))
    links = sum(1 for entry in root.rglob("*") if entry.is_symlink() and entry.is_dir() and not _is_hidden(entry, root))
    notes = _notes(marks=marks, hidden=hidden, links=links, empty=empty)
    if named and others:
        notes = (f"its folder 'test' is not taken for a split, because it holds {_listed(others)} too", *notes)
    return make_corpus(name, splits, source="a folder of the user's", notes=notes)


def _files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.is_file() and not _is_hidden(file, folder)]


def _is_hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _read(path: Path, name: str) -> tuple[Document, bool]:
    """A file as a document, and whether a byte-order mark was taken off."""
    try:
        text = path.read_bytes()
        text.decode()
        if b"\0" in text:
            where = f"a NUL at byte {text.index(0)}"
            raise CorpusError(f"{path} is no UTF-8 text: it has {where}, as UTF-16 does; convert it, or leave it out")
    except OSError as error:
        raise CorpusError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8 (byte {error.start}); convert it, or leave it out") from error
    return Document(name=name, text=text.removeprefix(codecs.BOM_UTF8)), text.startswith(codecs.BOM_UTF8)


def _notes(*, marks: int, hidden: int = 0, links: int = 0, empty: int = 0) -> tuple[str, ...]:
    left = [(hidden, "hidden file"), (links, "linked folder"), (empty, "empty file")]
    words = [_number(number, noun) for number, noun in left if number]
    notes = [f"left out: {', '.join(words)}"] if words else []
    if marks:
        notes.append(f"a byte-order mark was taken off {_number(marks, 'file')}: it is no text")
    return tuple(notes)


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


# Datasets of the hub


@dataclass(frozen=True, slots=True, kw_only=True)
class HubAddress:
    """What `hf:NAME[:CONFIG][@SPLIT][#COLUMN]` names."""

    text: str
    name: str
    config: str | None
    split: str | None  # the one to score; None: the dataset's test
    column: str

    def but(self, **changes: str) -> str:
        """The address with some parts replaced, as the user types it."""
        parts = {"config": self.config, "split": self.split, "column": self.column} | changes
        marks = {"config": ":", "split": "@", "column": "#"}
        shown = (f"{marks[part]}{value}" for part, value in parts.items() if value and value != "text")
        return f"hf:{self.name}{''.join(shown)}"


def hub_address(text: str) -> HubAddress:
    """Read what follows `hf:`."""
    rest, _, column = text.partition("#")
    if os.path.exists(os.path.expanduser(rest)):
        # A folder's name may hold the marks.
        return HubAddress(text=text, name=rest, config=None, split=None, column=column or "text")
    rest, _, split = rest.partition("@")
    name, _, config = rest.partition(":")
    return HubAddress(text=text, name=name, config=config or None, split=split or None, column=column or "text")


def hub_corpus(dataset: str) -> Corpus:
    """A dataset of the Hugging Face hub, or a local folder that `datasets` reads: one document per row of text.

    `NAME[:CONFIG][@SPLIT][#COLUMN]`: SPLIT is scored as the test split; without it the dataset's own `test` is, and
    `train` and `validation` keep their meaning. Splits of other names are left out and named in the notes. Raises
    CorpusError where there is a choice to make, saying which and how.
    """
    import datasets  # seconds to import, and only this function needs it

    address = hub_address(dataset)
    try:
        builder = datasets.load_dataset_builder(address.name, address.config)
        loaded = datasets.load_dataset(address.name, address.config)
    except Exception as error:  # datasets raises many unrelated types, all meaning "cannot be loaded"
        raise _unloadable(address, error) from error
    if not isinstance(loaded, datasets.DatasetDict):
        raise CorpusError(f"corpus 'hf:{dataset}' cannot be loaded as splits of rows")
    known = {str(split): rows for split, rows in loaded.items()}
    wanted = _wanted(address, list(known))
    splits: dict[str, list[Document]] = {}
    notes, empty, marks = list(_choices(address, builder)), 0, 0
    for split, meaning in wanted.items():
        for index, text in enumerate(_texts(address, split, known[split])):
            plain = (text or "").removeprefix("\ufeff")
            empty, marks = empty + (not plain), marks + (text != plain and text is not None)
            if plain:
                document = Document(name=f"{split}/{index:08d}", text=plain.encode())
                splits.setdefault(meaning, []).append(document)
    if left := [split for split in known if split not in wanted]:
        notes.append(f"left out: split {_listed(left)}")
    notes += [f"left out: {_number(empty, 'row')} without text"] if empty else []
    notes += [f"a byte-order mark was taken off {_number(marks, 'row')}: it is no text"] if marks else []
    return make_corpus(f"hf:{dataset}", splits, source=f"dataset {dataset}", notes=tuple(notes))


def _unloadable(address: HubAddress, error: Exception) -> CorpusError:
    """What to say when a dataset cannot be loaded; where it has several configurations, that one must be named."""
    import datasets

    configs: list[str] = []
    try:
        configs = datasets.get_dataset_config_names(address.name)
    # Asked only to explain the first error, which is reported all the same.
    except Exception:
        configs = []
    if len(configs) > 1 and address.config not in configs:
        choice = address.but(config=configs[0])
        return CorpusError(
            f"corpus 'hf:{address.text}' has configurations {', '.join(configs)}; name one, such as {choice}"
        )
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return CorpusError(f"corpus 'hf:{address.text}' cannot be loaded: {first}")


def _wanted(address: HubAddress, known: Sequence[str]) -> dict[str, str]:
    """Splits to read, with the meaning of each. Raises CorpusError where none is named test and none was chosen."""
    if address.split is not None:
        if address.split not in known:
            raise CorpusError(f"corpus 'hf:{address.text}' has no split '{address.split}'; it has {', '.join(known)}")
        return {address.split: "test"}
    wanted = {split: _HUB_SPLITS[split] for split in known if split in _HUB_SPLITS}
    if "test" not in wanted:
        choice = address.but(split=known[-1])
        raise CorpusError(
            f"corpus 'hf:{address.text}' has no split named test; it has {', '.join(known)}: name the one to score, "
            f"such as {choice}"
        )
    return wanted


def _choices(address: HubAddress, builder: Any) -> Iterable[str]:
    """What `datasets` has chosen by itself: a configuration, and the files of a folder."""
    configs: Mapping[str, object] = builder.builder_configs or {}
    if address.config is None and len(configs) > 1:
        yield f"its configuration is {builder.config.name}, of {_listed(sorted(configs))}"
    root, files = Path(os.path.expanduser(address.name)), builder.config.data_files
    if not root.is_dir() or files is None:
        return
    taken = {Path(str(file)).resolve() for part in files.values() for file in part}
    left = [file for file in _files(root) if file.suffix in _DATA_SUFFIXES and file.resolve() not in taken]
    if left:
        yield f"left out by datasets: {_listed([file.relative_to(root).as_posix() for file in left])}"


def _texts(address: HubAddress, split: str, rows: datasets.Dataset) -> Sequence[str | None]:
    """The column of texts. Raises CorpusError when there is none, or it holds something else."""
    import datasets

    texts = [name for name, kind in rows.features.items() if getattr(kind, "dtype", "") in ("string", "large_string")]
    if address.column not in rows.column_names:
        missing = f"has no column '{address.column}' in {split}"
    elif address.column not in texts:
        kind = rows.features[address.column]
        held = kind.dtype if isinstance(kind, datasets.Value) else type(kind).__name__
        missing = f"holds {held} in column '{address.column}', not text"
    else:
        return rows[address.column]
    choice = f"choose one of {', '.join(texts)} by {address.but(column='COLUMN')}" if texts else "no column holds text"
    raise CorpusError(f"corpus 'hf:{address.text}' {missing}; {choice}")
