"""lm-eval's `LM` on an Engine: log-likelihoods, rolling log-likelihoods and greedy generation, for any architecture.

Requests are tokenised by lm-eval's own `TemplateLM` (context and continuation together, then cut apart); which tokens
requests share is found after that, and read once (`ttbench.lmeval.scoring`). How long a text may be:

    a model without attention           as long as it is: its state has room for anything
    a model with attention or positions the tokens it was trained on (max_position_embeddings), as lm-eval does it
    max_length=N                        N tokens, whatever the model

lm-eval's own wrapper cuts a recurrent model at 2,048 tokens without a word; here nothing is cut silently: `extents`
says for every request how long it was and what was lost. Letters: T tokens.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows

from ttbench.engines.engine import Engine
from ttbench.errors import TooLongError, UsageError
from ttbench.kernels.dispatch.running import watching
from ttbench.lmeval.opening import Settings, open_parts
from ttbench.lmeval.scoring import ScoreRequest, score, usable_batch_size, visit
from ttbench.lmeval.text import Text
from ttbench.types import Checkpoint

log = logging.getLogger(__name__)

MAX_NEW_TOKENS = 256  # lm-eval's default where a task says nothing
# What lm-eval's wrappers assume of a model that states no length.
LM_EVAL_LENGTH = 2_048


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How long a request was."""

    num_tokens: int  # context and continuation
    cut_tokens: int  # lost from the left
    cut_at_2048: int  # would have been lost under lm-eval's assumption for models that state no length
    num_windows: int  # rolling: pieces that the text was read in, each from an empty state


def _watched(answer: Callable[..., Any]) -> Callable[..., Any]:
    """A method of EngineLM that keeps which kernels ran."""

    @functools.wraps(answer)
    def watched(self: EngineLM, *args: Any, **kwargs: Any) -> Any:
        with watching() as ran:
            answers = answer(self, *args, **kwargs)
        self._ran |= ran
        return answers

    return watched


class EngineLM(TemplateLM):
    """Any Engine with a tokenizer, as lm-eval asks models. Greedy only; no chat templates."""

    def __init__(
        self,
        engine: Engine,
        text: Text,
        *,
        max_length: int | None,
        batch_size: int,
        identity: Mapping[str, Any],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """Wrap an engine.

        Args:
            max_length: tokens that are read at most; None: no limit.
            batch_size: continuations read side by side; 1 is used where the engine cannot do more.
            identity: what lm-eval's result file says about the model.
            progress: requests done, and in all.
        """
        super().__init__()
        if max_length is not None and engine.max_context is not None and max_length > engine.max_context:
            raise TooLongError(f"the model takes at most {engine.max_context} tokens; max_length={max_length} is more")
        self.engine, self.text, self.progress = engine, text, progress
        self.limit = engine.max_context if max_length is None else max_length
        self.batch_size = usable_batch_size(engine, batch_size)
        if self.batch_size != batch_size:
            log.warning("this model computes several sequences at once wrongly; batch size 1 is used")
        self._identity = dict(identity)
        self._ran: dict[str, str] = {}
        if text.remark:
            log.warning("%s", text.remark)
        self.extents: dict[tuple[str | None, int | None, int], Extent] = {}

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None) -> EngineLM:
        """From lm-eval's command line: `checkpoint=NAME,dtype=float32,...`."""
        from lm_eval.utils import simple_parse_args_string

        return cls.create_from_arg_obj(dict(simple_parse_args_string(arg_string)), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> EngineLM:
        """From lm-eval's parsed arguments; those of its own options count where model_args are silent."""
        settings = Settings.read(arg_dict, additional_config or {})
        parts = open_parts(settings)
        return cls(
            parts.engine,
            parts.text,
            max_length=parts.max_length,
            batch_size=settings.batch_size,
            identity=identity(parts.checkpoint, parts.engine, limit=parts.max_length),
        )

    @property
    def eot_token_id(self) -> int:
        return _known(self.text.end_id, "end-of-text token")

    @property
    def prefix_token_id(self) -> int:
        return _known(self.text.prefix_id, "BOS or EOS token to begin a text with")

    @property
    def max_length(self) -> int | None:
        """Tokens that are read at most; None: no limit."""
        return self.limit

    @property
    def tokenizer_name(self) -> str:
        return self.text.name.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """For lm-eval's result file; asked for after the last request."""
        return {**self._identity, "ttbench_kernel_path": dict(self._ran)}

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> NoReturn:
        raise UsageError("chat templates are not applied here; leave --apply_chat_template out")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
        """Ids of a text; what the tokenizer puts around it is there unless the text brings it along."""
        if add_special_tokens is None:
            begins = self.text.prefix_text
            add_special_tokens = not (begins and string.startswith(begins))
        return self.text.encode(string, special=add_special_tokens)

    @_watched
    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Nats (as log-probabilities) of continuations, and whether greedy decoding would write them."""
        self._asked = requests
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        rows = []
        for instance, ((context, continuation), before, after) in zip(self._asked, requests, strict=True):
            if not after:
                raise UsageError(
                    f"the continuation {continuation!r} has no token of its own after {context[-40:]!r}; this task "
                    "cannot be scored with this tokenizer"
                )
            if self.limit is not None and len(after) > self.limit:
                raise TooLongError(f"a continuation has {len(after)} tokens; the model reads {self.limit} at most")
            ids = (*before, *after)
            kept = ids if self.limit is None else ids[-(self.limit + 1) :]
            self._note(instance, num_tokens=len(ids), cut_tokens=len(ids) - len(kept), num_windows=1)
            rows.append(ScoreRequest(ids=kept, num_scored=len(after)))
        self._warn(self._asked)
        found = score(rows, self.engine, batch_size=self.batch_size, progress=self.progress)
        answers = [(-each.nats, each.greedy) for each in found]
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    @_watched
    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, each token scored once, in lm-eval's windows of at most `max_length`.

        A text begins with BOS once, and BOS is never scored. lm-eval's own wrapper puts its prefix before what the
        tokenizer returns, so that where the tokenizer adds BOS a second one is read and scored as text.
        """
        if self.text.adds_prefix:
            log.warning(
                "this tokenizer puts BOS in front of a text by itself; it is read once and not scored, where lm-eval's "
                "own model 'hf' reads it twice and scores the second: its rolling numbers are a little higher"
            )
        rows: list[ScoreRequest] = []
        owners: list[int] = []
        for index, instance in enumerate(requests):
            ids = self.tok_encode(instance.args[0], add_special_tokens=False)
            windows = list(
                get_rolling_token_windows(
                    token_list=ids,
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.limit or max(len(ids), 1),
                    context_len=1,
                )
            )
            rows += [ScoreRequest(ids=(*before, after[-1]), num_scored=len(after)) for before, after in windows]
            owners += [index] * len(windows)
            self._note(instance, num_tokens=len(ids), cut_tokens=0, num_windows=len(windows))
        found = score(rows, self.engine, batch_size=self.batch_size, progress=self.progress)
        totals = [0.0] * len(requests)
        for index, each in zip(owners, found, strict=True):
            totals[index] -= each.nats
        for instance, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", instance.args, total)
        return totals

    @_watched
    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations up to a stop sequence, the end-of-text token or the tokens allowed."""
        orders = [_order(instance, end_text=self.text.end_text) for instance in requests]
        contexts = []
        for instance, order in zip(requests, orders, strict=True):
            ids = self.tok_encode(instance.args[0]) or [self.prefix_token_id]
            if self.limit is not None and order.num_tokens >= self.limit:
                raise TooLongError(
                    f"a task asks for up to {order.num_tokens} new tokens, and the model reads {self.limit} at most; "
                    "set --gen_kwargs max_gen_toks=N"
                )
            kept = ids if self.limit is None else ids[-(self.limit - order.num_tokens) :]
            self._note(instance, num_tokens=len(ids), cut_tokens=len(ids) - len(kept), num_windows=1)
            contexts.append(tuple(kept))
        self._warn(requests)
        answers: dict[int, str] = {}
        for saved, start, places in visit([ids[:-1] for ids in contexts], self.engine):
            for place in places:
                self.engine.reset(1, len(contexts[place]) + orders[place].num_tokens)
                if saved is not None:
                    self.engine.restore(saved)
                answers[place] = self._write(contexts[place][start:], orders[place])
                self.cache_hook.add_partial("generate_until", requests[place].args, answers[place])
                self.progress(len(answers), len(requests))
        return [answers[place] for place in range(len(requests))]

    def _write(self, ids: Sequence[int], order: _Order) -> str:
        logits = self.engine.prefill(np.array([ids], dtype=np.int64))
        written: list[int] = []
        text = ""
        while len(written) < order.num_tokens:
            token = int(logits[0].argmax())
            if token in self.text.end_ids:
                break
            written.append(token)
            text = self.text.decode(written)
            if any(stop in text for stop in order.stops) or len(written) == order.num_tokens:
                break
            logits = self.engine.decode(np.array([token]))
        return postprocess_generated_text(text, list(order.stops), None)

    def _note(self, instance: Instance, *, num_tokens: int, cut_tokens: int, num_windows: int) -> None:
        beyond = max(num_tokens - (LM_EVAL_LENGTH + 1), 0)
        self.extents[instance.task_name, instance.doc_id, instance.idx] = Extent(
            num_tokens=num_tokens, cut_tokens=cut_tokens, cut_at_2048=beyond, num_windows=num_windows
        )

    def _warn(self, requests: Sequence[Instance]) -> None:
        """Say what was cut off these requests."""
        cut = [self.extents[each.task_name, each.doc_id, each.idx].cut_tokens for each in requests]
        if any(cut):
            log.warning(
                "%d of %d requests are longer than the %s tokens that this model reads; up to %d tokens were cut off "
                "on the left",
                sum(map(bool, cut)),
                len(cut),
                self.limit,
                max(cut),
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """What a generation request asks for."""

    stops: tuple[str, ...]
    num_tokens: int  # written at most


def _order(instance: Instance, *, end_text: str | None) -> _Order:
    arguments: tuple[Any, ...] = instance.args
    settings = arguments[1]
    asked: dict[str, Any] = dict(normalize_gen_kwargs(settings, MAX_NEW_TOKENS))
    stops = asked.pop("until", None) or []
    stops = [stops] if isinstance(stops, str) else list(stops)
    num_tokens = int(asked.pop("max_gen_toks"))
    if asked.pop("do_sample", False) or asked.pop("temperature", 0.0):
        raise UsageError(
            f"task '{instance.task_name}' asks for sampling, and only greedy decoding is done here; set --gen_kwargs "
            "do_sample=False,temperature=0"
        )
    # settings of sampling that say nothing about greedy decoding
    unknown = sorted(asked.keys() - {"temperature", "top_p", "top_k", "min_p"})
    if unknown:
        raise UsageError(f"task '{instance.task_name}' sets {', '.join(unknown)}, which is not known here")
    return _Order(stops=tuple(stop for stop in [*stops, end_text or ""] if stop), num_tokens=num_tokens)


def _known(index: int | None, noun: str) -> int:
    if index is None:
        raise UsageError(f"this checkpoint's tokenizer has no {noun}, and the task needs one")
    return index


def identity(checkpoint: Checkpoint, engine: Engine, *, limit: int | None) -> dict[str, Any]:
    """What makes a checkpoint's answers what they are, by content."""
    return {
        "model_name": checkpoint.name,
        "model_sha": checkpoint.weights_digest,
        "model_revision": checkpoint.revision,
        "model_num_parameters": checkpoint.num_params,
        "model_dtype": engine.dtype,
        "ttbench_architecture": checkpoint.architecture,
        "ttbench_engine": engine.name,
        "ttbench_config_digest": checkpoint.config_digest,
        "ttbench_tokenizer_digest": checkpoint.tokenizer_digest,
        "ttbench_choices": engine.choices,
        "max_length": limit,
    }
