"""The graph engine: as the eager one, with steps, and chunks that allow it, captured once and replayed.

A graph is captured for each `step_variant`, and for each length and `forward_variant` of a chunk that `prepare` was
told of, after a warm-up on a stream of its own. It reads ids from one fixed buffer and writes its result to another,
and it works on the state where that lies. So it is kept with all that it works on, and thrown away when any of that
moves: when `reset` makes a larger or another state, or a weight is replaced. What is returned is a copy.

Letters: B batch, T tokens, C tokens of a chunk, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ttbench.engines.eager import EagerEngine, chunk_spans
from ttbench.engines.engine import Ids
from ttbench.engines.graph.cuda import CudaRecorder
from ttbench.engines.graph.recording import Graph, Recorder
from ttbench.errors import UnsupportedError
from ttbench.kernels import attention
from ttbench.kernels.dispatch.running import note, unwatched, watching
from ttbench.models.base import SequenceModel, Snapshot, State

WARM_UPS = 3  # runs before a capture, as torch's notes on CUDA graphs have it

# Where something lies, and how: address, shape, dtype.
Place = tuple[int, tuple[int, ...], torch.dtype]
# What a graph is of: "step" and a variant, or "prefill", a variant and the number of tokens.
Key = tuple[str, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """A graph with the two buffers that join it to the outside."""

    graph: Graph
    ids: Int[Tensor, "B *C"]
    result: Float[Tensor, "B _"]
    ran: Mapping[str, str]  # op -> what a replay runs, as it was noted at the capture

    def __call__(self, ids: Int[Tensor, "B *C"]) -> Float[Tensor, "B _"]:
        """Replay on other ids; the result is a copy. Raises ValueError on ids that the graph was not captured for."""
        for what in ("shape", "dtype", "device"):
            given, captured = getattr(ids, what), getattr(self.ids, what)
            if given != captured:
                raise ValueError(f"the graph was captured for ids of {what} {captured}; got {given}")
        self.ids.copy_(ids)
        self.graph.replay()
        return self.result.clone()


class GraphEngine(EagerEngine):
    """`ttbench.engines.engine.Engine` over a SequenceModel whose steps are replayed. See the module docstring."""

    name = "graph"

    def __init__(self, model: SequenceModel, *, device: str, dtype: str, recorder: Recorder | None = None) -> None:
        """Args as of `EagerEngine`; `recorder` captures and replays, CUDA graphs unless it is given.

        Raises:
            UsageError: an unknown, missing or other device than a GPU, or an unknown dtype.
            UnsupportedError: attention that takes no mask, which needs another graph for every token.
        """
        super().__init__(model, device=device, dtype=dtype)
        require_mask(model)
        self._recorder: Recorder = CudaRecorder(self._device) if recorder is None else recorder
        self._graphs: dict[Key, Captured] = {}
        self._told: set[Key] = set()  # graphs whose ops were noted since the last reset, restore or prepare
        self._places: tuple[Place, ...] = ()  # of all that the graphs work on

    def reset(self, batch_size: int, max_len: int) -> None:
        """As `EagerEngine.reset`; graphs stay valid where the allocation is kept."""
        super().reset(batch_size, max_len)
        self._told.clear()
        self._drop_stale()

    @torch.inference_mode()
    def prepare(self, *, prompt_len: int = 0, num_steps: int = 0) -> None:
        """Capture what a prefill of `prompt_len` tokens and then `num_steps` steps need; the state is left as it is.

        Raises:
            UsageError: the state has no room for them.
            UnsupportedError: the model's code cannot be captured.
        """
        state = self._need_room(prompt_len + num_steps)
        read = state.num_tokens
        self._told.clear()
        for start, end in chunk_spans(prompt_len):
            variant = self.model.forward_variant(read + start, end - start)
            if variant is not None:
                self._chunk(variant, end - start, read=read + start)
        for num_tokens in range(read + prompt_len, read + prompt_len + num_steps):
            self._step(self.model.step_variant(num_tokens))

    @torch.inference_mode()
    def decode(self, ids: Ids) -> Float[Tensor, "B V"]:
        """Continue the state by one token each, ids [B]; captured now where `prepare` has not done it."""
        ids = self._tokens("ids", ids, num_dims=1).to(self._device)
        state = self._need_room(1)
        logits = self._step(self.model.step_variant(state.num_tokens))(ids)
        state.num_tokens += 1
        self._watch.see(logits)
        return logits

    def restore(self, snapshot: Snapshot) -> None:
        super().restore(snapshot)
        self._told.clear()
        self._drop_stale()

    def forget(self) -> None:
        self._drop()
        super().forget()

    @property
    def pool_bytes(self) -> int:
        """Bytes that the graphs hold beside weights and state."""
        return self._recorder.pool_bytes

    @property
    def num_graphs(self) -> int:
        return len(self._graphs)

    def _allocate(self, batch_size: int, max_len: int) -> None:
        # graphs hold the memory that they work on: they go before a new state is made
        self._drop()
        super()._allocate(batch_size, max_len)

    def _read_chunk(self, ids: Int[Tensor, "B C"], state: State) -> Float[Tensor, "B D"]:
        variant = self.model.forward_variant(state.num_tokens, ids.shape[1])
        key = None if variant is None else ("prefill", variant, ids.shape[1])
        if key is None or key not in self._graphs:
            note("prefill", "eager")
            return super()._read_chunk(ids, state)
        return self._use(key)(ids)

    def _step(self, variant: int) -> Captured:
        """The graph of a step, captured where there is none."""
        model, state = self.model, self._opened()
        return self._graph(
            ("step", variant, 1),
            (state.batch_size,),
            lambda ids: model.head(model.step(ids, state, variant)),
        )

    def _chunk(self, variant: int, num_tokens: int, *, read: int) -> None:
        """Capture a chunk that follows `read` tokens, where that is not done."""
        model, state = self.model, self._opened()
        before, state.num_tokens = state.num_tokens, read
        try:
            self._graph(
                ("prefill", variant, num_tokens),
                (state.batch_size, num_tokens),
                lambda ids: model.prefill(ids, state),
            )
        finally:
            state.num_tokens = before

    def _graph(self, key: Key, shape: tuple[int, ...], call: Callable[[Tensor], Tensor]) -> Captured:
        if key not in self._graphs:
            places = self._where()
            self._graphs[key] = self._captured(shape, call)
            if self._where() != places:
                self._drop()
                raise UnsupportedError(
                    f"{type(self.model).__name__} puts its state or a weight elsewhere in a {key[0]}, so a graph would "
                    "work on the old one; write it in place, or use --engine eager"
                )
            self._places = places
        return self._use(key)

    def _use(self, key: Key) -> Captured:
        """A graph, whose ops are noted where they were not: a replay runs no code that could."""
        captured = self._graphs[key]
        if key not in self._told:
            self._told.add(key)
            note("decode" if key[0] == "step" else "prefill", self._recorder.name)
            for name, ways in captured.ran.items():
                for way in ways.split(" + "):
                    note(name, way)
        return captured

    def _captured(self, shape: tuple[int, ...], call: Callable[[Tensor], Tensor]) -> Captured:
        """Warm a call up, and capture it.

        A warm-up may write what does not grow with tokens, which is put back after each run, and rows of what grows
        that nothing has filled yet.
        """
        ids = torch.zeros(shape, dtype=torch.int64, device=self._device)
        kept = [(x, x.clone()) for x, _, grows in self._opened().tensors().values() if grows is None]
        results: list[Tensor] = []

        def run() -> None:
            results[:] = [call(ids)]
            for tensor, content in kept:
                tensor.copy_(content)

        try:
            # what runs here is noted when it is replayed
            with unwatched(), watching() as ran:
                self._recorder.warm_up(run, times=WARM_UPS)
                result = torch.empty_like(results.pop())
                graph = self._recorder.capture(lambda: copy(result, call(ids)))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise UnsupportedError(
                f"{type(self.model).__name__} cannot be captured in a graph: {reason}; use --engine eager"
            ) from error
        return Captured(graph=graph, ids=ids, result=result, ran=ran)

    def _where(self) -> tuple[Place, ...]:
        """Where everything lies that a graph works on: state, weights, buffers."""
        return tuple((x.data_ptr(), tuple(x.shape), x.dtype) for x in self._worked_on())

    def _worked_on(self) -> Iterator[Tensor]:
        yield from (tensor for tensor, _, _ in self._opened().tensors().values())
        yield from self.model.parameters()
        yield from self.model.buffers()

    def _drop_stale(self) -> None:
        if self._graphs and self._where() != self._places:
            self._drop()

    def _drop(self) -> None:
        self._graphs.clear()


def copy(into: Tensor, values: Tensor) -> None:
    """Write `values` in place."""
    into.copy_(values)


def require_mask(model: SequenceModel) -> None:
    """Raise UnsupportedError for attention whose step takes no mask, and so as many keys as there are."""
    backend = attention.BACKENDS.get(model.attention_backend)
    if backend is not None and not backend.takes_mask:
        raise UnsupportedError(
            f"attention {model.attention_backend} takes no mask, so every token would need a graph of its own; "
            "use --attention sdpa, or --engine eager"
        )
