"""Self-adaptation: what two passes over a prompt gain, and what they cost.

Transformer-squared (docs/transformer-squared.md). Experts of a library are put into the model's weights by one of the
strategies of `ttbench.adapt.strategies`; beside them stand the base and what a perfect dispatch would give.

    for each strategy                                     base, prompt, classifier, few-shot, oracle, reinforce, lora
      for each domain (a task: its items, one batch)       code, prose, recall, dna, other
        learn      few-shot only: CEM on `shots` held-out items of the valid split
        pass 1     every prompt: which experts? the answers are not there
        switch     once per choice that came up: weights are composed, never per token
        pass 2     every prompt again, with its answer beside it, under its choice

Measured: nats, likeliest tokens hit and answers wholly right, by domain; which expert each prompt was sent to; wall
seconds of pass 1 (learning and the switches that it makes included), of pass 2 and of the switches between them; peak
resident memory of a strategy above what was resident before it, the model loaded and a batch read; bytes held beside
the model.
`oracle`, `reinforce` and `lora` are told the domain: SVF experts by next-token prediction (or from elsewhere), by
REINFORCE, and LoRA.

Not measured: writing answers (an answer is right when each of its tokens is the likeliest after the true ones before
it, which is when greedy writing gives it), seconds to train experts (in their cards), energy. Statistic: shares and
bits by items, clustered by document; seconds by rounds, fresh processes. Warm-up: the base reads one batch, unclocked.
Traps: answers scored with what adaptation saw (splits are disjoint by construction); a dispatch that switches weights
for every prompt of a mixed stream (here prompts come sorted by domain, as in the paper); decompositions from a warm
cache, which `decompose_s` and `num_decomposed` tell; an earlier strategy's weights left behind (the switch restores the
base), or its freed memory, which would count as the next one's (it is given back first).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ttbench.adapt.domains import DOMAINS, Domain, Item, data_digest, draw_items, read_domains
from ttbench.adapt.experts import DISPATCH, OTHER, UNKNOWN, Expert, find_library, library_digest, read_library
from ttbench.errors import UnknownNameError, UnsupportedError, UsageError
from ttbench.machine import measure
from ttbench.tasks.adapt.adapt_metrics import METRICS
from ttbench.tasks.base import Bench, Task, columns
from ttbench.tasks.ends import prompt_ends
from ttbench.types import ColumnType, Metric, Sample, digest

if TYPE_CHECKING:
    from ttbench.adapt.strategies import Strategy
    from ttbench.adapt.switch import Choice, Switch

STRATEGIES = ("base", "prompt", "classifier", "few-shot", "oracle", "reinforce", "lora")
# What a strategy is told or not, and whose experts it uses: (method, objective).
_KINDS = {"reinforce": ("svf", "reinforce"), "lora": ("lora", "next-token")}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptParams:
    """Parameters of the adapt task."""

    strategies: str = ",".join(STRATEGIES)
    experts: str = "transformer"  # library: a name that `ttbench list experts` shows, or a folder
    domains: str = "code,prose,recall,dna,other"
    limit: int = 16  # items of each domain that are scored
    answer_tokens: int = 64  # tokens that are scored, of domains that continue a text
    shots: int = 10  # few-shot: held-out items that it looks at, of each domain
    population: int = 8  # few-shot: candidates of a generation
    elites: int = 2  # few-shot: of them, to which the next is fitted
    iterations: int = 5  # few-shot: generations
    rounds: int = 3  # fresh processes
    inputs_digest: str = ""  # of the experts' files and all texts; filled in by the plan


class Adapt(Task):
    """Gain and cost of experts by strategy; see the module's docstring."""

    name: ClassVar[str] = "adapt"
    version: ClassVar[int] = 2
    Params: ClassVar[type[Any]] = AdaptParams
    columns: ClassVar[Mapping[str, ColumnType] | None] = columns(
        text="strategy domain item source phase method sent_to",
        whole=(
            "num_items num_exact num_hits num_tokens num_bytes num_dispatched_right num_prompts num_switches "
            "extra_peak_bytes held_bytes expert_params num_experts num_decomposed num_picked"
        ),
        real="nats pass1_s pass2_s switch_s decompose_s",
    )
    isolation: ClassVar[Literal["checkpoint", "cell"]] = "cell"
    needs_corpus: ClassVar[bool] = False
    default_ctx: ClassVar[str] = "256"
    default_checkpoints: ClassVar[tuple[str, ...] | None] = ("transformer",)
    metrics: ClassVar[tuple[Metric, ...]] = METRICS

    def num_rounds(self, params: AdaptParams) -> int:
        return params.rounds

    def check(self, params: AdaptParams) -> None:
        """Raise UsageError on names or counts that mean nothing."""
        read_strategies(params.strategies)
        read_domains(params.domains)
        for name in ("limit", "answer_tokens", "shots", "population", "elites", "iterations", "rounds"):
            if getattr(params, name) < 1:
                raise UsageError(f"adapt parameter {name} is {getattr(params, name)}; it must be at least 1")
        if params.elites > params.population:
            raise UsageError(f"adapt parameter elites is {params.elites}, more than population {params.population}")

    def settle(self, params: AdaptParams, context_lens: tuple[int, ...]) -> AdaptParams:
        """Experts and texts enter the identity of a cell by their content."""
        return dataclasses.replace(params, inputs_digest=_inputs_digest(params))

    def tokens(self, params: AdaptParams, context_len: int) -> int:
        """Prompts read once for each strategy and again for each label of a dispatch, and those of CEM."""
        num_items = params.limit * len(read_domains(params.domains))
        strategies = read_strategies(params.strategies)
        passes = len(strategies) + sum(name in ("prompt", "classifier") for name in strategies)
        searched = params.population * params.iterations * params.shots * len(read_domains(params.domains))
        return context_len * (num_items * passes + ("few-shot" in strategies) * searched)

    def measure(self, bench: Bench) -> Iterator[Sample]:
        """Yield the samples of every strategy.

        Raises:
            UnsupportedError: the experts belong to another base, or the model has no tokenizer.
            TooShortError: no document is as long as the context.
            UsageError: the experts have changed since the plan.
        """
        params: AdaptParams = self.Params(**bench.cell.params)
        self.check(params)
        if _inputs_digest(params) != params.inputs_digest:
            raise UsageError(f"the experts in '{params.experts}' or the texts changed since the plan; run it again")
        experts = read_library(find_library(params.experts))
        _require_base(experts, bench)
        run = Run(bench, params, experts)
        strategies = read_strategies(params.strategies)
        for done, name in enumerate(strategies):
            yield from run.strategy(name)
            bench.progress(done + 1, len(strategies))


def read_strategies(text: str) -> tuple[str, ...]:
    """Strategies by a comma-separated list, each once. Raises UnknownNameError."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in STRATEGIES:
            raise UnknownNameError("strategy", name, known=STRATEGIES)
    return names


def _inputs_digest(params: AdaptParams) -> str:
    return digest(f"{library_digest(find_library(params.experts))}\n{data_digest()}")


def _require_base(experts: Sequence[Expert], bench: Bench) -> None:
    checkpoint = bench.cell.checkpoint
    for expert in experts:
        if expert.base_digest not in (None, checkpoint.weights_digest):
            raise UnsupportedError(
                f"expert '{expert.name}' was trained over other weights ('{expert.base}') than those of "
                f"'{checkpoint.name}'; train some with: ttbench train-experts --checkpoint {checkpoint.name} "
                "--out DIR, and name DIR in a suite: params: {experts: DIR}"
            )


class Run:
    """One cell: its engine, items and experts."""

    def __init__(self, bench: Bench, params: AdaptParams, experts: Sequence[Expert]) -> None:
        # Late: torch, which a plan does without.
        from ttbench.adapt.decompositions import DecompositionCache
        from ttbench.adapt.item_answers import read_answers

        self.bench, self.params, self.read_answers = bench, params, read_answers
        self.domains = read_domains(params.domains)
        self.items = {domain.name: self._draw(domain, "test", params.limit) for domain in self.domains}
        self.by_kind: dict[tuple[str, str], dict[str, Expert]] = {}
        for expert in experts:
            if expert.domain not in (*DOMAINS, DISPATCH):
                raise UnknownNameError("domain", expert.domain, known=DOMAINS, where=f"expert '{expert.name}'")
            # Experts from elsewhere do not say how they were trained: they stand where the shelf's own would.
            objective = "next-token" if expert.objective == UNKNOWN else expert.objective
            held = self.by_kind.setdefault((expert.method, objective), {})
            if expert.domain in held:
                raise UsageError(f"experts '{held[expert.domain].name}' and '{expert.name}' are for the same domain")
            held[expert.domain] = expert
        self.cache = DecompositionCache()
        self.engine = bench.engine
        self.read_answers(self.engine, next(iter(self.items.values()))[: bench.cell.batch_size])

    def _draw(self, domain: Domain, split: str, count: int) -> list[Item]:
        return draw_items(
            domain,
            self.bench.tokenizer,
            seed=self.bench.cell.seed,
            split=split,
            count=count,
            context_len=self.bench.cell.context_len,
            answer_tokens=self.params.answer_tokens,
        )

    def strategy(self, name: str) -> Iterator[Sample]:
        """Samples of one strategy: by item, by domain, and its memory."""
        from ttbench.adapt.switch import Switch

        used = self._experts(name)
        # What the strategy before left behind is not this one's.
        measure.release_freed()
        before, reset = measure.rss(), measure.reset_peak_rss()
        with Switch(self.engine.model, used.values(), cache=self.cache) as switch:
            for domain in self.domains:
                yield from self._domain(name, domain, used, switch)
            peak = measure.peak_rss()
            yield Sample(
                keys={"phase": "memory", "strategy": name, "method": measure.peak_rss_method()},
                values={
                    "extra_peak_bytes": max(0, peak - before) if reset else None,
                    "held_bytes": switch.held_bytes,
                    "expert_params": max((expert.num_params for expert in used.values()), default=0),
                    "num_experts": len(used),
                    "decompose_s": switch.decompose_s,
                    "num_decomposed": switch.num_decomposed,
                },
            )

    def _experts(self, name: str) -> dict[str, Expert]:
        """The experts that a strategy may use, by domain. Raises UnsupportedError when there are none."""
        if name == "base":
            return {}
        method, objective = _KINDS.get(name, ("svf", "next-token"))
        held = self.by_kind.get((method, objective), {})
        if name == "classifier" and DISPATCH not in held:
            raise UnsupportedError(f"'{self.params.experts}' has no expert for '{DISPATCH}', which classifier needs")
        held = {domain: expert for domain, expert in held.items() if domain != DISPATCH or name == "classifier"}
        if not held:
            raise UnsupportedError(
                f"'{self.params.experts}' has no {method} experts by {objective}, which {name} needs"
            )
        return held

    def _strategy(self, name: str, domain: str, used: Mapping[str, Expert], switch: Switch) -> Strategy:
        from ttbench.adapt.cem import CemSettings
        from ttbench.adapt.strategies import Dispatch, FewShot, Fixed

        names = {each: expert.name for each, expert in used.items() if each != DISPATCH}
        if name in ("prompt", "classifier"):
            classifier = used[DISPATCH].name if name == "classifier" else None
            return Dispatch(self.engine, switch, self.bench.tokenizer, experts=names, classifier=classifier)
        if name == "few-shot":
            settings = CemSettings(
                population=self.params.population, elites=self.params.elites, iterations=self.params.iterations
            )
            return FewShot(
                self.engine, switch, experts=list(names.values()), settings=settings, seed=self.bench.cell.seed
            )
        return Fixed({names[domain]: 1.0} if domain in names else {})

    def _domain(self, name: str, domain: Domain, used: Mapping[str, Expert], switch: Switch) -> Iterator[Sample]:
        from ttbench.adapt.two_pass import TwoPass

        items = self.items[domain.name]
        switch.restore()
        strategy = self._strategy(name, domain.name, used, switch)
        held_out = self._draw(domain, "valid", self.params.shots) if name == "few-shot" else []
        adapted = TwoPass(self.engine, switch, strategy)
        began = time.perf_counter()
        strategy.learn(held_out)
        pass1_s = time.perf_counter() - began
        passed = [adapted.choose(item.prompt) for item in items]
        pass1_s += sum(each.pass1_s for each in passed)
        switches, switch_s, pass2_s = switch.num_switches, switch.switch_s, 0.0
        size = self.bench.cell.batch_size
        found: dict[str, Any] = {}
        for choice, mine in _by_choice(items, [each.choice for each in passed]):
            switch.to(choice)
            began = time.perf_counter()
            for at in range(0, len(mine), size):
                batch = mine[at : at + size]
                found |= zip((item.name for item in batch), self.read_answers(self.engine, batch), strict=True)
            self.engine.synchronize()
            pass2_s += time.perf_counter() - began
        for item, each in zip(items, passed, strict=True):
            shown = prompt_ends(item.prompt, self.bench.tokenizer)
            yield from _item_samples(name, item, found[item.name], each.choice, used, shown)
        adapts = name in ("prompt", "classifier", "few-shot")
        yield Sample(
            keys={"phase": "passes", "strategy": name, "domain": domain.name},
            values={
                "num_prompts": len(items),
                "pass1_s": pass1_s if adapts else None,
                "pass2_s": pass2_s,
                "switch_s": switch.switch_s - switch_s if switch.num_switches > switches else None,
                "num_switches": switch.num_switches - switches,
            },
        )


def _by_choice(items: Sequence[Item], choices: Sequence[Choice]) -> Iterator[tuple[Choice, list[Item]]]:
    """Items of equal choice together, in order of first appearance: one switch each."""
    groups: dict[tuple[tuple[str, float], ...], list[Item]] = {}
    for item, choice in zip(items, choices, strict=True):
        groups.setdefault(tuple(sorted(choice.items())), []).append(item)
    for key, mine in groups.items():
        yield dict(key), mine


def _item_samples(
    strategy: str,
    item: Item,
    answer: Any,
    choice: Choice,
    used: Mapping[str, Expert],
    shown: Mapping[str, Any],
) -> Iterator[Sample]:
    """The item's score; and for a dispatch one sample per label, picked or not: the rows of a confusion matrix."""
    keys = {"strategy": strategy, "domain": item.domain, "item": item.name, "source": item.source}
    domains = {expert.name: domain for domain, expert in used.items() if domain != DISPATCH}
    picked = next((domains[name] for name in choice), OTHER) if strategy in ("prompt", "classifier") else None
    right = item.domain if item.domain in domains.values() else OTHER
    yield Sample(
        keys={**keys, "phase": "item"},
        values={
            "num_items": 1,
            "num_exact": int(answer.exact),
            "num_hits": answer.num_hits,
            "num_tokens": answer.num_tokens,
            "num_bytes": item.answer_bytes,
            "nats": answer.nats,
            "num_dispatched_right": None if picked is None else int(picked == right),
        },
        evidence={
            **shown,
            "choice": dict(choice),
            "prompt_tokens": len(item.prompt),
            "answer": item.answer.tolist(),
        },
    )
    if picked is not None:
        for label in [*domains.values(), OTHER]:
            yield Sample(
                keys={**keys, "phase": "dispatch", "sent_to": label},
                values={"num_items": 1, "num_picked": int(picked == label)},
            )
