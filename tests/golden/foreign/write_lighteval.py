# pyright: reportMissingImports=false
"""Let lighteval write its details of a small task under its dummy model: python write_lighteval.py DIR SEED.

The dummy model gives random likelihoods and the same answer to every question; the seed is the model's.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

NUM_DOCS = 24
TASK = """
from lighteval.metrics.metrics import Metrics
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc


def prompt(line, task_name=None):
    return Doc(task_name=task_name, query=line["question"], choices=["red", "green", "blue"], gold_index=line["answer"])


TASKS_TABLE = [
    LightevalTaskConfig(
        name="colours",
        prompt_function=prompt,
        hf_repo="{data}",
        hf_subset="default",
        hf_avail_splits=["test"],
        evaluation_splits=["test"],
        metrics=[Metrics.loglikelihood_acc],
    )
]
"""


def lay_task(folder: Path) -> Path:
    rng = random.Random("colours")
    data = folder / "data"
    data.mkdir(parents=True)
    docs = [
        {"question": f"colours {number}: {rng.random():.3f}", "answer": rng.randrange(3)} for number in range(NUM_DOCS)
    ]
    (data / "test.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    file = folder / "colours_task.py"
    file.write_text(TASK.replace("{data}", str(data)))
    return file


if __name__ == "__main__":
    from lighteval.logging.evaluation_tracker import EvaluationTracker
    from lighteval.models.dummy.dummy_model import DummyModelConfig
    from lighteval.pipeline import ParallelismManager, Pipeline, PipelineParameters
    from lighteval.tasks.registry import Registry

    # lighteval's own tasks ask the hub when they are imported; the one here is not among them
    Registry._load_from_files = staticmethod(lambda *places, **options: {})
    Registry._load_from_subdirs = staticmethod(lambda *places, **options: {})
    target, seed = Path(sys.argv[1]), int(sys.argv[2])
    file = lay_task(target / "task")
    pipeline = Pipeline(
        tasks="colours|0",
        pipeline_parameters=PipelineParameters(launcher_type=ParallelismManager.NONE, custom_tasks_directory=str(file)),
        evaluation_tracker=EvaluationTracker(output_dir=str(target), save_details=True),
        model_config=DummyModelConfig(seed=seed),
    )
    pipeline.evaluate()
    pipeline.save_and_push_results()
