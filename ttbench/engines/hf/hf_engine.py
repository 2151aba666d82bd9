"""The hf engine: any causal language model of transformers, through its own code.

    forward(ids, cache) -> logits, cache        (ttbench.engines.hf.hf_forward, and what `probe` found it can do)

Logits come only from the model's own forward, which may scale, cap or divide them. Its cache is the state: of whatever
type, copied whole for a snapshot, measured by its tensors. By mode, T new tokens after P are read

    chunks   in pieces of CHUNK_LEN through the cache
    steps    at once when P = 0, else one by one
    whole    together with the P before them; the state is the tokens

In `steps` and `whole` a prompt is read in one piece, so [T, V] logits stand in memory while it is scored. A model
whose tables move with the length of a text (`ttbench.engines.hf.hf_length`) is read in mode whole where more is asked
for than it is steady at, with fresh tables for each forward: a token's loss is then that of one forward over all that
was read, whatever was read before.
Letters: B batch, T tokens, P tokens before, V vocabulary, N tokens written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ttbench.engines.eager import CHUNK_LEN, HEAD_ELEMENTS
from ttbench.engines.engine import Ids
from ttbench.engines.hf.hf_cache import broadcast, copy_cache, nbytes_allocated, nbytes_used
from ttbench.engines.hf.hf_checkpoint import load_hf_model, position_limit
from ttbench.engines.hf.hf_devices import offloaded, words
from ttbench.engines.hf.hf_forward import CacheProbe, Forward, Mode, probe, spans
from ttbench.engines.hf.hf_length import Tables, steady_length
from ttbench.engines.ids import as_ids, scored_places
from ttbench.errors import TooLongError, UnsupportedError, UsageError
from ttbench.machine.devices import torch_device, torch_dtype
from ttbench.types import NO_ATTENTION, Checkpoint, Scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class HFSnapshot:
    """A copy of a cache, or of the tokens in its place."""

    num_tokens: int
    batch_size: int  # sequences
    cache: Any


def load_hf_engine(
    checkpoint: Checkpoint,
    *,
    device: str,
    dtype: str,
    attention: str | None,
    unchecked: bool = False,
    device_map: str | None = None,
) -> HFEngine:
    """Open a checkpoint with transformers. Raises as `ttbench.engines.kinds.load_engine`."""
    model = load_hf_model(
        checkpoint,
        device=torch_device(device),
        dtype=torch_dtype(dtype),
        attention=attention,
        device_map=device_map,
    )
    engine = HFEngine(model, device=device, dtype=dtype, vocab_size=checkpoint.vocab_size, unchecked=unchecked)
    engine.placement = device if device_map is None else f"{device} {device_map}"
    return engine


class HFEngine:
    """`ttbench.engines.engine.Engine` over a model of transformers. What it can do is probed once, here."""

    name = "hf"
    float32_inside = True  # norms, softmax and recurrences of transformers

    def __init__(
        self,
        model: transformers.PreTrainedModel,
        *,
        device: str,
        dtype: str,
        vocab_size: int,
        unchecked: bool = False,
    ) -> None:
        """Probe the model. `unchecked`: read and score it even where it looks ahead."""
        self.model, self.device, self.dtype, self.vocab_size = model, device, dtype, vocab_size
        self._device = torch_device(device)
        tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
        self.weight_bytes = sum(t.numel() * t.element_size() for t in tensors.values())
        self.max_context = position_limit(model)
        placed = getattr(model, "hf_device_map", None)
        self._forward = Forward(model, dtype=dtype, device=None if placed is None else self._device)
        self.placement = device  # with the map of devices, where there is one
        self.offloaded: tuple[str, ...] = offloaded(placed or {}, device=self._device)
        self._unchecked = unchecked
        self._tables = Tables(model)
        self.steady_len = steady_length(model)  # tokens; None: any length
        self.probe: CacheProbe = probe(self._forward, vocab_size=vocab_size, most=self.steady_len or self.max_context)
        self._forward.watch.settle()
        self._mode: Mode = self.probe.mode
        self._batch_size = 0
        self._room = 0  # tokens that the last reset asked for
        self._num_tokens = 0
        self._cache: Any = None  # in mode whole: the tokens read so far, [B, P]

    def reset(self, batch_size: int, max_len: int) -> None:
        """Empty state.

        Raises:
            TooLongError: the model has no positions for `max_len` tokens.
            UnsupportedError: the model looks ahead, so a score of the next token would mean nothing; or several
                sequences at once do not give what each gives alone.
        """
        if batch_size < 1 or max_len < 1:
            raise UsageError(f"batch_size and max_len must be at least 1; got {batch_size} and {max_len}")
        if self.max_context is not None and max_len > self.max_context:
            raise TooLongError(f"the model has {self.max_context} positions; {max_len} tokens were asked for")
        if not self.probe.causal and not self._unchecked:
            raise UnsupportedError(
                f"probe 'causality' failed: earlier logits move by {self.probe.leak:.1e} of the greatest when later "
                "tokens change, so this model sees what it is scored on; --unchecked scores it all the same"
            )
        if batch_size > 1 and not self.probe.batched and self.probe.causal:
            found = self.probe.batch
            raise UnsupportedError(
                "this model computes several sequences at once wrongly "
                f"({found if isinstance(found, str) else f'off by {found:.1e}'}); use --batch-size 1"
            )
        self._batch_size, self._room, self._num_tokens, self._cache = batch_size, max_len, 0, None
        self._mode = "whole" if self._moving else self.probe.mode
        self._tables.restore()

    def place(self, ids: Ids) -> Int[Tensor, "..."]:
        """Ids [B, T] on the device; see `Engine.place`."""
        tokens = as_ids("ids", ids, num_dims=2, batch_size=None, vocab_size=self.vocab_size)
        return tokens.to(self._device)

    def prepare(self, *, prompt_len: int = 0, num_steps: int = 0) -> None:
        """See `Engine.prepare`; there is nothing to make."""
        self._need_room(prompt_len + num_steps)

    def forget(self) -> None:
        """Let the state's memory go; the next call must be `reset`."""
        self._room, self._num_tokens, self._cache = 0, 0, None

    @property
    def _moving(self) -> bool:
        """Whether the texts that `reset` made room for may be longer than the model is steady at."""
        return self.steady_len is not None and self._room > self.steady_len

    @property
    def windows(self) -> list[int]:
        """Spans of tokens that the config names."""
        return sorted(spans(self.model.config).values())

    @property
    def batched(self) -> bool:
        return self.probe.batched

    @property
    def forward_len(self) -> int | None:
        """Tokens of one forward; None where a call is one forward over all that was read."""
        return CHUNK_LEN if self._mode == "chunks" else None

    @torch.inference_mode()
    def prefill(self, ids: Ids) -> Float[Tensor, "B V"]:
        """Continue the state over ids [B, T], T >= 1; float32 logits of the last token (float64 in float64)."""
        last = self._last(self._ids("ids", ids, num_dims=2))
        self._forward.watch.settle()
        return last

    @torch.inference_mode()
    def decode(self, ids: Ids) -> Float[Tensor, "B V"]:
        """Continue the state by one token each, ids [B]."""
        return self._last(self._ids("ids", ids, num_dims=1)[:, None])

    def _last(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        """Continue the state; logits of the last token."""
        last: Tensor | None = None
        for logits, _ in self._read(ids, all_logits=False):
            last = logits[:, -1]
        assert last is not None
        return last.clone()

    @torch.inference_mode()
    def logits(self, ids: Ids) -> Float[Tensor, "B T V"]:
        """All logits of ids [B, T] by one forward, stateless: the engine's state is neither read nor changed."""
        tokens = as_ids("ids", ids, num_dims=2, batch_size=None, vocab_size=self.vocab_size)
        self._tables.restore()
        logits = self._forward(tokens, keep_cache=False)[0]
        self._tables.restore()
        self._forward.watch.settle()
        return logits

    def features(self, ids: Ids, first: int) -> Float[np.ndarray, "B D"]:
        """Always refused: models of transformers differ in what stands between their states and their logits.

        Raises UnsupportedError.
        """
        raise UnsupportedError(
            "engine hf shows logits only, not what the head reads; probe it natively: --engine eager"
        )

    def score(self, ids: Ids, targets: Ids, lengths: Int[np.ndarray, "B"] | None = None) -> Float[np.ndarray, "B T"]:
        """Nats of targets[b, t] after ids[b, :t + 1]; see `Engine.score`."""
        return self.score_top(ids, targets, lengths)[0]

    @torch.inference_mode()
    def score_top(
        self, ids: Ids, targets: Ids, lengths: Int[np.ndarray, "B"] | None = None
    ) -> tuple[Float[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
        """`score`, and where the scored target is the most likely token."""
        tokens = self._ids("ids", ids, num_dims=2)
        wanted = self._ids("targets", targets, num_dims=2, lowest=-1).cpu()
        scored = scored_places(tokens, wanted, lengths)
        if self._moving and lengths is not None and len(set(np.asarray(lengths).tolist())) > 1:
            raise UnsupportedError(
                f"beyond {self.steady_len} tokens a loss of this model depends on how long its text is, so texts of "
                "several lengths cannot be read together; use --batch-size 1"
            )
        nats = torch.zeros(tokens.shape, dtype=torch.float64)
        top = torch.zeros(tokens.shape, dtype=torch.bool)
        for logits, (start, end) in self._read(tokens, all_logits=True):
            where = scored[:, start:end]
            if where.any():
                nats[:, start:end][where], top[:, start:end][where] = self._judge(logits, where, wanted[:, start:end])
        self._forward.watch.settle()
        return nats.numpy(), top.numpy()

    def _judge(
        self, logits: Float[Tensor, "B T V"], where: Bool[Tensor, "B T"], targets: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "S"], Bool[Tensor, "S"]]:
        """Nats (float64) of the targets marked in `where`, and which lead, in row order on the host; by slices."""
        rows = where.flatten().nonzero()[:, 0].to(self._device)
        wanted = targets[where].to(self._device)
        flat, slice_len = logits.flatten(0, 1), max(1, HEAD_ELEMENTS // self.vocab_size)
        nats, top = [], []
        for part, target in zip(rows.split(slice_len), wanted.split(slice_len), strict=True):
            nats.append(F.cross_entropy(flat[part], target, reduction="none"))
            top.append(flat[part].argmax(-1) == target)
        return torch.cat(nats).to("cpu", torch.float64), torch.cat(top).cpu()

    @torch.inference_mode()
    def generate(self, ids: Ids, num_tokens: int) -> Int[np.ndarray, "B N"]:
        """Greedy continuation: reads ids [B, T], then writes `num_tokens`. The last one written is not read."""
        if num_tokens < 0:
            raise UsageError(f"num_tokens must be at least 0; got {num_tokens}")
        tokens = self._ids("ids", ids, num_dims=2)
        self._need_room(tokens.shape[1] + max(num_tokens - 1, 0))
        logits = self.prefill(tokens)
        written = np.empty((tokens.shape[0], num_tokens), dtype=np.int64)
        for place in range(num_tokens):
            written[:, place] = logits.argmax(-1).cpu().numpy()
            if place + 1 < num_tokens:
                logits = self.decode(written[:, place])
        self._forward.watch.settle()
        return written

    @torch.inference_mode()
    def snapshot(self) -> HFSnapshot:
        """A copy of the state."""
        self._need_room(0)
        return HFSnapshot(num_tokens=self._num_tokens, batch_size=self._batch_size, cache=copy_cache(self._cache))

    @torch.inference_mode()
    def restore(self, snapshot: HFSnapshot) -> None:
        """Back to a snapshot; one of batch 1 is broadcast. Raises UsageError when it does not fit."""
        self._need_room(0)
        if snapshot.num_tokens > self._room:
            raise UsageError(
                f"the snapshot holds {snapshot.num_tokens} tokens; reset gave room for {self._room}: "
                "call reset with a larger max_len first"
            )
        if snapshot.batch_size not in (1, self._batch_size):
            raise UsageError(
                f"the snapshot does not fit: it has batch size {snapshot.batch_size}, expected 1 or "
                f"{self._batch_size}; call reset with its batch size first"
            )
        if snapshot.batch_size == self._batch_size:
            self._cache = copy_cache(snapshot.cache)
        elif self._mode == "whole":
            self._cache = None if snapshot.cache is None else snapshot.cache.repeat(self._batch_size, 1)
        else:
            self._cache = broadcast(snapshot.cache, self._batch_size)
        self._num_tokens = snapshot.num_tokens

    def synchronize(self) -> None:
        """Wait until the device has finished; nothing to wait for on a CPU."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._forward.watch.settle()

    @property
    def num_tokens(self) -> int:
        return self._num_tokens

    @property
    def state_bytes(self) -> int:
        """Bytes of the cache's floating-point tensors; in mode whole those of the tokens."""
        if isinstance(self._cache, Tensor):
            return self._cache.nbytes
        return nbytes_used(self._cache)

    @property
    def state_allocated_bytes(self) -> int:
        return nbytes_allocated(self._cache)

    @property
    def choices(self) -> dict[str, Scalar]:
        found = self.probe
        attends = getattr(self.model.config, "_attn_implementation", None) or NO_ATTENTION
        path: dict[str, Scalar] = {"model": f"transformers {transformers.__version__}", "attention": attends}
        path["cache"] = self._mode
        if self.steady_len is not None:
            path["steady_tokens"] = str(self.steady_len)
        if not found.causal:
            path["leak"] = f"{found.leak:.1e}"
        if placed := getattr(self.model, "hf_device_map", None):
            path["placement"] = words(placed)
        for name, span in found.beyond.items():
            path[f"unprobed_{name}"] = str(span)
        return path

    def _ids(self, noun: str, values: Any, *, num_dims: int, lowest: int = 0) -> Int[Tensor, "..."]:
        self._need_room(0)
        return as_ids(
            noun,
            values,
            num_dims=num_dims,
            batch_size=self._batch_size,
            vocab_size=self.vocab_size,
            lowest=lowest,
        )

    def _need_room(self, num_tokens: int) -> None:
        if not self._room:
            raise UsageError("the engine has no state yet; call reset(batch_size, max_len) first")
        if self._num_tokens + num_tokens > self._room:
            raise UsageError(
                f"{num_tokens} more tokens after {self._num_tokens} are beyond the {self._room} that reset gave room "
                "for; call reset with a larger max_len"
            )

    def _read(
        self, ids: Int[Tensor, "B T"], *, all_logits: bool
    ) -> Iterator[tuple[Float[Tensor, "B C V"], tuple[int, int]]]:
        """Logits of ids, piece by piece, and the span of tokens of each; the last token's alone unless `all_logits`."""
        num_tokens = ids.shape[1]
        self._need_room(num_tokens)
        if self._mode == "whole":
            before = ids[:, :0] if self._cache is None else self._cache
            self._cache = torch.cat([before, ids.to(before.device)], dim=1)
            self._num_tokens += num_tokens
            last = num_tokens if all_logits else 1
            if self._moving:
                self._tables.restore()
            yield self._forward(self._cache, keep_cache=False, last=last)[0], (num_tokens - last, num_tokens)
            return
        at_once = CHUNK_LEN if self._mode == "chunks" else num_tokens if self._num_tokens == 0 else 1
        for start in range(0, num_tokens, at_once):
            end = min(start + at_once, num_tokens)
            last = 0 if all_logits else 1
            logits, self._cache = self._forward(ids[:, start:end], self._cache, keep_cache=True, last=last)
            self._num_tokens += end - start
            yield logits, (start, end)
