"""An engine that adapts: `adapt(prompt)` is pass 1 and leaves the weights chosen, then the engine answers as ever.

with Switch(engine.model, experts, cache=DecompositionCache()) as switch:
    adapted = TwoPass(engine, switch, Dispatch(...))
    passed = adapted.adapt(prompt)         # pass 1: which experts, and how long that took
    adapted.engine.prefill(prompt[None])   # pass 2: any use of the engine
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from ttbench.adapt.strategies import Strategy
from ttbench.adapt.switch import Choice, Switch
from ttbench.engines.engine import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass1:
    """What pass 1 decided, and its cost."""

    choice: Choice  # expert -> share; empty: the base
    pass1_s: float  # wall seconds of the decision, switches made for it included
    switch_s: float  # wall seconds of putting the chosen weights in place; 0 when they were there


class TwoPass:
    """`engine` under experts that `strategy` chooses."""

    def __init__(self, engine: Engine, switch: Switch, strategy: Strategy) -> None:
        self.engine, self.switch, self.strategy = engine, switch, strategy

    def choose(self, prompt: Int[np.ndarray, "T"]) -> Pass1:
        """Pass 1 without its consequence: several prompts can be sorted before any weight is switched for them."""
        began = time.perf_counter()
        choice = self.strategy.choose(prompt)
        self.engine.synchronize()
        return Pass1(choice=choice, pass1_s=time.perf_counter() - began, switch_s=0.0)

    def adapt(self, prompt: Int[np.ndarray, "T"]) -> Pass1:
        """Pass 1 over the prompt's ids [T]; the engine's weights are those of the choice afterwards."""
        passed, before = self.choose(prompt), self.switch.switch_s
        self.switch.to(passed.choice)
        return Pass1(choice=passed.choice, pass1_s=passed.pass1_s, switch_s=self.switch.switch_s - before)
