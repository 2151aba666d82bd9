"""The numbers in the README and in docs/results.md are those of results/ and of the zoo's cards."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from scipy import special
from typer.testing import CliRunner

from ttbench.checkpoints.checkpoint import zoo_names
from ttbench.cli.app import app
from ttbench.store.rows import read_rows

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import result_tables  # noqa: E402
import zoo  # noqa: E402
from result_tables import PAGE, checkpoints, entry, page, results  # noqa: E402

sys.path.pop(0)
TEXT = " ".join(PAGE.read_text(encoding="utf-8").split())
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOKENS = {"256": 256, "512": 512, "1k": 1024, "2k": 2048, "4k": 4096, "8k": 8192, "16k": 16384, "32k": 32768}


def test_the_tables_are_made_from_the_results() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text


def test_the_tables_of_a_made_up_result_are_these(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cell of each table, by hand: unit, digits, star, status, order, and names with equal rows."""
    held = {
        "bench": """metric,corpus,checkpoint,context_len,value,status,extrapolated
            bits_per_byte,code,slow,4096,2.345,ok,False
            bits_per_byte,code,slow,8192,9.5,ok,True
            bits_per_byte,code,none,4096,,oom,
            bits_per_byte,code,none,8192,,too_long,
            bits_per_byte,code,best,4096,1.994,ok,False
            bits_per_byte,code,best,8192,1.5,ok,False
            mixer_bits_per_byte,code,,4096,1.25,ok,
            mixer_bits_per_byte,code,,8192,1.5,ok,""",
        "needle": """metric,param_question,checkpoint,context_len,value,status,extrapolated
            retrieval,cloze,b,512,0.146,ok,True
            retrieval,cloze,a,512,0.146,ok,True
            retrieval,cloze,c,512,1,ok,False
            retrieval,ruler,c,512,0,ok,False
            recognition,cloze,a,512,0.5,ok,False
            recognition,cloze,b,512,0.25,ok,False
            recognition,cloze,c,512,,oom,False""",
    }
    for suite, text in held.items():
        path = tmp_path / "results" / suite / "cpu" / "table.csv"
        path.parent.mkdir(parents=True)
        path.write_text(re.sub(r"\n +", "\n", text) + "\n", encoding="utf-8")
    monkeypatch.setattr(result_tables, "ROOT", tmp_path)
    results.cache_clear()
    try:
        assert [*result_tables.bits_per_byte("code")] == [
            "| context | 4k | 8k |",
            "|---|---|---|",
            "| `best` | 1.99 | 1.50 |",
            "| `slow` | 2.35 | 9.50* |",
            "| `none` | oom | too long |",
            "| context mixer | 1.25 | 1.50 |",
        ]
        assert [*result_tables.needles()] == [
            "| | 512 |",
            "|---|---|",
            "| `c`, retrieved | 100 |",
            "| `a`, `b`, retrieved | 15* |",
            "| `a`, recognised | 50 |",
            "| `b`, recognised | 25 |",
            "| `c`, recognised | oom |",
        ]
        with pytest.raises(ValueError, match="0 lines of bench with"):
            entry("bench", "bits_per_byte", corpus="code", checkpoint="lost")
        results("bench").append({**results("bench")[0], "context_len": 65536})
        assert result_tables.contexts_of("bench") == [4096, 8192, 65536]
    finally:
        results.cache_clear()


def test_a_row_of_each_table_of_times_and_memory_is_that_of_the_results() -> None:
    """Computed here by another way than by the script that makes them."""
    text = PAGE.read_text(encoding="utf-8")
    at = {"checkpoint": "transformer", "batch_size": 1}
    read, step = (
        [entry("latency", metric, context_len=length, **at)["value"] for length in (512, 2048, 8192)]
        for metric in ("prefill_s", "decode_s_per_token")
    )
    told = [f"{value:.2f}" for value in read] + [f"{1000 * value:.1f}" for value in step]
    assert "| `transformer` | {} | {} | {}* | {} | {} | {}* |".format(*told) in text
    state, working = (
        [entry("memory", metric, context_len=length, checkpoint="mamba2")["value"] for length in (512, 4096, 32768)]
        for metric in ("state_bytes", "prefill_working_bytes")
    )
    told = [f"{value / 1024 / 1024:.1f}" for value in state] + [f"{value / 1024 / 1024:.0f}" for value in working]
    assert "| `mamba2` | {} | {} | {}* | {} | {} | {}* |".format(*told) in text


def test_each_table_says_over_how_many_texts_it_goes() -> None:
    for corpus, texts in (("languages", "languages"), ("code", "files")):
        lines = [line for line in results("bench") if (line["metric"], line["corpus"]) == ("bits_per_byte", corpus)]
        (num_texts,) = {line["num_clusters"] for line in lines}
        assert f"{num_texts} {texts} of" in TEXT


def bits(name: str, length: str, corpus: str = "languages") -> float:
    return entry("bench", "bits_per_byte", checkpoint=name, corpus=corpus, context_len=TOKENS[length])["value"]


SPANS = (("256", "4k"), ("512", "4k"), ("1k", "4k"))


def difference(a: str, b: str, length: str, corpus: str) -> dict[str, Any]:
    """What a needs more than b."""
    found = entry("bench", "bits_per_byte", "comparisons", a=a, b=b, corpus=corpus, context_len=TOKENS[length])
    assert f"for all {found['num_points']} comparisons of both tables together" in TEXT
    return found


def shown_behind(best: str, lines: Iterable[dict[str, Any]]) -> set[str]:
    """The checkpoints that these comparisons show one to be better than."""
    return {
        line["b"] if line["a"] == best else line["a"]
        for line in lines
        if line["verdict"] == ("a better" if line["a"] == best else "b better" if line["b"] == best else None)
    }


def leads(best: str, length: str, corpus: str) -> set[str]:
    """The checkpoints that one is shown to be better than in bits per byte."""
    at = ("bits_per_byte", corpus, TOKENS[length])
    lines = results("bench", "comparisons")
    return shown_behind(best, (each for each in lines if (each["metric"], each["corpus"], each["context_len"]) == at))


# Trained as another model of the zoo, with another seed; neither compared nor drawn.
AGAIN = "ttt-linear-seed2"
# Letters of the test languages of the suite, where several languages share them.
LETTERS = {
    "twelve languages of Latin letters": "az bs cs ha hr lt lv pl sk sl sr_Latn tr",
    "eight of Cyrillic ones": "be bg ky mk mn ru sr uk",
    "six of Devanagari": "brx hi kok mai mr ne",
    "six of Arabic ones": "ar ckb fa ks ug ur",
}


def test_what_is_said_of_training_noise_is_in_the_results() -> None:
    apart = bits(AGAIN, "4k") - bits("ttt-linear", "4k")
    rows = read_rows(ROOT / "results" / "bench" / "cpu" / "rows.parquet")
    rows = rows.loc[(rows["corpus"] == "languages") & (rows["context_len"] == 4096)]
    named = zip(*(rows[name].tolist() for name in ("checkpoint", "document", "nats", "num_bytes")), strict=True)
    each = {(name, language): nats / num_bytes / math.log(2) for name, language, nats, num_bytes in named}
    assert len(each) == len(rows)
    told = f"With another seed `ttt-linear` needs {apart:.2f} bits per byte more at 4k:"
    for letters, languages in LETTERS.items():
        more = [each[AGAIN, language] - each["ttt-linear", language] for language in languages.split()]
        told += f"{' and' if letters == 'six of Arabic ones' else ''} {sum(more) / len(more):.2f} in the {letters},"
    assert re.sub(r", and", " and", told).rstrip(",") + "." in TEXT
    lines = [line for line in results("bench", "comparisons") if line["metric"] == "bits_per_byte"]
    assert all(AGAIN not in (line["a"], line["b"]) for line in lines)
    noise = {(line["corpus"], line["context_len"]): 2 * line["training_sd"] for line in lines}
    assert f"must therefore exceed {noise['languages', 4096]:.2f} at 4k (twice `training_sd` in" in TEXT
    in_code = [noise["code", TOKENS[length]] for length in ("256", "512", "1k", "2k", "4k")]
    verdicts = {
        corpus: Counter(line["verdict"] for line in lines if line["corpus"] == corpus)
        for corpus in ("languages", "code")
    }
    within, shown = (
        {corpus: sum(found[verdict] for verdict in wanted) for corpus, found in verdicts.items()}
        for wanted in (["within training noise"], ["within training noise", "a better", "b better"])
    )
    told = f"is {min(in_code):.2f} to {max(in_code):.2f}, and {within['code']} of the {shown['code']} differences that"
    assert told in TEXT
    num_points = sum(verdicts["languages"].values())
    told = f"would call {shown['languages']} of the {num_points} differences shown; {within['languages']} of these are"
    assert told in TEXT
    (num_seeds,) = {line["training_seeds"] for line in lines}
    factor, exceeded = special.stdtrit(num_seeds - 1, 0.975), 2 * special.stdtr(num_seeds - 1, -2)
    assert f"would exceed twice such an estimate in {100 * exceeded:.0f} of 100 cases, noisier ones more often" in TEXT
    method = " ".join((ROOT / "docs" / "methodology.md").read_text(encoding="utf-8").split())
    sd = apart / math.sqrt(2)
    assert f"lie {apart:.3f} bits per byte apart, so sd = {apart:.3f}/√2 = {sd:.3f}" in method
    assert f"`training_sd` is {apart:.3f}, and a difference must exceed {2 * apart:.3f}" in method
    rates = [f"{200 * special.stdtr(seeds - 1, -2):.0f}" for seeds in (2, 3)]
    assert "exceed twice `training_sd` in {} of 100 cases with two seeds and in {} with three".format(*rates) in method
    assert f"would ask for {factor:.1f} times `training_sd`, which no difference in languages reaches" in TEXT
    ratios = [abs(line["effect"]) / line["training_sd"] for line in lines if line["corpus"] == "languages"]
    assert max(ratios) < factor


def test_what_is_said_of_languages_beside_the_table_is_in_the_results() -> None:
    names = {*checkpoints("bench")} - {AGAIN}
    at_4k = {name: leads(name, "4k", "languages") for name in names}
    assert at_4k == {
        **{name: set() for name in names},
        "transformer-conv": {"titans-mac", "titans-mag", "performer"},
        "ttt-linear": {"performer", "titans-mac"},
    }
    unshown = {"transformer", "performer"}
    for name in names - unshown - {"titans-mac"}:
        assert leads(name, "16k", "languages") >= unshown
    assert leads("titans-mac", "16k", "languages") == {"transformer"}
    assert all(leads(name, "16k", "languages") == set() for name in unshown)
    for length in ("256", "512", "1k", "2k", "4k", "8k", "16k"):
        found = difference("transformer-conv", "ttt-linear", length, "languages")
        assert found["verdict"] in ("within training noise", "no difference shown")
    gained = {name: [bits(name, a) - bits(name, b) for a, b in SPANS] for name in (*names, AGAIN)}
    assert all(bits(name, "16k") - bits(name, "4k") < 0.01 for name in ("ttt-linear", AGAIN))
    told = "from 512 bytes to 4k {:.2f} bits per byte with the first seed, {:.2f} with the second".format(
        gained["ttt-linear"][1], gained[AGAIN][1]
    )
    assert told in TEXT
    assert f"the plain `transformer` {gained['transformer'][1]:.2f} bits per byte.**" in TEXT
    constant = ("s4d", "mamba", "mamba2", "reformer", "hybrid")
    assert max(abs(gained[name][1]) for name in constant) < 0.01
    assert gained["transformer-conv"][2] < 0
    told = "`ttt-linear` gains {:.2f} bits per byte from 512 bytes to 4k with one seed and {:.2f} with another".format(
        gained["ttt-linear"][1], gained[AGAIN][1]
    )
    zoo_page = " ".join(zoo.PAGE.read_text(encoding="utf-8").split())
    assert f"{told}, `transformer-conv` {gained['transformer-conv'][1]:.2f} and" in zoo_page
    mlp = {name: (each[1], bits(name, "2k") - bits(name, "4k")) for name, each in gained.items()}
    told = "**`ttt-mlp` gains {:.2f}** too, and {:.2f} of it after 2k".format(*mlp["ttt-mlp"])
    assert told in TEXT
    assert max(mlp, key=lambda name: mlp[name][0]) == "titans-lmm"
    assert mlp["titans-lmm"][1] < 0
    assert f"**`titans-lmm` gains most**: {mlp['titans-lmm'][0]:.2f} from 512 bytes to 4k, all of it up to 2k" in TEXT
    assert f"gets worse, by {bits('titans-lmm', '16k') - bits('titans-lmm', '4k'):.2f} at 16k" in TEXT
    assert all(mlp["ttt-mlp"][1] > late for name, (_, late) in mlp.items() if name != "ttt-mlp")
    assert f"it needs {bits('ttt-mlp', '16k') - bits('ttt-mlp', '4k'):.2f} more at 16k than at 4k" in TEXT
    assert f"`titans-lmm` {mlp['titans-lmm'][0]:.2f}, `ttt-mlp` {mlp['ttt-mlp'][0]:.2f}, the plain" in zoo_page
    lost = bits("transformer", "16k") - bits("transformer", "4k")
    assert f"From 4k to 16k the transformer loses {lost:.1f} bits per byte, the other five nothing" in TEXT
    assert all(abs(bits(name, "16k") - bits(name, "4k")) < 0.01 for name in (*constant, "ttt-linear", AGAIN))
    told = "{:.2f} more at 4k than at 1k, and {:.2f} more at 16k than at 4k".format(
        *(bits("skyformer", a) - bits("skyformer", b) for a, b in (("4k", "1k"), ("16k", "4k")))
    )
    assert told in TEXT
    told = "by {:.2f} at 4k, where it needs the most bits of all, and by {:.2f} more at 16k".format(
        *(bits("titans-mac", a) - bits("titans-mac", b) for a, b in (("4k", "1k"), ("16k", "4k")))
    )
    assert f"`titans-mac` gets worse from 1k on too, {told}" in TEXT
    assert max(names, key=lambda name: bits(name, "4k")) == "titans-mac"
    told = "({:.2f} at 16k), `performer` at once ({:.1f} at 8k)".format(
        *(bits(name, far) - bits(name, "4k") for name, far in (("titans-mag", "16k"), ("performer", "8k")))
    )
    assert told in TEXT
    mixer = [
        entry("bench", "mixer_bits_per_byte", corpus="languages", context_len=TOKENS[length])
        for length in ("256", "4k", "16k")
    ]
    values = [each["value"] for each in mixer]
    assert "falls from {:.2f} bits per byte at 256 to {:.2f} at 4k and {:.2f} at 16k".format(*values) in TEXT
    assert {each["num_samples"] for each in mixer} == {30}
    assert "It was run on 30 of the 40 documents" in TEXT
    bzip2 = entry("bench", "bzip2_bits_per_byte", corpus="languages", context_len=256)["value"]
    assert f"`bzip2 -9` needs {bzip2:.2f} for the complete documents" in TEXT


def test_what_is_said_of_code_beside_the_table_is_in_the_results() -> None:
    names = {*checkpoints("bench")} - {AGAIN}
    for length in ("256", "512", "1k", "2k", "4k"):
        close = {"256": {"mamba", "mamba2"}, "512": {"mamba2"}, "4k": {"transformer-conv", "mamba2"}}
        behind = names - {"ttt-linear", "ttt-mlp"} - close.get(length, {"transformer-conv"})
        assert leads("ttt-linear", length, "code") == behind
        best, second, *others = sorted(names, key=lambda name: bits(name, length, "code"))
        assert (best, second) == (("ttt-mlp", "ttt-linear") if length in ("2k", "4k") else ("ttt-linear", "ttt-mlp"))
        assert difference("ttt-linear", "ttt-mlp", length, "code")["verdict"] == "no difference shown"
        assert bits(AGAIN, length, "code") < bits(others[0], length, "code")
    near = difference("transformer-conv", "ttt-linear", "256", "code")
    told = f"is {near['effect']:.2f} bits per byte at 256 ({near['low']:.2f} to {near['high']:.2f}), and is not shown"
    told += " from 1k to 4k. Over `mamba2` its lead is not shown at 256, 512 and 4k, and over `mamba` at 256;"
    assert f"{told} over all others it is" in TEXT
    bzip2 = entry("bench", "bzip2_bits_per_byte", corpus="code", context_len=4096)["value"]
    assert f"`bzip2 -9` needs {bzip2:.2f} for the complete files, less than any of these models" in TEXT
    assert all(bits(name, length, "code") > bzip2 for name in names for length in ("256", "512", "1k", "2k", "4k"))
    far = difference("transformer-conv", "ttt-mlp", "4k", "code")
    assert f"at 4k by {far['effect']:.2f} ({far['low']:.2f} to {far['high']:.2f})" in TEXT
    assert all(bits(name, "2k", "code") - bits(name, "4k", "code") < 0.01 for name in names)
    mixer = [
        entry("bench", "mixer_bits_per_byte", corpus="code", context_len=TOKENS[length])["value"]
        for length in ("256", "4k")
    ]
    assert f"mixer gains {mixer[0] - mixer[1]:.2f} from 256 to 4k" in TEXT
    gains = {name: bits(name, "256", "code") - bits(name, "2k", "code") for name in names}
    assert max(gains, key=lambda name: gains[name]) == "transformer-conv"
    assert f"`transformer-conv` gains most, {gains['transformer-conv']:.2f} from 256 to 2k" in TEXT


def needles(metric: str, name: str, context_len: int, question: str) -> dict[str, Any]:
    return entry("needle", metric, checkpoint=name, context_len=context_len, param_question=question)


def test_needles_are_those_of_the_results() -> None:
    names = checkpoints("needle")
    lengths = sorted({line["context_len"] for line in results("needle")})
    contexts = [length for length, tokens in TOKENS.items() if tokens in lengths]
    for metric in ("retrieval", "recognition"):
        found = [needles(metric, name, length, "cloze") for name in names for length in lengths]
        assert {each["num_samples"] for each in found} == {50}
    ruler = {name: [needles("retrieval", name, length, "ruler")["value"] for length in lengths] for name in names}
    first, *_, last = ruler["transformer-conv"]
    assert f"`transformer-conv` retrieves {100 * first:.0f} % at 512 and {100 * last:.0f} % at 8k" in TEXT
    cells = [
        needles(metric, name, length, "cloze")
        for metric in ("retrieval", "recognition")
        for name in names
        for length in lengths
    ]
    ends = {round(100 * each["value"]): (100 * each["low"], 100 * each["high"]) for each in cells}
    told = ["of {} % from {:.0f} to {:.0f}".format(share, *ends[share]) for share in (0, 80)]
    assert f"{', '.join(told)}, of 100 % from {ends[100][0]:.0f} to {ends[100][1]:.0f}" in TEXT
    assert f"`ttt-mlp` {100 * min(ruler['ttt-mlp']):.0f} to {100 * max(ruler['ttt-mlp']):.0f} % and the others" in TEXT
    assert max(max(v) for name, v in ruler.items() if name not in ("transformer-conv", "ttt-mlp")) <= 0.02
    found = [
        line
        for line in results("needle", "comparisons")
        if (line["metric"], line["param_question"]) == ("recognition", "cloze")
    ]
    shown_at = {
        (name, length): shown_behind(name, (each for each in found if each["context_len"] == TOKENS[length]))
        for name in ("ttt-linear", "ttt-mlp", "titans-mag")
        for length in contexts
    }
    for name in ("ttt-linear", "ttt-mlp", "titans-mag"):
        assert shown_at[name, "4k"] == {"mamba", "s4d", "performer", "titans-lmm"}
        assert shown_at[name, "8k"] == {
            "mamba",
            "mamba2",
            "reformer",
            "s4d",
            "skyformer",
            "titans-lmm",
            "titans-mac",
            "transformer",
        }
        assert not any({"transformer-conv", "hybrid"} & shown_at[name, length] for length in contexts)
    assert f"all {found[0]['num_points']} comparisons of a metric together" in TEXT
    for name in ("mamba", "titans-mac"):
        recognised = [100 * needles("recognition", name, length, "cloze")["value"] for length in lengths]
        assert f"`{name}` {min(recognised):.0f} to {max(recognised):.0f} %" in TEXT
    card = (ROOT / "ttbench" / "zoo" / "ttt-linear" / "card.md").read_text(encoding="utf-8")
    share = re.findall(r"needles retrieved at 512, of 100 in `kjv` \| ([\d.]+) ", card)
    assert f"has {100 * float(share[0]):.0f} % retrieved at 512" in TEXT


def mebibytes(attention: str) -> str:
    """What one implementation of attention takes to read 4k."""
    found = entry("attention", "prefill_working_bytes", attention=attention, context_len=4096)
    return f"{found['value'] / 2**20:.0f}"


def test_memory_is_that_of_the_results() -> None:
    names = checkpoints("memory")
    states = {
        name: entry("memory", "state_bytes", checkpoint=name, context_len=32768)["value"]
        for name in ("transformer", "ttt-linear")
    }
    assert f"it is {states['transformer'] / states['ttt-linear']:.0f} times that of `ttt-linear`" in TEXT
    for name in names:
        near, far = (
            entry("memory", "prefill_working_bytes", checkpoint=name, context_len=length)["value"]
            for length in (4096, 32768)
        )
        assert 2.8 < far / near < 3.2 if name.startswith("transformer") else far / near < 1.25, name
    eager, tiled = mebibytes("eager"), mebibytes("sdpa")
    assert f"plain attention needs {eager} MiB to read 4k, torch's tiled one {tiled}." in TEXT
    for length in (256, 1024):
        values = [
            entry("attention", "bits_per_byte", attention=name, context_len=length)["value"]
            for name in ("eager", "sdpa")
        ]
        assert max(values) - min(values) < 5e-6


def test_times_are_those_of_the_results() -> None:
    names = checkpoints("latency")
    held = {
        (name, length): entry("latency", "prefill_s", checkpoint=name, context_len=length, batch_size=1)["value"]
        for name in names
        for length in (2048, 8192)
    }
    grown = [f"{held[name, 8192] / held[name, 2048]:.1f}" for name in ("transformer", "transformer-conv")]
    assert "four times the tokens take {} and {} times as long for `transformer` and".format(*grown) in TEXT
    grown = [f"{held[name, 8192] / held[name, 2048]:.1f}" for name in ("ttt-linear", "mamba2", "s4d")]
    assert "and {}, {} and {} times for `ttt-linear`, `mamba2` and `s4d`".format(*grown) in TEXT
    faster = {
        metric: {
            (line["a"], line["b"]) if line["verdict"] == "a better" else (line["b"], line["a"])
            for line in results("latency", "comparisons")
            if (line["metric"], line["context_len"], line["batch_size"]) == (metric, 8192, 1)
            and line["verdict"] in ("a better", "b better")
        }
        for metric in ("prefill_s", "decode_s_per_token")
    }
    both = ("transformer", "transformer-conv")
    assert faster["prefill_s"] == {*(("s4d", name) for name in both), ("ttt-linear", "transformer-conv")}
    constant = {(name, other) for name in ("ttt-linear", "mamba2", "s4d") for other in both}
    assert constant < faster["decode_s_per_token"]
    at = {"context_len": 8192, "batch_size": 1}
    found = entry("latency", "decode_s_per_token", "comparisons", a="transformer", b="ttt-linear", **at)
    told = f"{found['effect']:.2f} times as fast as `transformer` ({found['low']:.2f} to {found['high']:.2f} times)"
    assert f"`ttt-linear` {told}" in TEXT
    noisy = [line["noisy"] for line in results("latency") if line["metric"] in faster]
    assert sum(flag in (True, "True") for flag in noisy) > len(noisy) / 2

    eights = {
        name: entry("latency", "decode_s_per_token", checkpoint=name, context_len=8192, batch_size=8) for name in names
    }
    told = {name: f"{1000 * found['value']:.0f}" for name, found in eights.items()}
    (attention,), (others,) = {told[name] for name in both}, {told[name] for name in told if name not in both}
    assert (
        f"both transformers take {attention} ms for a token of each after 8k and the three others {others} ms" in TEXT
    )
    eights = [
        line for line in results("latency", "comparisons") if line["batch_size"] == 8 and line["context_len"] == 8192
    ]
    eights = [
        line for line in eights if line["metric"] == "decode_s_per_token" and line["verdict"] != "no difference shown"
    ]
    assert [(line["a"], line["b"], line["verdict"]) for line in eights] == [
        ("mamba2", "transformer", "a better"),
        ("s4d", "transformer-conv", "a better"),
    ]
    at = {"checkpoint": "ttt-linear", "batch_size": 1}
    near, far = (entry("latency", "decode_s_per_token", context_len=length, **at)["value"] for length in (512, 8192))
    assert f"yet {1000 * far:.1f} ms were measured after {1000 * near:.1f}" in TEXT


def test_what_is_said_of_single_needles_is_in_the_results() -> None:
    rows = read_rows(ROOT / "results" / "needle" / "cpu" / "rows.parquet")
    cloze = rows.loc[(rows["param_question"] == "cloze") & (rows["status"] == "ok")]
    asked = {(row["wording"], str(json.loads(row["recipe"])["values"])) for row in cloze.to_dict("records")}
    assert len(asked) == 10
    written = cloze.groupby(["checkpoint", "wording", "context_len"])["hits_generate"].sum().to_dict()
    by_wording = {
        name: {wording for (held, wording, _), hits in written.items() if held == name and hits}
        for name in ("ttt-linear", AGAIN, "ttt-mlp")
    }
    assert by_wording["ttt-linear"] == by_wording[AGAIN] == {"ruler"}
    assert len(by_wording["ttt-mlp"]) == 4
    assert [written["ttt-linear", "ruler", length] for length in (512, 8192)] == [0, 3]
    recognised = cloze.loc[cloze["checkpoint"] == "hybrid"].groupby(["context_len", "wording"])["hits_choice"].sum()
    assert {*recognised} == {0.0, 5.0}
    assert {*recognised.gt(0).groupby("context_len").sum()} == {8, 9}
    best = "transformer-conv"
    shown = {
        (line["a"], line["b"], line["context_len"])
        for line in results("needle", "comparisons")
        if line["metric"] == "retrieval" and line["verdict"] in ("a better", "b better")
    }
    assert shown == {(*sorted((best, name)), 512) for name in checkpoints("needle") if name not in (best, AGAIN)}


def test_recall_is_that_of_the_results() -> None:
    names = checkpoints("recall")
    for name in ("transformer-conv", "ttt-mlp", "ttt-linear", AGAIN):
        found = entry("recall", "mqar", checkpoint=name, context_len=256)
        told = "{:.0f} % ({:.0f} to {:.0f})".format(*(100 * found[part] for part in ("value", "low", "high")))
        assert f"`{name}` answers {told}" in TEXT or f"`{name}` {told}" in TEXT
    for name in names:
        assert entry("recall", "mqar", checkpoint=name, context_len=2048)["value"] < 0.01
        assert entry("recall", "copy", checkpoint=name, context_len=256)["value"] == 0
        if name not in ("transformer-conv", "ttt-mlp", "ttt-linear", AGAIN):
            assert entry("recall", "mqar", checkpoint=name, context_len=256)["value"] == 0, name


def test_genomes_are_those_of_the_results() -> None:
    at = {"corpus": "genomes", "context_len": 256}
    models = {
        name: entry("genomics", "bits_per_base", checkpoint=name, **at)
        for name in ("dna-transformer", "dna-ttt-linear")
    }
    markov = entry("genomics", "markov_bits_per_base", **at)["value"]
    assert f"over {models['dna-transformer']['num_clusters']} stretches" in TEXT
    far = {"corpus": "genomes", "context_len": 4096}
    for where, sign, said in (
        (at, -1, "At 256 bases the transformer's lead is"),
        (far, 1, "there `dna-ttt-linear` leads by"),
    ):
        found = entry("genomics", "bits_per_base", "comparisons", a="dna-transformer", b="dna-ttt-linear", **where)
        low, high = sorted((sign * found["low"], sign * found["high"]))
        assert f"{said} {sign * found['effect']:.3f} ({low:.3f} to {high:.3f})" in TEXT
    trained = {"corpus": "genomes", "context_len": 512}
    found = entry("genomics", "bits_per_base", "comparisons", a="dna-transformer", b="dna-ttt-linear", **trained)
    told = f"{-found['effect']:.3f} ({-found['high']:.3f} to {-found['low']:.3f})"
    assert f"at 512, the training context, {told}" in TEXT
    ends = [entry("genomics", "bits_per_base", checkpoint=name, **far)["value"] for name in models]
    assert f"it needs {ends[0]:.3f} bits per base, more than the Markov model" in TEXT
    assert f"and `dna-ttt-linear` {ends[1]:.3f}, as many as at 256" in TEXT
    assert ends[0] > markov > ends[1]
    assert abs(ends[1] - models["dna-ttt-linear"]["value"]) < 0.002


def test_the_tally_of_claims_is_that_of_their_page() -> None:
    told = re.findall(
        r"^(\d+) claims: (\d+ supported, \d+ contradicted, \d+ not decided)\.",
        (ROOT / "docs" / "claims.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    ((number, decided),) = told
    assert f"of {number} claims, {decided} ([each with its answer](claims.md#the-claims))" in TEXT


def test_the_comparison_in_the_readme_is_what_the_command_prints() -> None:
    (command,) = re.findall(r"^ttbench (compare .*)$", README, re.M)
    (shown,) = re.findall(r"^```text\n(.*?)^```", README, re.M | re.S)
    done = CliRunner().invoke(app, command.replace("results/", f"{ROOT}/results/").split(), env={"COLUMNS": "120"})
    printed = {" ".join(line.split()) for line in done.stdout.splitlines()}
    assert [line for line in shown.splitlines() if " ".join(line.split()) not in printed] == []


def test_the_readme_says_of_its_picture_what_the_results_say() -> None:
    names = checkpoints("bench")
    assert min(names, key=lambda name: bits(name, "4k")) == "transformer-conv"
    assert "chance in training moves a model as far as most models lie apart up to there" in " ".join(README.split())
    for length in ("512", "1k", "2k", "4k"):
        apart = bits(AGAIN, length) - bits("ttt-linear", length)
        models = [bits(name, length) for name in checkpoints("bench") if name != AGAIN]
        pairs = [abs(one - other) < apart for one, other in itertools.combinations(models, 2)]
        assert sum(pairs) > len(pairs) / 2
    for name in ("transformer", "transformer-conv", "skyformer", "performer"):
        assert bits(name, "16k") - bits(name, "4k") > 0.5
    assert bits("titans-mac", "16k") - bits("titans-mac", "4k") > 0.4
    for name, most in (("titans-mag", 0.2), ("ttt-mlp", 0.2), ("titans-lmm", 0.3)):
        assert 0 < bits(name, "8k") - bits(name, "4k") < bits(name, "16k") - bits(name, "4k") < most
    for name in ("s4d", "mamba", "mamba2", "reformer", "hybrid", "ttt-linear", AGAIN):
        assert abs(bits(name, "16k") - bits(name, "4k")) < 0.01
    assert "intervals over 40 languages" in README
    assert entry("bench", "bits_per_byte", checkpoint="s4d", corpus="languages", context_len=256)["num_clusters"] == 40


def test_the_table_of_the_zoo_is_made_from_its_cards() -> None:
    text = zoo.PAGE.read_text(encoding="utf-8")
    assert zoo.page(text) == text
    rows = re.findall(r"^\| `([^`]+)` \| (.*) \|$", text, re.MULTILINE)
    assert {name for name, _ in rows} == set(zoo_names())
    assert all(zoo.LACKING not in cells.split(" | ") for _, cells in rows)
