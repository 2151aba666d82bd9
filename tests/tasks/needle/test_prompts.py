"""Prompts: the same text as RULER's, as long as asked, needles where they are said to be, rebuilt from a recipe."""

from __future__ import annotations

import json
import re
import time

import numpy as np
import pytest
from stub_engine import PairTokenizer, StubEngine, corpus_of, run_task

from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.corpora.corpus import open_corpus
from ttbench.errors import UnsupportedError, UsageError
from ttbench.tasks.needle.haystack import gather
from ttbench.tasks.needle.needle import Needle
from ttbench.tasks.needle.prompts import DepthMode, PromptRecipe, prepare, rebuild
from ttbench.tasks.needle.riddle import draw_candidates, draw_riddle
from ttbench.tasks.needle.ruler import ANSWER_PREFIX, DEPTHS, NOISE, SINGULAR, TEMPLATE, VARIANTS, Question

BYTES = ByteTokenizer()
KJV = open_corpus("kjv")
HAY = gather(KJV, BYTES)
PLAIN = corpus_of({f"book{i}": b"The river ran past walls. Nobody could say why. " * 80 for i in range(4)})
ONE_VALUE = [name for name, variant in VARIANTS.items() if variant.num_answers == 1]
NEEDLES = re.compile(r"One of the special magic (?:number|uuid)s for (\S+) is: (\S+)\.")


def made(
    name: str,
    *,
    depth_mode: DepthMode = "ruler",
    context_len: int = 4096,
    trial: int = 0,
    question: Question = "ruler",
    answer_len: int = 128,
    **options,
):
    """The recipes and prompts of one trial."""
    variant = VARIANTS[name]
    options = {"depths": (0.0, 0.5, 1.0), "seed": 0, **options}
    return prepare(
        variant,
        draw_riddle(variant, seed=options["seed"], trial=trial),
        HAY if variant.haystack == "essay" else None,
        BYTES,
        depth_mode=depth_mode,
        context_len=context_len,
        answer_len=answer_len,
        question=question,
        trial=trial,
        **options,
    )


def text_of(prompt) -> str:
    return BYTES.decode(prompt.ids).decode()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_prompt_is_rulers_template_around_its_context(name: str) -> None:
    variant = VARIANTS[name]
    for trial in range(5):
        [(recipe, prompt)] = made(name, trial=trial)
        text = text_of(prompt)
        before, after = variant.around("ruler", recipe.keys)
        context = text.removeprefix(before).removesuffix(after)
        keys = list(recipe.keys)
        query = ", ".join(keys[:-1]) + ", and " + keys[-1] if len(keys) > 1 else keys[0]
        template, kind = TEMPLATE + ANSWER_PREFIX, variant.value
        if variant.num_answers == 1:
            for plural, singular in SINGULAR:
                template = template.replace(plural, singular)
            kind = variant.value[:-1]
        assert template.format(type_needle_v=kind, context=context, query=query) == text
        assert len(text) + 1 + 128 <= 4096


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("depth_mode", ["ruler", "grid"])
def test_what_is_asked_for_stands_once_and_answers_are_as_many_as_asked(name: str, depth_mode: DepthMode) -> None:
    variant = VARIANTS[name]
    if depth_mode == "grid" and variant.num_answers > 1:
        return
    for recipe, prompt in made(name, depth_mode=depth_mode):
        text = text_of(prompt)
        stated = NEEDLES.findall(text)
        asked = [(key, value) for key, value in stated if key in recipe.keys]
        assert sorted(value for _, value in asked) == sorted(recipe.values)
        assert len(recipe.values) == len(set(recipe.values)) == variant.num_answers
        assert all(text.count(value) == 1 for value in recipe.values)
        if variant.haystack == "essay":
            assert len(stated) == variant.num_keys * variant.num_values
        if variant.haystack == "needle":
            lines = text.split("\n")[1:-1]
            assert all(NEEDLES.fullmatch(line) for line in lines)
            assert len(lines) > 20
        if variant.haystack == "noise":
            lines = text.split("\n")[1:-1]
            assert sorted(set(lines) - {NOISE}) == [variant.needle(recipe.keys[0], recipe.values[0])]


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.haystack == "essay"])
def test_an_essay_without_its_needles_is_the_corpus_again(name: str) -> None:
    for trial in range(8):
        [(recipe, prompt)] = made(name, trial=trial)
        before, after = VARIANTS[name].around("ruler", recipe.keys)
        context = text_of(prompt).removeprefix(before).removesuffix(after)
        assert recipe.offset is not None
        plain = BYTES.decode(HAY.ids[recipe.offset : recipe.offset + recipe.haystack_len]).decode()
        (document,) = (each for each in KJV.documents("test") if each.name == recipe.document)
        assert plain[:30].encode() in document.text + b"\n" * 30
        assert re.sub(r"\s+", " ", NEEDLES.sub("", context)).strip() == re.sub(r"\s+", " ", plain).strip()
        # each needle stands between sentences, parted by a space
        for match in NEEDLES.finditer(context):
            assert match.start() == 0 or context[match.start() - 1] == " "
            assert match.end() == len(context) or context[match.end()].isspace()


def test_drawn_depths_are_rulers_forty_by_sentences_and_none_comes_twice() -> None:
    counted = []
    for trial in range(60):
        [(recipe, _)] = made("niah_multivalue", trial=trial, context_len=16_384)
        ends = HAY.ends - recipe.offset
        places = np.unique([0, *ends[(ends >= 0) & (ends < recipe.haystack_len)], recipe.haystack_len])
        units = np.searchsorted(places, recipe.insert_at)
        assert np.array_equal(places[units], recipe.insert_at)
        allowed = {int((len(places) - 1) * depth / 100) for depth in DEPTHS}
        assert set(units.tolist()) <= allowed
        assert len(set(units.tolist())) == 4
        counted += (units / (len(places) - 1)).tolist()
    assert abs(np.mean(counted) - 0.5) < 0.06
    assert min(counted) == 0
    assert max(counted) == 1


@pytest.mark.parametrize("name", ["niah_single_1", "niah_multikey_2"])
def test_in_lines_a_drawn_needle_is_never_the_last(name: str) -> None:
    for trial in range(40):
        [(recipe, prompt)] = made(name, trial=trial, context_len=2048)
        assert recipe.insert_at[0] < len(prompt.haystack)


@pytest.mark.parametrize("name", ONE_VALUE)
def test_in_the_grid_only_the_needle_asked_for_moves(name: str) -> None:
    prompts = [prompt for _, prompt in made(name, depth_mode="grid", depths=(0.0, 0.3, 1.0))]
    assert all(np.array_equal(prompt.control_ids, prompts[0].control_ids) for prompt in prompts)
    assert prompts[0].needles[0][0] == 0
    assert prompts[2].needles[0][0] == len(prompts[2].haystack)
    assert abs(prompts[1].needles[0][0] / len(prompts[1].haystack) - 0.3) < 0.06
    distractors = NEEDLES.findall(BYTES.decode(prompts[0].control_ids).decode())
    assert len(distractors) >= (3 if name == "niah_multikey_1" else 0)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("tokenizer", [BYTES, PairTokenizer()], ids=lambda tokenizer: tokenizer.name)
@pytest.mark.parametrize("depth_mode", ["ruler", "grid"])
def test_a_recipe_rebuilds_the_prompt_that_was_scored(name: str, tokenizer, depth_mode: str) -> None:
    if depth_mode == "grid" and VARIANTS[name].num_answers > 1:
        return
    seen: list[tuple[int, ...]] = []

    class Watching(StubEngine):
        def generate(self, ids, num_tokens):
            seen.append((*self.histories[0], *map(int, np.asarray(ids)[0])))
            return np.zeros((1, num_tokens), np.int64)

    engine = Watching(lambda history: np.zeros(1), vocab_size=tokenizer.vocab_size)
    samples = run_task(
        Needle(),
        engine=engine,
        corpus=PLAIN,
        tokenizer=tokenizer,
        context_len=1500,
        limit=2,
        protocol=name,
        depth_mode=depth_mode,
        scorer="generate",
    )
    assert len(samples) == (2 if depth_mode == "ruler" else 10)
    for sample in samples:
        ids = rebuild(str(sample.keys["recipe"]), PLAIN, tokenizer)
        assert tuple(ids) in seen
        assert len(ids) == sample.values["prompt_tokens"]
        assert tokenizer.byte_lengths(ids).sum() == sample.values["prompt_bytes"]
        assert sample.evidence is not None
        assert tokenizer.decode(ids).endswith(str(sample.evidence["prompt_end"]).encode())
        assert tokenizer.decode(ids).startswith(str(sample.evidence["prompt_start"]).encode())
        fields = json.loads(str(sample.keys["recipe"]))
        assert np.array_equal(rebuild(fields, PLAIN, tokenizer), ids)
        assert np.array_equal(rebuild(PromptRecipe.from_fields(fields), PLAIN, tokenizer), ids)


def test_a_recipe_is_refused_with_another_corpus_or_tokenizer() -> None:
    [(recipe, prompt)] = made("niah_single_2")
    with pytest.raises(UsageError, match="corpus of digest"):
        rebuild(recipe, PLAIN, BYTES)
    with pytest.raises(UsageError, match="tokenizer of digest"):
        rebuild(recipe, KJV, PairTokenizer())
    # noise and needles are of no corpus
    [(recipe, prompt)] = made("niah_multikey_3")
    assert np.array_equal(rebuild(recipe, None, BYTES), prompt.ids)


@pytest.mark.parametrize("name", ["kjv", "code"])
@pytest.mark.parametrize("context_len", [1024, 32_768])
def test_a_needle_lies_within_a_sentence_of_its_depth(name: str, context_len: int) -> None:
    hay = HAY if name == "kjv" else gather(open_corpus(name), BYTES)
    variant, depths = VARIANTS["niah_single_2"], (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
    for trial in range(5):
        riddle = draw_riddle(variant, seed=0, trial=trial)
        for recipe, prompt in prepare(
            variant,
            riddle,
            hay,
            BYTES,
            depth_mode="grid",
            depths=depths,
            context_len=context_len,
            answer_len=32,
            question="ruler",
            seed=0,
            trial=trial,
        ):
            text, (place,), start = BYTES.decode(prompt.ids), recipe.insert_at, recipe.offset or 0
            needle = variant.needle(riddle.keys[0], riddle.values[0][0]).encode()
            assert abs(text.index(needle) - (prompt.needle_index - 1)) <= 1
            ends = hay.ends[(hay.ends > start) & (hay.ends < start + recipe.haystack_len)] - start
            target = round((recipe.depth or 0) * recipe.haystack_len)
            between = np.sort([0, *ends, recipe.haystack_len])
            after = np.searchsorted(between, target, side="right")
            assert between[after - 1] <= place <= between[min(after, len(between) - 1)]
            if recipe.depth in (0, 1):
                assert place == target


@pytest.mark.parametrize("name", ["kjv", "code"])
def test_haystacks_begin_with_a_sentence_and_stand_in_the_document_named(name: str) -> None:
    corpus = open_corpus(name)
    hay = gather(corpus, BYTES)
    texts = {document.name: document.text for document in corpus.documents("test")}
    for trial in range(20):
        riddle = draw_riddle(VARIANTS["niah_single_2"], seed=1, trial=trial)
        offset = hay.offset(riddle.share, 2000)
        before, after = hay.ids[offset - 1], hay.ids[offset : offset + 30]
        assert not bytes([after[0]]).isspace()
        assert offset == 0 or bytes([before]).isspace()
        assert BYTES.decode(after) in texts[hay.document_of(offset)] + b"\n" * 30


@pytest.mark.parametrize("name", ["niah_single_2", "niah_single_3"])
def test_candidates_are_distinct_and_of_equal_length_in_bytes_and_tokens(name: str) -> None:
    variant = VARIANTS[name]
    value = draw_riddle(variant, seed=0, trial=0).values[0][0]
    values, ids = draw_candidates(value, PairTokenizer(), variant=variant, count=10, seed=0, trial=0)
    assert values[0] == value
    assert len(set(values)) == 10
    pattern = (
        r"[1-9]\d{6}" if variant.value == "numbers" else r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f-]{16}"
    )
    assert all(re.fullmatch(pattern, value) for value in values)
    assert ids.shape == (10, (len(value) + 2) // 2)


def test_too_few_candidates_of_a_length_are_an_answer_that_says_so() -> None:
    class Lucky(PairTokenizer):
        def encode(self, text: bytes) -> np.ndarray:
            return np.zeros(1, np.int64) if text == b" 1234567" else super().encode(text)

    with pytest.raises(UnsupportedError, match="only 1 of 10 candidates"):
        draw_candidates("1234567", Lucky(), variant=VARIANTS["niah_single_2"], count=10, seed=0, trial=0)


@pytest.mark.parametrize("name", ["niah_single_1", "niah_multikey_2", "niah_multikey_3"])
def test_lines_fill_the_context_up_to_a_line(name: str) -> None:
    for context_len in (1000, 4096, 5000):
        [(_, prompt)] = made(name, context_len=context_len)
        assert context_len - 128 - 130 < len(prompt.ids) <= context_len - 128


@pytest.mark.parametrize("name", VARIANTS)
def test_the_context_said_to_have_room_has(name: str) -> None:
    with pytest.raises(UnsupportedError, match=r"ask for at least \d+") as caught:
        made(name, context_len=200)
    needed = int(str(caught.value).rsplit(" ", 1)[1])
    assert made(name, context_len=needed)
    with pytest.raises(UnsupportedError):
        made(name, context_len=needed - 1)


def test_key_value_and_place_follow_from_seed_and_trial() -> None:
    for name, variant in VARIANTS.items():
        assert draw_riddle(variant, seed=0, trial=4) == draw_riddle(variant, seed=0, trial=4)
        assert draw_riddle(variant, seed=0, trial=4) != draw_riddle(variant, seed=1, trial=4)
        riddle = draw_riddle(variant, seed=0, trial=4)
        assert len(set(riddle.keys)) == variant.num_keys, name
        assert len({value for values in riddle.values for value in values}) == variant.num_keys * variant.num_values


@pytest.mark.parametrize("name", VARIANTS)
def test_a_hundred_samples_of_32k_are_prepared_in_seconds(name: str) -> None:
    grid = VARIANTS[name].num_answers == 1
    start = time.process_time()
    tokens = 0
    for trial in range(20):
        for _, prompt in made(
            name,
            trial=trial,
            context_len=32_768,
            depth_mode="grid" if grid else "ruler",
            depths=(0, 0.25, 0.5, 0.75, 1),
        ):
            tokens += len(prompt.ids)
    # 20 haystacks of 5 depths are 100 prompts; measured 0.01 to 0.2 s, and a slow machine has room
    assert time.process_time() - start < 5
    assert tokens > (100 if grid else 20) * 32_000


def test_a_haystack_has_64_tokens_at_least() -> None:
    [(recipe, prompt)] = made("niah_single_2", context_len=4096)
    fixed = 4096 - recipe.haystack_len
    [(least, _)] = made("niah_single_2", context_len=fixed + 64)
    assert least.haystack_len == 64
    with pytest.raises(UnsupportedError, match=f"ask for at least {fixed + 64}"):
        made("niah_single_2", context_len=fixed + 63)
    assert len(prompt.ids) + 128 <= 4096
