"""`lme-rolling` is lm-eval's rolling log-likelihood, `hf-stride` the loop of Hugging Face's page on perplexity."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import bits_per_byte, weighted_perplexity
from lm_eval.api.task import PerplexityTask
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from stub_engine import PairTokenizer, StubEngine, corpus_of, run_task, scattered, uniform
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from ttbench.checkpoints.checkpoint import resolve
from ttbench.checkpoints.loading import load_tokenizer
from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.engines.kinds import load_engine
from ttbench.errors import TooLongError, TooShortError, UnsupportedError, UsageError
from ttbench.tasks.perplexity.perplexity import Perplexity, PerplexityParams
from ttbench.tasks.perplexity.rolling import lay_tape, rolling_spans, strided_spans
from ttbench.types import Sample

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")

TEXTS = {
    "a": " In the beginning  was the word,\n\nand the word was 7 bytes long: übermäßig.\n",
    "b": "short",
    "c": "".join(f"line {i} of a longer text that needs many windows\n" for i in range(12)),
    "d": "exactly sixteen!",
}
CORPUS = corpus_of({name: text.encode() for name, text in TEXTS.items()})
NUM_BYTES = sum(len(text.encode()) for text in TEXTS.values())


def save(folder: Path) -> None:
    """A random model of Llama's shape with a byte-level tokenizer of 44 merges."""
    torch.manual_seed(0)
    marks = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(a, b) for a in "Ġtheowrd" for b in "thewo" if a != b]
    vocab = {token: index for index, token in enumerate(["<s>", *marks, *dict.fromkeys(a + b for a, b in merges)])}
    library = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=library, bos_token="<s>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        bos_token_id=0,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "llama"
    save(path)
    return path


def measure(folder: Path, *, engine: str, dtype: str = "float64", context_len: int = 16, **options: Any):
    opened = load_engine(str(folder), device="cpu", dtype=dtype, attention=None, engine=engine)
    checkpoint = resolve(str(folder), dtype=dtype, engine=engine)
    return run_task(
        Perplexity(),
        engine=opened,
        corpus=CORPUS,
        context_len=context_len,
        tokenizer=load_tokenizer(checkpoint),
        **options,
    )


def by_document(samples: list[Sample], column: str) -> dict[str, float]:
    return {str(sample.keys["document"]): float(sample.values[column] or 0) for sample in samples}


def total(samples: list[Sample], column: str) -> float:
    return math.fsum(sample.values[column] or 0 for sample in samples)


# lm-eval


@pytest.mark.parametrize("max_len", [1, 2, 7, 16])
@pytest.mark.parametrize("num_tokens", [1, 6, 7, 8, 16, 17, 33, 100])
def test_the_windows_of_lme_rolling_are_those_of_lm_eval(num_tokens: int, max_len: int) -> None:
    tokens, bos = list(range(1000, 1000 + num_tokens)), 7
    tape = [bos, *tokens]
    ours = [
        (tape[span.begin : span.end - 1], tape[span.first : span.end])
        for span in rolling_spans(num_tokens, start=0, max_len=max_len)
    ]
    windows = get_rolling_token_windows(tokens, prefix_token=bos, max_seq_len=max_len, context_len=1)
    # lm-eval reads context and continuation without the last token
    theirs = [(before + after[:-1], after) for before, after in map(make_disjoint_window, windows)]
    assert ours == theirs


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-6), ("float32", 1e-5)])
@pytest.mark.parametrize("engine", ["hf", "eager"])
@pytest.mark.parametrize("context_len", [16, 128])
def test_lme_rolling_is_lm_evals_rolling_log_likelihood(
    folder: Path, engine: str, dtype: str, tolerance: float, context_len: int
) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    library = PreTrainedTokenizerFast.from_pretrained(folder)
    # lm-eval's registry hides the class behind its base
    opened: Any = HFLM
    theirs = opened(pretrained=model, tokenizer=library, max_length=context_len, batch_size=3, device="cpu")
    requests = [
        Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=0) for text in TEXTS.values()
    ]
    found = dict(zip(TEXTS, theirs.loglikelihood_rolling(requests, disable_tqdm=True), strict=True))
    ours = measure(folder, engine=engine, dtype=dtype, context_len=context_len, protocol="lme-rolling")
    counts, nats = by_document(ours, "num_tokens"), by_document(ours, "nats")
    assert counts == {name: len(theirs.tok_encode(text)) for name, text in TEXTS.items()}
    assert counts["c"] < len(TEXTS["c"])
    for name in TEXTS:
        assert abs(nats[name] + found[name]) / counts[name] < tolerance
    # what lm-eval makes of them: the text's own bytes, and the pieces between its white space
    pieces = [(found[name], int(by_document(ours, "num_words")[name])) for name in TEXTS]
    assert [count for _, count in pieces] == [PerplexityTask.count_words(text) for text in TEXTS.values()]
    assert pieces[0][1] == 16  # 14 words, and the empty ends
    assert math.exp(total(ours, "nats") / total(ours, "num_words")) == pytest.approx(
        weighted_perplexity(pieces), rel=1e-4
    )
    over_bytes = [(found[name], len(text.encode())) for name, text in TEXTS.items()]
    assert total(ours, "nats") / total(ours, "num_bytes") / math.log(2) == pytest.approx(
        bits_per_byte(over_bytes), rel=1e-5
    )


def test_lme_rolling_equals_conditionals_one_by_one_and_reads_each_document_alone() -> None:
    rule = scattered(257)
    samples = run_task(
        Perplexity(), engine=StubEngine(rule), corpus=CORPUS, context_len=16, protocol="lme-rolling", batch_size=3
    )
    for sample in samples:
        text = CORPUS.documents("test")["abcd".index(str(sample.keys["document"]))].text
        tape, nats = [256, *text], 0.0
        for place in range(1, len(tape)):
            window_end = min(-(-place // 16) * 16, len(text))
            nats -= rule(tuple(tape[max(0, window_end - 16) : place]))[tape[place]]
        assert sample.values["nats"] == pytest.approx(nats, rel=1e-12)
        assert sample.keys["bos"] == "document"


def test_lme_rolling_without_bos_is_unsupported() -> None:
    tokenizer = PairTokenizer()
    engine = StubEngine(uniform(tokenizer.vocab_size), vocab_size=tokenizer.vocab_size)
    with pytest.raises(UnsupportedError, match="has none; use --protocol packed"):
        run_task(Perplexity(), engine=engine, corpus=CORPUS, context_len=8, tokenizer=tokenizer, protocol="lme-rolling")


# Hugging Face's page


def page_loop(model: Any, ids: torch.Tensor, *, max_length: int, stride: int) -> tuple[float, int]:
    """Mean nats and number of loss tokens, as the page "Perplexity of fixed-length models" describes its loop.

    Each window's loss is the model's own mean over its labels; labels seen before are masked; the mean is weighted by
    one less than the labels that are left.
    """
    weighted, weights, seen = 0.0, 0, 0
    for start in range(0, len(ids), stride):
        stop = min(start + max_length, len(ids))
        new = stop - seen
        labels = ids[start:stop].clone()
        labels[: len(labels) - new] = -100
        with torch.inference_mode():
            loss = model(input_ids=ids[None, start:stop], labels=labels[None]).loss
        weighted, weights, seen = weighted + float(loss) * (new - 1), weights + new - 1, stop
        if stop == len(ids):
            break
    return weighted / weights, weights


@pytest.mark.parametrize("engine", ["hf", "eager"])
@pytest.mark.parametrize(("context_len", "stride"), [(16, None), (16, 16), (16, 5), (32, 1), (128, 64)])
def test_hf_stride_is_the_loop_of_the_page(folder: Path, engine: str, context_len: int, stride: int | None) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    samples = measure(folder, engine=engine, context_len=context_len, protocol="hf-stride", stride=stride)
    library = PreTrainedTokenizerFast.from_pretrained(folder)
    order = list(by_document(samples, "nats"))
    ids = torch.tensor([token for name in order for token in library.encode(TEXTS[name], add_special_tokens=False)])
    step = stride or context_len // 2
    mean, weights = page_loop(model, ids, max_length=context_len, stride=step)
    assert total(samples, "page_tokens") == pytest.approx(weights, rel=1e-12)
    # the model takes its loss in float32, whatever its dtype
    assert total(samples, "page_nats") / weights == pytest.approx(mean, abs=1e-6)
    # the mean over what is really scored is beside it, and differs where windows overlap
    scored = len(ids) - (1 if step < context_len else -(-len(ids) // context_len))
    assert total(samples, "num_tokens") == scored
    assert (weights == scored) == (step == context_len)
    assert {sample.keys["stride"] for sample in samples} == {step}


def test_without_overlap_a_last_window_of_one_token_has_nothing_to_score() -> None:
    # the page's loss over no label is not a number there
    assert [span.end for span in strided_spans(17, max_len=8, stride=8)] == [8, 16]
    assert [span.page_tokens for span in strided_spans(16, max_len=8, stride=8)] == [7, 7]


@pytest.mark.parametrize(("max_len", "stride"), [(8, 8), (8, 3), (2, 1), (50, 50), (50, 1)])
def test_hf_stride_scores_all_but_the_tokens_that_have_nothing_before_them(max_len: int, stride: int) -> None:
    scored = [place for span in strided_spans(50, max_len=max_len, stride=stride) for place in range(*ends(span))]
    heads = range(0, 50, stride) if stride == max_len else [0]
    assert scored == [place for place in range(50) if place not in heads]


def ends(span: Any) -> tuple[int, int]:
    return span.first, span.end


def test_hf_stride_leaves_out_the_bytes_of_the_first_token_alone() -> None:
    samples = run_task(
        Perplexity(), engine=StubEngine(scattered(257)), corpus=CORPUS, context_len=16, protocol="hf-stride"
    )
    assert total(samples, "num_bytes") == NUM_BYTES - 1
    assert {sample.keys["bos"] for sample in samples} == {"none"}


def test_a_stride_of_one_leaves_the_page_the_first_window_alone() -> None:
    samples = run_task(
        Perplexity(), engine=StubEngine(uniform(257)), corpus=CORPUS, context_len=8, protocol="hf-stride", stride=1
    )
    assert [s.values["page_tokens"] for s in samples] == [7.0, None, None, None]
    assert total(samples, "num_tokens") == NUM_BYTES - 1


def test_a_stride_beyond_the_window_would_skip_text_and_is_refused() -> None:
    params = PerplexityParams(protocol="hf-stride", stride=1024)
    assert Perplexity().settle(params, (1024, 2048)) == params
    with pytest.raises(UsageError, match="leaves out tokens between windows of 512"):
        Perplexity().settle(params, (512, 2048))


def test_hf_stride_says_too_short_and_too_long_and_repeats_nothing() -> None:
    options: dict[str, Any] = {"corpus": CORPUS, "protocol": "hf-stride"}
    with pytest.raises(TooShortError, match=f"have {NUM_BYTES:,} tokens in all"):
        run_task(Perplexity(), engine=StubEngine(uniform(257)), context_len=NUM_BYTES + 1, **options)
    with pytest.raises(TooLongError, match="takes at most 15"):
        run_task(Perplexity(), engine=StubEngine(uniform(257), max_context=15), context_len=16, **options)
    with pytest.raises(UnsupportedError, match="2 tokens or more"):
        run_task(Perplexity(), engine=StubEngine(uniform(257)), context_len=1, **options)


def test_a_tape_knows_where_documents_start_and_counts_no_byte_for_bos() -> None:
    tape = lay_tape(CORPUS.documents("test"), ByteTokenizer(), bos_id=256)
    assert [int(tape.ids[start]) for start in tape.starts] == [256] * 4
    assert tape.num_bytes.sum() == NUM_BYTES
    assert np.bincount(tape.owner).tolist() == [1 + len(text.encode()) for text in TEXTS.values()]
