"""What a score rests on, asked of an engine by the calls that tasks make: one set of probes for every engine.

    interface       shapes of what the engine returns
    rows            a sequence alone and among others
    later_tokens    other tokens after a cut change no loss before it
    pieces          a text read in pieces costs what it costs at once (ttbench.engines.consistency)
    saved_state     a state that is brought back, over another one and onto a batch, goes on as before
    far             both of these in single forwards beyond what is read in every way
    read_again      a text costs the same after a longer one
    state_growth    a state that does not grow, by the architecture's own word, does not

A worker asks them in the run's dtype before the first score, and `ttbench check` in float64. What a model raises, or
returns in another shape, is a failed probe in one sentence.

A model that chooses among discrete ways (`discrete_choices`: a bucket of LSH attention) can choose otherwise once
later tokens change the shapes in which it computes, and with them the rounding. Where losses move no more than other
shapes may move them, `later_tokens` and `far` ask it the same in float64: there rounding turns no choice, and a look
ahead moves what it moved before. Float64 may be computed another way, so the run's dtype is asked once more, with other
tokens after many cuts: rounding moves tokens here and there, a look ahead those at one distance before each cut.
Letters: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ttbench.engines.check_result import CheckResult, counted, not_applicable
from ttbench.engines.consistency import TOLERANCES, Ids, Nats, ProbeText, Reader, Tolerance, draw_cuts
from ttbench.engines.engine import Engine
from ttbench.engines.findings import EXAMINED, NEAR, SHORT
from ttbench.errors import CellAnswer


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What the probes found, and how far they looked."""

    results: tuple[CheckResult, ...]
    looked: int  # tokens of the longest text that was read

    @property
    def failed(self) -> CheckResult | None:
        """The first probe that failed."""
        return next((result for result in self.results if result.passed is False), None)


@torch.inference_mode()
def ask(
    engine: Engine,
    text: ProbeText,
    tolerance: Tolerance,
    *,
    windows: Sequence[int],
    seed: int,
    causal: bool = True,
    exact: Callable[[], Engine] | None = None,
) -> Findings:
    """Run the probes in order; the first one that fails is the last, since what follows builds on it.

    Args:
        text: what is read; `text.long` says how far is looked.
        windows: lengths at which the model changes how it computes, where they are known; cuts stand about them.
        causal: False: the model says itself that it reads whole texts only, so the probes of a state do not apply.
        exact: opens the same model in float64, where it makes discrete choices that rounding can turn; else None.
    """
    session = Session(engine, text, tolerance, windows=windows, seed=seed, causal=causal, exact=exact)
    probes: dict[str, Callable[[], CheckResult]] = {"interface": session.interface, "rows": session.rows}
    if causal:
        probes |= {
            "later_tokens": session.later_tokens,
            "pieces": session.pieces,
            "saved_state": session.saved_state,
            "far": session.far,
            "read_again": session.read_again,
            "state_growth": session.state_growth,
        }
    results = []
    for name, probe in probes.items():
        results.append(guarded(name, probe))
        if results[-1].passed is False:
            break
    engine.forget()
    return Findings(results=tuple(results), looked=len(text.long) - 1 if causal else SHORT)


def guarded(name: str, probe: Callable[[], CheckResult]) -> CheckResult:
    """The probe's result; what a model raises is a failure of it, in one sentence."""
    try:
        return probe()
    except (MemoryError, torch.OutOfMemoryError, CellAnswer):
        raise
    # The border to code that nobody here wrote: it may raise anything.
    except Exception as error:
        if isinstance(error, RuntimeError) and "DefaultCPUAllocator: " in str(error):
            raise
        words = next(iter(str(error).splitlines()), "")[:160]
        told = f"the model raised {type(error).__name__}{f': {words}' if words else ''}"
        return CheckResult(name=name, passed=False, measured=None, limit=None, unit="", explanation=told)


class Session:
    """One run of the probes over one engine."""

    def __init__(
        self,
        engine: Engine,
        text: ProbeText,
        tolerance: Tolerance,
        *,
        windows: Sequence[int],
        seed: int,
        causal: bool,
        exact: Callable[[], Engine] | None = None,
    ) -> None:
        self.engine, self.text, self.seed, self.causal, self.exact = engine, text, seed, causal, exact
        self.reader = Reader(engine, tolerance)
        self.windows = sorted({window for window in windows if window > 1})
        self.num_tokens = len(text.long) - 1
        self.near = text.long[: min(self.num_tokens, NEAR) + 1]
        self._first: Nats | None = None  # losses of the short text before anything long was read
        self._small_bytes = self._near_bytes = 0  # of state, after the short and after the near text
        self._whole: Nats | None = None

    @property
    def whole(self) -> Nats:
        """Losses of the near text, read at once."""
        if self._whole is None:
            self._whole = self.reader.fresh(self.near)
        return self._whole

    def interface(self) -> CheckResult:
        """Shapes of everything the engine returns, on two short rows."""
        engine, vocab_size = self.engine, self.engine.vocab_size
        ids = np.stack([self.text.short[:9], self.text.other[:9]])
        checks: list[tuple[str, Callable[[], Sequence[int]], tuple[int, ...]]] = [
            ("head(forward(ids [1, 9]))", lambda: engine.logits(ids[:1]).shape, (1, 9, vocab_size)),
            ("head(forward(ids [2, 9]))", lambda: engine.logits(ids).shape, (2, 9, vocab_size)),
        ]
        if self.causal:
            engine.reset(1, 9)
            checks += [
                ("head of forward(ids [1, 7], state)", lambda: engine.prefill(ids[:1, :7]).shape, (1, vocab_size)),
                ("head(step(ids [1], state))", lambda: engine.decode(ids[:1, 7]).shape, (1, vocab_size)),
                ("a score of ids [1, 1]", lambda: engine.score(ids[:1, 7:8], ids[:1, 8:9]).shape, (1, 1)),
            ]
        for what, find, expected in checks:
            found = tuple(find())
            if found != expected:
                return counted("interface", 1, f"{what} has shape {list(found)}; expected {list(expected)}")
        return counted("interface", 0, "shapes that differ from what the interface says")

    def rows(self) -> CheckResult:
        """Each sequence alone and between two others."""
        engine = self.engine
        if not getattr(engine, "batched", True):
            return not_applicable("rows", "the engine reads one sequence at a time and refuses more")
        ids = np.stack([self.text.short, self.text.other, self.text.short[::-1]])
        together = _losses(engine.logits(ids[:, :-1]), ids[:, 1:])
        alone = np.concatenate([_losses(engine.logits(row[None, :-1]), row[None, 1:]) for row in ids])
        words = f"losses of {SHORT} tokens alone and in a batch of 3"
        return self.reader.alike("rows", together.ravel(), alone.ravel(), words)

    def saved_state(self) -> CheckResult:
        """A state that is saved, overwritten and brought back; what is not in it is lost or left behind."""
        engine, reader = self.engine, self.reader
        short, other, read = self.text.short, self.text.other, 37
        before = self._first
        assert before is not None
        first = before[read : read + 8]
        engine.reset(1, SHORT)
        engine.prefill(short[None, :read])
        saved = engine.snapshot()
        went_on = _decoded(engine, short[read : read + 9])
        engine.restore(saved)
        results = [
            reader.same(
                "saved_state", _decoded(engine, short[read : read + 9]), went_on, "losses after a state is restored"
            )
        ]
        results.append(reader.alike("saved_state", went_on, first, "losses of single steps against one forward"))
        reader.fresh(other)
        again = reader.fresh(short)
        told = "losses of a text read again after another one and a reset"
        results.append(reader.same("saved_state", again, before, told))
        reader.fresh(other)
        engine.reset(1, SHORT)
        engine.restore(saved)
        told = "losses after a state is restored once another text was read"
        results.append(reader.same("saved_state", _decoded(engine, short[read : read + 9]), went_on, told))
        if getattr(engine, "batched", True):
            engine.reset(2, SHORT)
            engine.restore(saved)
            both = _decoded(engine, short[read : read + 9], rows=2)
            results.append(reader.alike("saved_state", both, went_on, "losses after a state is restored onto two rows"))
        return next((result for result in results if result.passed is False), results[-1])

    def later_tokens(self) -> CheckResult:
        """The near text, and the same with other tokens after a cut near its end."""
        num_tokens = len(self.near) - 1
        rng = np.random.default_rng(self.seed + 1)
        cut = max(int(num_tokens * rng.uniform(0.85, 0.95)), 1)
        # before anything long is read: `read_again` compares with it
        self._first = self.reader.fresh(self.text.short)
        self._small_bytes = self.engine.state_bytes
        whole = self.whole
        told = f"losses of {num_tokens} tokens up to token {cut} when only later tokens change"
        result = self.unmoved(
            "later_tokens", lambda changed: self.reader.fresh(self.near, changed=changed), whole, told, cut=cut
        )
        if result.passed:
            return result
        words = "the same text read twice, with a reset between"
        again = self.reader.same("read_again", self.reader.fresh(self.near), whole, words)
        return again if again.passed is False else _looks_ahead(result)

    def unmoved(
        self, name: str, reading: Callable[[int], Nats], whole: Nats, words: str, *, cut: int, begin: int = 0
    ) -> CheckResult:
        """Judge what losses before a cut do when only tokens after it change.

        The model is asked again where it makes discrete choices and rounding may be what moves them.

        Args:
            reading: losses of the text from token `begin` on, with other tokens from a place after it on.
            whole: its losses as it is.
            cut: that place.
        """
        found = reading(cut)[:cut]
        result = self.reader.same(name, found, whole[:cut], words, first=begin)
        if result.passed or self.exact is None or not self.reader.alike(name, found, whole[:cut], words).passed:
            return result
        reader, ids, end = Reader(self.exact(), TOLERANCES["float64"]), self.text.long, begin + len(whole)
        reader.engine.reset(1, self.num_tokens)
        if begin:
            reader.read(ids[: begin + 1])
        saved = reader.engine.snapshot()
        before = reader.read(ids[begin : end + 1])
        reader.engine.restore(saved)
        after = reader.read(ids[begin : end + 1], changed=cut)
        again = reader.same(name, after[:cut], before[:cut], f"{words}, in float64", first=begin)
        if again.passed is False:
            return again
        ahead = self.reader.at_one_distance(reading, whole, seed=self.seed + 3)
        if ahead:
            return replace(result, explanation=f"{words}: {ahead}, although none moves in float64")
        moved = result.explanation.removeprefix(words).lstrip(": ")
        told = f"{again.explanation}; here {moved}, taken for rounding that turns a choice"
        return replace(again, explanation=told)

    def pieces(self) -> CheckResult:
        """The near text in pieces."""
        # a model whose tables move with length is one function of its text up to some length only
        num_tokens = min(len(self.near) - 1, getattr(self.engine, "steady_len", None) or len(self.near))
        cuts = draw_cuts(num_tokens, windows=self.windows, seed=self.seed)
        if not reads_on(self.engine):
            return self._prefixes(cuts, num_tokens)
        found = self.reader.fresh(self.near, cuts)
        self._near_bytes = self.engine.state_bytes
        words = f"{num_tokens} tokens in {len(cuts) + 1} pieces"
        ahead = self.reader.borders("pieces", found, self.whole, cuts, words)
        return ahead or self.reader.alike("pieces", found, self.whole, f"{words} against at once")

    def _prefixes(self, cuts: Sequence[int], num_tokens: int) -> CheckResult:
        """For engines that read everything again for each piece: the beginning alone, and a few steps after it."""
        whole = self.whole if num_tokens == len(self.near) - 1 else self.reader.fresh(self.near[: num_tokens + 1])
        tried = sorted({cuts[len(cuts) // 4], cuts[len(cuts) * 3 // 4], max(num_tokens - 5, 1)})
        results = []
        for cut in tried:
            end = min(cut + 3, num_tokens)
            found = self.reader.fresh(self.near[: end + 1], range(cut, end))
            words = f"{cut} tokens and {end - cut} steps against {num_tokens} at once"
            results.append(self.reader.alike("pieces", found, whole[:end], words))
        return next((result for result in results if result.passed is False), results[-1])

    def far(self) -> CheckResult:
        """Forwards beyond the near text: the last, and others drawn at random, in pieces and with changed tokens."""
        start, ids, engine = len(self.near) - 1, self.text.long, self.engine
        if start == self.num_tokens:
            return not_applicable("far", f"{start} tokens were read in every way")
        if not reads_on(engine):
            return self._far_at_once()
        edges = [*range(start, self.num_tokens, engine.forward_len or start), self.num_tokens]
        spans = list(itertools.pairwise(edges))
        rng = np.random.default_rng(self.seed + 2)
        chosen = {len(spans) - 1, *rng.integers(0, len(spans), max(len(spans) // EXAMINED, 1)).tolist()}
        engine.reset(1, self.num_tokens)
        self.reader.read(self.near)
        for number, (begin, end) in enumerate(spans):
            if number not in chosen:
                self.reader.read(ids[begin : end + 1])
                continue
            failed = self._examine(begin, end)
            if failed is not None:
                return failed
        words = (
            f"forwards that end at {', '.join(str(spans[number][1]) for number in sorted(chosen))} tokens, three ways"
        )
        return CheckResult(name="far", passed=True, measured=0.0, limit=0.0, unit="count", explanation=words)

    def _examine(self, begin: int, end: int) -> CheckResult | None:
        """One forward at once, with changed tokens, and in pieces; the state is left at `end`."""
        ids = self.text.long[begin : end + 1]
        saved = self.engine.snapshot()
        whole = self.reader.read(ids)
        cut = max((end - begin) * 7 // 8, 1)

        def reading(changed: int) -> Nats:
            self.engine.restore(saved)
            return self.reader.read(ids, changed=changed)

        words = f"losses up to token {begin + cut} when only later tokens change"
        result = self.unmoved("far", reading, whole, words, cut=cut, begin=begin)
        if result.passed is False:
            return _looks_ahead(result)
        self.engine.restore(saved)
        cuts = draw_cuts(end - begin, windows=(), seed=self.seed + end)
        found = self.reader.read(ids, cuts)
        words = f"tokens {begin} to {end} in {len(cuts) + 1} pieces"
        ahead = self.reader.borders("far", found, whole, cuts, words)
        result = ahead or self.reader.alike("far", found, whole, f"{words} against at once", first=begin)
        return result if result.passed is False else None

    def _far_at_once(self) -> CheckResult:
        ids, cut = self.text.long, max(self.num_tokens - 7, 1)
        whole = self.reader.fresh(ids)
        words = f"losses of {self.num_tokens} tokens up to token {cut} when only later tokens change"
        result = self.unmoved("far", lambda changed: self.reader.fresh(ids, changed=changed), whole, words, cut=cut)
        return _looks_ahead(result) if result.passed is False else result

    def read_again(self) -> CheckResult:
        """The short text after the long one."""
        assert self._first is not None
        again = self.reader.fresh(self.text.short)
        words = f"losses of {SHORT} tokens after {self.num_tokens} others were read, and a reset"
        return self.reader.same("read_again", again, self._first, words)

    def state_growth(self) -> CheckResult:
        """Bytes of state after the short text and after the near one."""
        engine = self.engine
        if getattr(engine.model, "state_grows", True):
            return not_applicable("state_growth", "the architecture says that its state grows with context")
        small, large = self._small_bytes, self._near_bytes
        words = f"bytes of state added from {SHORT} to {len(self.near) - 1} tokens, where state_grows is false"
        return CheckResult(
            name="state_growth",
            passed=large <= small,
            measured=float(large - small),
            limit=0.0,
            unit="bytes",
            explanation=words,
        )


def reads_on(engine: Engine) -> bool:
    """Whether a piece costs what its tokens cost; else everything before it is read again, or token by token."""
    return engine.forward_len is not None


def _looks_ahead(result: CheckResult) -> CheckResult:
    return replace(result, passed=False, explanation=f"{result.explanation}: the model looks ahead")


def _decoded(engine: Engine, ids: Ids, *, rows: int = 1) -> Nats:
    """Losses of ids[1:], by single steps, ids[0] the first that is read; of the last row."""
    steps = [engine.decode(np.repeat(ids[place], rows)) for place in range(len(ids) - 1)]
    return _losses(torch.stack(steps, dim=1)[-1:], ids[None, 1:])[0]


def _losses(logits: torch.Tensor, targets: np.ndarray) -> np.ndarray:
    """Losses [B, T] of targets [B, T] under logits [B, T, V]."""
    wanted = torch.as_tensor(targets, device=logits.device)[..., None]
    return -logits.log_softmax(-1).gather(-1, wanted)[..., 0].cpu().double().numpy()
