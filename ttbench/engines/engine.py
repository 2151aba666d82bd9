"""The Engine: the only thing a task sees of a model.

Ids may be anything `torch.as_tensor` takes, int64, shape [B, T] or [B]. Letters: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ttbench.types import Scalar

Ids = Int[np.ndarray, "..."] | Int[Tensor, "..."] | Sequence[int] | Sequence[Sequence[int]]


class Engine(Protocol):
    """Steps of a model in this process, over a state that `reset` allocates and the other calls advance."""

    name: str  # eager | graph | hf
    device: str
    dtype: str
    vocab_size: int
    weight_bytes: int  # bytes of parameters and buffers in memory
    max_context: int | None  # tokens the model can take at all; None: no limit
    float32_inside: bool  # whether parts of it compute in float32 whatever the dtype

    @property
    def batched(self) -> bool:
        """Whether several sequences at once give what each gives alone; else only one is taken."""
        ...

    @property
    def forward_len(self) -> int | None:
        """Tokens that one forward of a longer call reads; None: a call is one forward, over all that came before."""
        ...

    @property
    def model(self) -> nn.Module:
        """The module whose weights run; `ttbench.adapt` changes them in place, and nothing else does."""
        ...

    def reset(self, batch_size: int, max_len: int) -> None:
        """Empty state for `batch_size` sequences of up to `max_len` tokens; reuses the allocation when it fits."""
        ...

    def place(self, ids: Ids) -> Int[Tensor, "..."]:
        """Ids [B, T] where the model reads them, checked, so that a call that is timed does not move them."""
        ...

    def prepare(self, *, prompt_len: int = 0, num_steps: int = 0) -> None:
        """Make what a prefill of `prompt_len` tokens and then `num_steps` steps need beside their own work.

        A call that is timed then makes nothing. The state is left as it is.
        """
        ...

    def prefill(self, ids: Ids) -> Float[Tensor, "B V"]:
        """Continue the state over ids [B, T]; logits of the last token."""
        ...

    def decode(self, ids: Ids) -> Float[Tensor, "B V"]:
        """Continue the state by one token each, ids [B]. The logits never alias a buffer that a later call writes."""
        ...

    def logits(self, ids: Ids) -> Float[Tensor, "B T V"]:
        """All logits of ids [B, T], stateless."""
        ...

    def features(self, ids: Ids, first: int) -> Float[np.ndarray, "B D"]:
        """What the output head reads at ids [B, T], averaged over the tokens from `first` on; float64, stateless.

        Raises UnsupportedError where the engine shows logits only.
        """
        ...

    def score(self, ids: Ids, targets: Ids, lengths: Int[np.ndarray, "B"] | None = None) -> Float[np.ndarray, "B T"]:
        """Negative log-likelihood in nats of targets[b, t] after ids[b, :t + 1]; advances the state by T.

        float64; the caller shifts. A target of -1 is not scored and gives 0. Rows are valid up to lengths[b];
        entries beyond are 0.
        """
        ...

    def score_top(
        self, ids: Ids, targets: Ids, lengths: Int[np.ndarray, "B"] | None = None
    ) -> tuple[Float[np.ndarray, "B T"], Bool[np.ndarray, "B T"]]:
        """`score`, and where the scored target is the most likely token: what greedy decoding would have written."""
        ...

    def generate(self, ids: Ids, num_tokens: int) -> Int[np.ndarray, "B N"]:
        """Greedy continuation of the state: reads ids [B, T], then writes `num_tokens` tokens."""
        ...

    def snapshot(self) -> Any:
        """A copy of the state, for `restore`."""
        ...

    def restore(self, snapshot: Any) -> None:
        """Back to a snapshot; one of batch 1 is broadcast to the current batch size."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has finished."""
        ...

    def forget(self) -> None:
        """Let the state's memory go; the next call must be `reset`."""
        ...

    @property
    def num_tokens(self) -> int:
        """Tokens in the state."""
        ...

    @property
    def state_bytes(self) -> int:
        """Bytes of state in use."""
        ...

    @property
    def state_allocated_bytes(self) -> int:
        """Bytes of state allocated."""
        ...

    @property
    def choices(self) -> Mapping[str, Scalar]:
        """What makes this engine or its model another function than their names say: columns `choice_<name>`."""
        ...
