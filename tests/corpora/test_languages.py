"""The corpus of languages: what ships, how it is split, and that it is what its wheels give."""

from __future__ import annotations

import bz2
import hashlib
import json
import sys
import zipfile
from pathlib import Path

import pytest
from mo_writer import compiled

from ttbench.corpora.corpus import SPLITS, open_corpus
from ttbench.corpora.languages import LICENCES, SOURCES, TEXT, Language, languages, unpack
from ttbench.errors import CorpusError

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
from languages import GETTEXT, LEAST, WHEELS, Wheel, build, language_of

sys.path.pop(0)

DIGEST = "7216048a9715b2ad64ec77abef8e1150"  # of the corpus; a new one is a new corpus, and the zoo needs a new look
PERMISSIVE = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT"}
K32 = 32 * 1024 + 256  # bytes of a context of 32k and what is scored behind it


def test_the_text_that_ships_has_a_recorded_digest_and_is_what_its_sources_say() -> None:
    assert open_corpus("languages").digest == DIGEST
    sources = json.loads(SOURCES.read_bytes())
    data = TEXT.read_bytes()
    assert hashlib.sha256(data).hexdigest() == sources["sha256"]
    assert hashlib.sha256(bz2.decompress(data)).hexdigest() == sources["text_sha256"]
    assert [(w["name"], w["version"], w["sha256"], w["licence"]) for w in sources["wheels"]] == [
        (wheel.name, wheel.version, wheel.sha256, wheel.licence) for wheel in WHEELS
    ]
    assert len(data) < 3 * 1024**2


def test_every_source_is_permissive_and_its_licence_ships() -> None:
    assert {wheel.licence for wheel in WHEELS} <= PERMISSIVE
    text = LICENCES.read_text()
    for wheel in WHEELS:
        assert f"{wheel.name} {wheel.version}\n" in text
    for words in (
        "Redistribution and use in source and binary forms",
        "Permission is hereby granted",
        "Apache License",
    ):
        assert words in text


def test_sixty_languages_are_in_no_training_text_and_84_carry_a_context_of_32k() -> None:
    corpus = open_corpus("languages")
    assert len(corpus.documents("test")) + len(corpus.documents("valid")) >= 60
    everything = [document for split in SPLITS for document in corpus.documents(split)]
    assert sum(len(document.text) >= K32 for document in everything) >= 84
    assert sum(len(document.text) >= K32 for document in corpus.documents("test")) >= 40
    assert {document.name for document in everything} == set(languages())


def test_related_languages_are_in_one_split_and_only_latin_is_written_in_train_and_elsewhere() -> None:
    splits: dict[str, set[str]] = {}
    scripts: dict[str, set[str]] = {"seen": set(), "unseen": set()}
    for language in languages().values():
        splits.setdefault(language.group, set()).add(language.split)
        scripts["seen" if language.split == "train" else "unseen"].update(language.scripts)
    assert {group for group, found in splits.items() if len(found) > 1} == set()
    assert scripts["seen"] & scripts["unseen"] == {"LATIN"}
    slavic = {code for code, language in languages().items() if language.group == "Slavic"}
    assert {"ru", "uk", "pl", "cs", "bg", "sr", "sr_Latn"} <= slavic


def test_no_message_comes_twice_and_none_is_in_languages_of_two_groups() -> None:
    corpus = open_corpus("languages")
    groups: dict[bytes, str] = {}
    for split in SPLITS:
        for document in corpus.documents(split):
            lines = document.text.splitlines()
            assert len(lines) == len(set(lines)), document.name
            assert all(groups.setdefault(line, languages()[document.name].group) for line in lines)
            group = languages()[document.name].group
            assert {groups[line] for line in lines} == {group}, document.name


def test_a_damaged_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ttbench.corpora import languages as module

    damaged = tmp_path / TEXT.name
    damaged.write_bytes(TEXT.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(module, "TEXT", damaged)
    with pytest.raises(CorpusError, match="install ttbench again"):
        module.languages_corpus.__wrapped__()


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        ("pt_BR", "pt"),
        ("es-419", "es"),
        ("ca@valencia", "ca"),
        ("zh-Hans", "zh_Hans"),
        ("zh_TW", "zh_Hant"),
        ("sr@latin", "sr_Latn"),
        ("sr_RS", "sr"),
        ("no", "nb"),
    ],
)
def test_a_territory_belongs_to_its_language_and_a_script_does_not(tag: str, code: str) -> None:
    assert language_of(tag) == code


# A small table and wheels in which each rule of the build has a case.
TABLE = {
    code: Language(code=code, name=code, group=group, scripts=(script,), split=split)
    for code, group, script, split in (
        ("de", "Germanic", "LATIN", "train"),
        ("nl", "Germanic", "LATIN", "train"),
        ("ru", "Slavic", "CYRILLIC", "test"),
    )
}


def wheel_of(folder: Path, name: str, catalogues: dict[str, dict[str, str]]) -> Wheel:
    path = folder / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-1.dist-info/LICENSE", f"Terms of {name}\n")
        for tag, messages in catalogues.items():
            archive.writestr(f"{name}/locale/{tag}/LC_MESSAGES/django.mo", compiled(messages))
    return Wheel(
        name=name,
        version="1",
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        licence="MIT",
        licence_file=f"{name}-1.dist-info/LICENSE",
        catalogues=GETTEXT,
    )


@pytest.fixture
def wheels(tmp_path: Path) -> list[Wheel]:
    many = {f"key {number}": f"Nachricht {chr(97 + number % 26)}{chr(97 + number // 26)}" for number in range(300)}
    first = {
        "de": {"": "header", "Open": "Öffnen", "Menu": "Menu", "Blog page": "Seite des Blogs", "Same": "Gleich"} | many,
        "de_AT": {"Open": "Aufmachen", "Same": "gleich!"},
        "ru": {"Open": "Открыть", "Chat": "Чат", "Left": "Left as it was"}
        | {key: "Сообщение " + chr(0x430 + i % 32) + chr(0x430 + i // 32) for i, key in enumerate(many)},
        "en": {"Open": "Open up"},
        "xx": {"Open": "Abrir"},
    }
    second = {"de": {"x": "Open up", "Chat": "Videotreff"}, "nl": {"Chat": "Videotreff"}}
    return [wheel_of(tmp_path, "first", first), wheel_of(tmp_path, "second", second)]


def test_the_corpus_is_made_of_its_wheels_alone_and_each_time_the_same(tmp_path: Path, wheels: list[Wheel]) -> None:
    for folder in ("once", "again"):
        (tmp_path / folder).mkdir()
        build(wheels, tmp_path, TABLE, tmp_path / folder)
    for name in (TEXT.name, SOURCES.name, LICENCES.name):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()

    documents = unpack(bz2.decompress((tmp_path / "once" / TEXT.name).read_bytes()))
    # Dutch is too short, English is what was translated, and xx is not in the table
    assert set(documents) == {"de", "ru"}
    german = documents["de"].decode().splitlines()
    assert sorted(line for line in german if not line.startswith("Nachricht")) == [
        "Aufmachen",
        "Gleich",
        "Seite des Blogs",
        "Videotreff",
        "Öffnen",
    ]
    assert len(german) == 305
    russian = documents["ru"].decode().splitlines()
    assert {"Открыть", "Чат"} < set(russian)
    assert "Left as it was" not in russian
    # in the catalogues the messages stand in one order
    in_catalogue = sorted(line for line in german if line.startswith("Nachricht"))
    assert [line for line in german if line in set(in_catalogue)] != in_catalogue
    sources = json.loads((tmp_path / "once" / SOURCES.name).read_bytes())
    assert [wheel["name"] for wheel in sources["wheels"]] == ["first", "second"]
    assert "Terms of second" in (tmp_path / "once" / LICENCES.name).read_text()


def test_two_languages_have_the_same_messages_in_orders_of_their_own(tmp_path: Path) -> None:
    numbers = {f"key {number}": number for number in range(300)}
    catalogues = {
        "de": {key: f"Nachricht {chr(97 + n % 26)}{chr(97 + n // 26)} deutsch" for key, n in numbers.items()},
        "nl": {key: f"Bericht {chr(97 + n % 26)}{chr(97 + n // 26)} hollands" for key, n in numbers.items()},
    }
    build([wheel_of(tmp_path, "one", catalogues)], tmp_path, TABLE, tmp_path)
    documents = unpack(bz2.decompress((tmp_path / TEXT.name).read_bytes()))
    orders = {code: [line.split()[1] for line in text.decode().splitlines()] for code, text in documents.items()}
    assert sorted(orders["de"]) == sorted(orders["nl"])
    same = sum(a == b for a, b in zip(orders["de"], orders["nl"], strict=True))
    assert same < 10  # of 300; of two random orders one on average


def test_another_wheel_than_the_one_named_is_refused(tmp_path: Path, wheels: list[Wheel]) -> None:
    path = tmp_path / wheels[0].file
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(CorpusError, match=r"is not first 1; remove it"):
        build(wheels, tmp_path, TABLE, tmp_path)


def test_a_document_below_the_least_size_is_left_out_and_a_long_one_ends_with_a_whole_message(tmp_path: Path) -> None:
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    words = [a + b + c for a in alphabet for b in alphabet for c in alphabet][:9000]
    long = {f"key {word}": f"{word} eine Nachricht" for word in words}
    short = {f"key {word}": f"{word} bericht" for word in words[: LEAST // 12 - 1]}
    build([wheel_of(tmp_path, "one", {"de": long, "nl": short})], tmp_path, TABLE, tmp_path)
    documents = unpack(bz2.decompress((tmp_path / TEXT.name).read_bytes()))
    assert set(documents) == {"de"}
    # each line has 19 bytes with its end
    assert len(documents["de"]) == 160_000 // 19 * 19
