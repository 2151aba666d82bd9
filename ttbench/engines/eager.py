"""The eager engine: a model's own forward and step, called one after another in this process.

Long inputs are read in chunks of a fixed size through the state, and the head is applied to bounded slices of
tokens, so memory does not grow with T beyond the state itself and [T, V] logits never exist. Sizes are constants,
so that no number depends on the machine. Letters: B batch, T tokens, D width, V vocabulary, N tokens written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ttbench.engines.engine import Ids
from ttbench.engines.finite import Watch, require_finite
from ttbench.engines.ids import as_ids, scored_places
from ttbench.errors import TooLongError, UnsupportedError, UsageError
from ttbench.machine.devices import torch_device, torch_dtype
from ttbench.models.base import SequenceModel, Snapshot, State
from ttbench.types import Scalar

# Tokens of each sequence that one forward reads. Models of 1M parameters over 16k tokens, one CPU thread: CPU seconds
# are flat within 15 % from 512 on (128 costs the transformer a quarter more and TTT-Linear twice as much), and memory
# grows with the chunk, 22 to 30 MiB at 2048 and 180 MiB for all at once. Larger models like larger chunks.
CHUNK_LEN = 2048

# Elements of one slice of logits: 32 MiB in float32.
HEAD_ELEMENTS = 2**23


def chunk_spans(num_tokens: int) -> list[tuple[int, int]]:
    """First and last place (exclusive) of each chunk that `num_tokens` tokens are read in."""
    return [(start, min(start + CHUNK_LEN, num_tokens)) for start in range(0, num_tokens, CHUNK_LEN)]


class EagerEngine:
    """`ttbench.engines.engine.Engine` over a SequenceModel. The model is moved to `device` and `dtype` in place."""

    name = "eager"
    batched = True
    forward_len: int | None = CHUNK_LEN

    def __init__(self, model: SequenceModel, *, device: str, dtype: str) -> None:
        """Raises UsageError on an unknown or missing device, or an unknown dtype."""
        self._device = torch_device(device)
        self.model = model.to(device=self._device, dtype=torch_dtype(dtype)).eval()
        self.device, self.dtype = device, dtype
        self.vocab_size: int = model.config.vocab_size
        tensors = {id(t): t for t in (*self.model.parameters(), *self.model.buffers())}
        self.weight_bytes = sum(t.numel() * t.element_size() for t in tensors.values())
        self.max_context: int | None = getattr(model, "max_context", None)
        self.float32_inside = model.float32_inside
        self._state: State | None = None
        self._room = 0  # tokens that the last reset asked for
        self._watch = Watch(dtype=dtype)

    @torch.inference_mode()
    def reset(self, batch_size: int, max_len: int) -> None:
        """Empty state; the allocation of an earlier reset is kept where it fits, at the same addresses.

        This is where what reads or writes text token by token begins, so what is not causal is refused here.

        Raises:
            UnsupportedError: the model is not strictly causal, so a score of the next token would mean nothing.
            TooLongError: the model cannot take `max_len` tokens.
        """
        if not self.model.strictly_causal:
            raise UnsupportedError(
                f"this {type(self.model).__name__} is not causal: its outputs have seen later tokens, so it cannot be "
                "scored on the next token or write it; it reads whole texts only"
            )
        if batch_size < 1 or max_len < 1:
            raise UsageError(f"batch_size and max_len must be at least 1; got {batch_size} and {max_len}")
        if self.max_context is not None and max_len > self.max_context:
            raise TooLongError(f"the model takes at most {self.max_context} tokens; {max_len} were asked for")
        if self._fits(batch_size, max_len):
            self.model.reset(self._opened())
        else:
            self._allocate(batch_size, max_len)
        self._room = max_len

    def _fits(self, batch_size: int, max_len: int) -> bool:
        state = self._state
        return state is not None and state.batch_size == batch_size and state.max_len >= max_len

    def _allocate(self, batch_size: int, max_len: int) -> None:
        """Make a state. The old one goes first: two never stand in memory together."""
        self._state = None
        self._state = self.model.new_state(batch_size, max_len)

    def place(self, ids: Ids) -> Int[Tensor, "..."]:
        """Ids [B, T] on the device; see `Engine.place`."""
        ids = self._tokens("ids", ids, num_dims=2, any_batch=True)
        return ids.to(self._device)

    def prepare(self, *, prompt_len: int = 0, num_steps: int = 0) -> None:
        """See `Engine.prepare`; there is nothing to make."""
        self._need_room(prompt_len + num_steps)

    @torch.inference_mode()
    def prefill(self, ids: Ids) -> Float[Tensor, "B V"]:
        """Continue the state over ids [B, T], T >= 1; float32 logits of the last token (float64 in float64)."""
        ids = self._tokens("ids", ids, num_dims=2)
        last: Tensor | None = None
        for part, _, state in self._chunks(ids):
            last = self._read_chunk(part, state)
        assert last is not None
        return self._finite(self.model.head(last))

    def _read_chunk(self, ids: Int[Tensor, "B C"], state: State) -> Float[Tensor, "B D"]:
        """Hidden state of the last of the tokens that one forward reads."""
        return self.model.prefill(ids, state)

    @torch.inference_mode()
    def decode(self, ids: Ids) -> Float[Tensor, "B V"]:
        """Continue the state by one token each, ids [B]."""
        ids = self._tokens("ids", ids, num_dims=1)
        state = self._need_room(1)
        hidden = self.model.step(ids.to(self._device), state, self.model.step_variant(state.num_tokens))
        state.num_tokens += 1
        logits = self.model.head(hidden)
        self._watch.see(logits)
        return logits

    @torch.inference_mode()
    def logits(self, ids: Ids) -> Float[Tensor, "B T V"]:
        """All logits of ids [B, T], stateless: the engine's state is neither read nor changed."""
        ids = self._tokens("ids", ids, num_dims=2, any_batch=True)
        return self._finite(self.model.head(self.model(ids.to(self._device))))

    @torch.inference_mode()
    def features(self, ids: Ids, first: int) -> Float[np.ndarray, "B D"]:
        """Mean of the states that the head reads from token `first` on, stateless; see `Engine.features`."""
        ids = self._tokens("ids", ids, num_dims=2, any_batch=True)
        if not 0 <= first < ids.shape[1]:
            raise UsageError(f"first is {first}; the {ids.shape[1]} tokens have places 0 to {ids.shape[1] - 1}")
        means = self.model(ids.to(self._device))[:, first:].to("cpu", torch.float64).mean(dim=1)
        return self._finite(means).numpy()

    def score(self, ids: Ids, targets: Ids, lengths: Int[np.ndarray, "B"] | None = None) -> Float[np.ndarray, "B T"]:
        """Nats of targets[b, t] after ids[b, :t + 1]; see `Engine.score`.

        Log-softmax is taken in float32 (float64 in float64). The head is applied only where a target is scored.
        """
        return self.score_top(ids, targets, lengths)[0]

    @torch.inference_mode()
    def score_top(
        self, ids: Ids, targets: Ids, lengths: Int[np.ndarray, "B"] | None = None
    ) -> tuple[Float[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
        """`score`, and where the scored target is the most likely token."""
        ids = self._tokens("ids", ids, num_dims=2)
        targets = self._tokens("targets", targets, num_dims=2, lowest=-1)
        targets = targets.cpu()
        scored = scored_places(ids, targets, lengths)
        nats = torch.zeros(ids.shape, dtype=torch.float64)
        top = torch.zeros(ids.shape, dtype=torch.bool)
        for part, (start, end), state in self._chunks(ids):
            hidden = self.model(part, state)
            where = scored[:, start:end]
            if where.any():
                part = self._judge(hidden, where, targets[:, start:end])
                nats[:, start:end][where], top[:, start:end][where] = part
        return nats.numpy(), top.numpy()

    def _judge(
        self, hidden: Float[Tensor, "B T D"], where: Bool[Tensor, "B T"], targets: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "S"], Bool[Tensor, "S"]]:
        """Nats (float64) of the targets marked in `where`, and which lead, in row order on the host; by slices."""
        rows = where.flatten().nonzero()[:, 0].to(self._device)
        wanted = targets[where].to(self._device)
        flat = hidden.flatten(0, 1)
        slice_len = max(1, HEAD_ELEMENTS // self.vocab_size)
        nats, top = [], []
        for part, target in zip(rows.split(slice_len), wanted.split(slice_len), strict=True):
            logits = self.model.head(flat[part])
            nats.append(F.cross_entropy(logits, target, reduction="none"))
            top.append(logits.argmax(-1) == target)
        # a loss is finite only where the logits that it is made of are
        return self._finite(torch.cat(nats)).to("cpu", torch.float64), torch.cat(top).cpu()

    @torch.inference_mode()
    def generate(self, ids: Ids, num_tokens: int) -> Int[np.ndarray, "B N"]:
        """Greedy continuation: reads ids [B, T], then writes `num_tokens`. The last one written is not read."""
        if num_tokens < 0:
            raise UsageError(f"num_tokens must be at least 0; got {num_tokens}")
        tokens = self._tokens("ids", ids, num_dims=2)
        self._need_room(tokens.shape[1] + max(num_tokens - 1, 0))
        logits = self.prefill(tokens)
        written = torch.empty(tokens.shape[0], num_tokens, dtype=torch.int64, device=self._device)
        for place in range(num_tokens):
            written[:, place] = logits.argmax(-1)
            if place + 1 < num_tokens:
                logits = self.decode(written[:, place])
        self._watch.settle()
        return written.cpu().numpy()

    @torch.inference_mode()
    def snapshot(self) -> Snapshot:
        """A copy of the used part of the state."""
        return self._opened().save()

    @torch.inference_mode()
    def restore(self, snapshot: Snapshot) -> None:
        """Back to a snapshot, in place; one of batch 1 is broadcast. Raises UsageError when it does not fit."""
        state = self._opened()
        if snapshot.num_tokens > self._room:
            raise UsageError(
                f"the snapshot holds {snapshot.num_tokens} tokens; reset gave room for {self._room}: "
                "call reset with a larger max_len first"
            )
        try:
            state.load(snapshot)
        except ValueError as error:
            raise UsageError(f"the snapshot does not fit: {error}; call reset with its batch size first") from error

    def synchronize(self) -> None:
        """Wait until the device has finished; nothing to wait for on a CPU."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._watch.settle()

    def forget(self) -> None:
        """Let the state's memory go; the next call must be `reset`."""
        self._state, self._room = None, 0

    @property
    def num_tokens(self) -> int:
        return 0 if self._state is None else self._state.num_tokens

    @property
    def state_bytes(self) -> int:
        return 0 if self._state is None else self._state.nbytes_used

    @property
    def state_allocated_bytes(self) -> int:
        return 0 if self._state is None else self._state.nbytes_allocated

    @property
    def state_addresses(self) -> tuple[int, ...]:
        """Where the state's tensors are; they move only when `reset` needs a larger or another shape."""
        state = self._state
        return () if state is None else tuple(value.data_ptr() for value, _, _ in state.tensors().values())

    @property
    def choices(self) -> dict[str, Scalar]:
        return dict(self.model.choices)

    def _finite(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        require_finite(values, dtype=self.dtype)
        return values

    def _opened(self) -> State:
        if self._state is None:
            raise UsageError("the engine has no state yet; call reset(batch_size, max_len) first")
        return self._state

    def _need_room(self, num_tokens: int) -> State:
        state = self._opened()
        if state.num_tokens + num_tokens > self._room:
            raise UsageError(
                f"{num_tokens} more tokens after {state.num_tokens} are beyond the {self._room} that reset gave room "
                "for; call reset with a larger max_len"
            )
        return state

    def _tokens(
        self, noun: str, values: Any, *, num_dims: int, lowest: int = 0, any_batch: bool = False
    ) -> Int[Tensor, "..."]:
        """`values` as an int64 tensor of the shape and range that the engine can take; still where it was."""
        batch_size = None if any_batch else self._opened().batch_size
        return as_ids(noun, values, num_dims=num_dims, batch_size=batch_size, vocab_size=self.vocab_size, lowest=lowest)

    def _chunks(self, ids: Int[Tensor, "B T"]) -> Iterator[tuple[Int[Tensor, "B C"], tuple[int, int], State]]:
        """Ids chunk by chunk on the device, the span of tokens of each, and the state, which the caller continues."""
        state = self._need_room(ids.shape[1])
        for start, end in chunk_spans(ids.shape[1]):
            yield ids[:, start:end].to(self._device), (start, end), state
            state.num_tokens += end - start
