"""Message catalogues, read as data: the three formats, and what of a message is language."""

from __future__ import annotations

import pytest
from mo_writer import compiled

from ttbench.corpora.catalogues import (
    CatalogueMessage,
    is_language,
    letters,
    plain,
    read_json,
    read_mo,
    read_po,
    script,
)
from ttbench.errors import CorpusError

MESSAGES = {
    "": "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=2; plural=(__import__('os').abort());\n",
    "menu\x04Open": "Öffnen",
    "%d day\0%d days": "%d Tag\0%d Tage",
    "Close": "",
}


@pytest.mark.parametrize("order", ["<", ">"], ids=["little-endian", "big-endian"])
def test_a_compiled_catalogue_gives_its_messages_and_its_plural_rule_is_never_evaluated(order: str) -> None:
    found = list(read_mo(compiled(MESSAGES, order=order), where="x.mo"))
    assert found == [
        CatalogueMessage(source="Open", translation="Öffnen"),
        CatalogueMessage(source="%d day", translation="%d Tage"),
        CatalogueMessage(source="Close", translation=""),
    ]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x89PNG" + bytes(40), id="another-format"),
        pytest.param(compiled(MESSAGES)[:60], id="cut-in-a-table"),
        pytest.param(compiled(MESSAGES)[:-4], id="cut-in-a-text"),
        pytest.param(compiled({"a": "b"}).replace(b"b\0", b"\xff\0"), id="not-UTF-8"),
    ],
)
def test_what_is_no_whole_compiled_catalogue_is_refused(data: bytes) -> None:
    with pytest.raises(CorpusError, match=r"x\.mo is no whole \.mo catalogue"):
        list(read_mo(data, where="x.mo"))


WRITTEN = r"""# Translators of something
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\n"

#: a.py:1
#, python-format
msgctxt "menu"
msgid "Open \"%s\""
msgstr "\"%s\" "
"öffnen"

#, fuzzy, python-format
msgid "Close"
msgstr "Schließt?"

msgid "%d day"
msgid_plural "%d days"
msgstr[0] "%d Tag"
msgstr[1] "%d Tage"

#~ msgid "Gone"
#~ msgstr "Weg"
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_a_written_catalogue_gives_its_messages_without_those_in_doubt_and_those_gone(end: str) -> None:
    assert list(read_po(WRITTEN.replace("\n", end).encode(), where="x.po")) == [
        CatalogueMessage(source='Open "%s"', translation='"%s" öffnen'),
        CatalogueMessage(source="%d day", translation="%d Tage"),
    ]


@pytest.mark.parametrize("line", ['"no keyword before it"', "msgid without quotes", "__import__('os').abort()"])
def test_a_line_that_no_written_catalogue_has_is_refused(line: str) -> None:
    with pytest.raises(CorpusError, match=r"x\.po is no \.po catalogue"):
        list(read_po(f'{line}\nmsgid "a"\nmsgstr "b"\n'.encode(), where="x.po"))


def test_a_catalogue_in_json_is_an_object_of_texts() -> None:
    assert list(read_json('{"app.open": "öffnen"}'.encode(), where="x.json")) == [
        CatalogueMessage(source="", translation="öffnen")
    ]
    for data in (b"{", b"[]", b'{"a": 1}'):
        with pytest.raises(CorpusError, match=r"x\.json is no"):
            list(read_json(data, where="x.json"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Das ist %(name)s, %s von %1$s oder %d%%.", "Das ist %, % von % oder %%."),
        ("{name} und {{ name }} in <b class='x'>Fett</b>", "% und % in Fett"),
        ("Tom &amp; Jerry&nbsp;&lt;3", "Tom & Jerry <3"),
        ("siehe https://a.example/b?c=d oder mail@a.example", "siehe % oder %"),
        ("zwei\n  Zeilen\t", "zwei Zeilen"),
        ("50 % der Fälle", "50 % der Fälle"),
        ("Cafe\u0301", "Caf\u00e9"),
    ],
)
def test_a_plain_message_has_no_mark_up_and_a_sign_for_what_is_filled_in(text: str, expected: str) -> None:
    assert plain(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Öffnen", True),
        ("a", False),
        ("%: %", False),
        ("10 - 20 km", False),
        ("हिन्दी", True),
        ("{num, plural, one % other %}", False),
    ],
)
def test_a_message_is_language_when_letters_are_the_most_of_it(text: str, expected: bool) -> None:
    assert is_language(text) is expected


def test_messages_are_told_apart_by_their_letters_and_marks_alone() -> None:
    assert letters("% Tage!") == letters("tage")
    assert letters("की") != letters("का")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Домой (HTML)", "CYRILLIC"), ("HTML дом x", "LATIN"), ("漢字", "CJK"), ("かな", "HIRAGANA"), ("12", "")],
)
def test_the_script_of_a_text_is_that_of_most_of_its_letters(text: str, expected: str) -> None:
    assert script(text) == expected
