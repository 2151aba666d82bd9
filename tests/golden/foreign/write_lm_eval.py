"""Let lm-eval write its logs of three small tasks under a model that guesses: python write_lm_eval.py DIR SEED.

The tasks are made up: a choice among three, an answer in words, and a text whose likelihood is asked.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

NUM_DOCS = 24
TASKS = {
    "colours": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": ["red", "green", "blue"],
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}],
    },
    "sums": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
    "tales": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
    },
}


def lay_tasks(folder: Path) -> Path:
    """Tasks and their data, as lm-eval reads them."""
    import yaml

    folder.mkdir(parents=True)
    for name, task in TASKS.items():
        rng = random.Random(name)
        docs = [
            {
                "question": f"{name} {number}: {' '.join(rng.choices(['one', 'two', 'three'], k=4 + number % 5))}",
                "answer": rng.randrange(3) if name == "colours" else str(rng.randrange(3)),
            }
            for number in range(NUM_DOCS)
        ]
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(doc) + "\n" for doc in docs), encoding="utf-8")
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
        text = yaml.safe_dump({"task": name, **source, **task, "metadata": {"version": 1}})
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def write(out: Path, *, seed: int, tasks: Path, name: str) -> None:
    """Run lm-eval over the tasks and let it save results and samples below `out`."""
    from lm_eval import evaluator
    from lm_eval.api.model import LM
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    class Guess(LM):
        """Answers at random, and finds longer texts less likely."""

        def __init__(self) -> None:
            super().__init__()
            self.rng = random.Random(seed)

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return [(-self.rng.random(), False) for _ in requests]

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            return [-len(request.args[0]) * (1 + 0.2 * self.rng.random() + 0.3 * seed) for request in requests]

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return [str(self.rng.randrange(3)) for _ in requests]

    tracker: Any = EvaluationTracker(output_path=str(out))
    tracker.general_config_tracker.log_experiment_args(
        model_source="guess",
        model_args=f"pretrained={name}",
        system_instruction="",
        chat_template="",
        fewshot_as_multiturn=False,
    )
    evaluate: Any = evaluator.simple_evaluate
    found = evaluate(
        Guess(),
        tasks=list(TASKS),
        task_manager=TaskManager(include_defaults=False, include_path=str(tasks)),
        log_samples=True,
        bootstrap_iters=0,
    )
    assert found is not None
    samples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=samples)
    for task, mine in samples.items():
        tracker.save_results_samples(task_name=task, samples=mine)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write(target, seed=int(sys.argv[2]), tasks=lay_tasks(target / "tasks"), name=f"guess-{sys.argv[2]}")
