# pyright: reportMissingImports=false
"""Let inspect_ai write logs of two small tasks under its mock model: python write_inspect.py DIR SEED.

The answers of the mock model (`mockllm/model`) are drawn at random.
"""

from __future__ import annotations

import random
import sys

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import Score, Target, match, mean, scorer, stderr
from inspect_ai.solver import TaskState, generate

NUM_DOCS = 24


@scorer(metrics=[mean(), stderr()])
def closeness():
    """Between 0 and 1: how near the answer is."""

    async def score(state: TaskState, target: Target) -> Score:
        far = abs(int(state.output.completion) - int(target.text))
        return Score(value=1 - far / 2)

    return score


def task(name: str, scorers: list) -> Task:
    rng = random.Random(name)
    docs = [
        Sample(id=number, input=f"{name} {number}: {rng.randrange(100)} modulo 3?", target=str(rng.randrange(3)))
        for number in range(NUM_DOCS)
    ]
    return Task(name=name, dataset=docs, solver=generate(), scorer=scorers)


if __name__ == "__main__":
    folder, seed = sys.argv[1], int(sys.argv[2])
    rng = random.Random(seed)
    tasks = [task("sums", [match()]), task("nearness", [match(), closeness()])]
    for each in tasks:
        answers = [ModelOutput.from_content("mockllm/model", str(rng.randrange(3))) for _ in range(NUM_DOCS)]
        for answer in answers:
            # else the mock model counts tokens with a tokenizer that it fetches
            answer.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        model = get_model("mockllm/model", custom_outputs=answers)
        eval(each, model=model, log_dir=folder, log_format="eval", display="none", max_connections=1)
