"""A model of transformers as a function, and what it can do with its cache, found by trying.

    forward(ids, cache) -> logits, cache

How a cache may be continued differs from family to family, and with the release of transformers; a call that cannot be
right raises nothing. So `probe` compares with a single forward over all tokens, in the dtype that is loaded:

    chunks   its cache can be continued by any number of tokens at once
    steps    its cache can be continued, but by one token at a time only
    whole    its cache cannot be continued (or it has none): each call reads everything again from the beginning

It also reads two sequences at once, which some families continue wrongly, and changes later tokens and measures what
that does to earlier logits, the leak: of a causal model nothing.
Letters: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from ttbench.engines.finite import Watch

Mode = Literal["chunks", "steps", "whole"]

# Under which names models hand out their cache, and take it back under the same.
CACHES = ("past_key_values", "cache_params", "state", "past_buckets_states")
# Greatest difference of a logit, relative to the greatest logit, that rounding may make. Recurrences run in float32
# inside transformers whatever the model's dtype, and chunked delta rules amplify its rounding (1.3e-4 was seen), so
# float64 is no finer. The smallest fault seen is 4e-3.
LIMITS = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
PROBE_LEN = 72  # tokens; longer where a window or a chunk of the model is, up to PROBE_MOST
PROBE_MOST = 320
# Fields of configurations whose number of tokens changes how a sequence is computed.
SPANS = ("sliding_window", "attention_window_size", "attention_chunk_size", "mamba_chunk_size", "chunk_size")


class Forward:
    """The forward of one model, with its cache passed under the name that the model uses."""

    def __init__(self, model: PreTrainedModel, *, dtype: str, device: torch.device | None = None) -> None:
        """`device`: where ids go in; None: where the model's first weight is."""
        self.model = model
        self._device = device
        self.watch = Watch(dtype=dtype)
        self._parameters = inspect.signature(model.forward).parameters
        self._cache_name: str | None = None

    @property
    def device(self) -> torch.device:
        return self.model.device if self._device is None else self._device

    def __call__(
        self, ids: Int[Tensor, "B T"], cache: Any = None, *, keep_cache: bool, last: int = 0
    ) -> tuple[Float[Tensor, "B S V"], Any]:
        """Logits of the last `last` tokens (0: all), float32 or better, and the cache; None when it gives none.

        `cache` may be changed in place; it is of no use afterwards. `watch` sees the logits.
        """
        given: dict[str, Any] = {} if cache is None else {str(self._cache_name): cache}
        if "use_cache" in self._parameters:
            given["use_cache"] = keep_cache
        if "logits_to_keep" in self._parameters:
            given["logits_to_keep"] = last
        out = self.model(input_ids=ids.to(self.device), **given)
        logits = out.logits[:, -last:] if last else out.logits
        self.watch.see(logits)
        found = None
        if keep_cache:
            self._cache_name = next((name for name in CACHES if out.get(name) is not None), None)
            found = None if self._cache_name is None else out[self._cache_name]
            # what a model cannot take back is not a cache
            found = found if self._cache_name in self._parameters else None
        return logits.to(torch.promote_types(logits.dtype, torch.float32)), found


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheProbe:
    """What a model can do with its cache."""

    mode: Mode
    errors: dict[str, float | str]  # chunks, steps -> greatest relative difference, or why it could not be tried
    batch: float | str  # the same for two sequences at once in that mode, against each alone
    leak: float  # change of earlier logits when later tokens change, relative to the greatest logit
    limit: float  # up to which a difference counts as rounding
    num_tokens: int  # that were tried
    beyond: dict[str, int]  # spans of the model that are longer than what was tried

    @property
    def causal(self) -> bool:
        return self.leak <= self.limit

    @property
    def batched(self) -> bool:
        """Whether several sequences at once give what each gives alone."""
        return isinstance(self.batch, float) and self.batch <= self.limit


@torch.inference_mode()
def probe(forward: Forward, *, vocab_size: int, most: int | None) -> CacheProbe:
    """Try a model on random tokens, at most `most` of them."""
    found = spans(forward.model.config)
    num_tokens = max([PROBE_LEN, *(span + 40 for span in found.values() if span + 40 <= PROBE_MOST)])
    num_tokens = num_tokens if most is None else min(num_tokens, most)
    generator = torch.Generator().manual_seed(20241122)
    ids = torch.randint(vocab_size, (1, num_tokens), generator=generator)
    whole, _ = forward(ids, keep_cache=False)
    kept = max(num_tokens * 5 // 8, 1)
    changed = ids.clone()
    changed[:, kept:] = (changed[:, kept:] + 1) % vocab_size
    leak = _relative(forward(changed, keep_cache=False)[0][:, :kept], whole[:, :kept])
    limit = LIMITS[forward.model.dtype]
    plans = {"chunks": _chunks(num_tokens), "steps": _steps(num_tokens)}
    errors = {name: _continued(forward, ids, whole, lengths) for name, lengths in plans.items()}
    able = {name for name, error in errors.items() if isinstance(error, float) and error <= limit}
    # whoever cannot go on by one token cannot decode, whatever chunks do
    mode: Mode = "whole" if "steps" not in able else "chunks" if "chunks" in able else "steps"
    two = torch.cat([ids, changed.flip(1)])
    wholes = torch.cat([forward(row[None], keep_cache=False)[0] for row in two])
    if mode == "whole":
        batch: float | str = _relative(forward(two, keep_cache=False)[0], wholes)
    else:
        batch = _continued(forward, two, wholes, plans[mode])
    beyond = {name: span for name, span in found.items() if span >= num_tokens}
    return CacheProbe(
        mode=mode, errors=errors, batch=batch, leak=leak, limit=limit, num_tokens=num_tokens, beyond=beyond
    )


def spans(config: Any) -> dict[str, int]:
    text = config.get_text_config()
    found = {name: getattr(text, name, None) for name in SPANS}
    return {name: value for name, value in found.items() if type(value) is int and value > 0}


def _chunks(num_tokens: int) -> list[int]:
    """Pieces of several tokens, odd and even, with single ones between and after them."""
    lengths, left = [], num_tokens
    for length in (17, 16, 1, 9):
        lengths.append(min(length, left))
        left -= lengths[-1]
    lengths += [left - min(left, 3), *[1] * min(left, 3)]
    return [length for length in lengths if length]


def _steps(num_tokens: int) -> list[int]:
    """One piece that ends in mid-chunk, then single tokens."""
    first = max(num_tokens - 29, 1)
    return [first] + [1] * (num_tokens - first)


def _continued(forward: Forward, ids: Tensor, whole: Tensor, lengths: Sequence[int]) -> float | str:
    """Greatest relative difference between reading in pieces and `whole`; why not, when the model gives or takes none.

    Another sequence is begun between the pieces, which tells when a model keeps state in its modules.
    """
    other = ids.flip(1)[:, :5]
    cache, end, worst = None, 0, 0.0
    try:
        for length in lengths:
            start, end = end, end + length
            logits, cache = forward(ids[:, start:end], cache, keep_cache=True)
            if cache is None:
                return "the model gives no cache"
            if logits.shape[:2] != (len(ids), length):
                return f"logits of shape {list(logits.shape[:2])} for ids of shape {[len(ids), length]}"
            worst = max(worst, _relative(logits, whole[:, start:end]))
            forward(other, keep_cache=True)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError, NotImplementedError, KeyError) as error:
        # A model of transformers may say in any of these ways that it cannot do this; then it is not done.
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:120]}"
    return worst


def _relative(found: Tensor, expected: Tensor) -> float:
    """Greatest difference in units of the greatest expected value; infinite where a value is not finite."""
    difference = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
    return float(difference) if torch.isfinite(difference) else float("inf")
