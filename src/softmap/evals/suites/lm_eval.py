"""Any task of EleutherAI's language-model evaluation harness, run by the harness itself."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from softmap.errors import SoftmapError, nearest, reason
from softmap.evals.question import Metric, Picture, Row, Setting, Suite
from softmap.evals.subject import Subject
from softmap.extras import need

_SHARES = ("acc", "acc_norm", "exact_match", "em", "f1", "contains")


@dataclass(frozen=True)
class LmEval(Suite):
    """lm_eval:TASK,TASK runs tasks of the harness (log-likelihood and generation) with their own
    prompts, shots and metrics; --include FOLDER adds your own tasks. An instance is a document
    of a task. The headline is the mean over all documents of the tasks' first metric.
    """

    tasks: tuple[str, ...] = ()
    limit: int | None = None
    batch: int = 8

    name = "lm_eval"
    title = "Tasks of lm-evaluation-harness"
    asks = "How does the model do on public benchmarks?"
    reads_tokens = True
    metrics = (
        Metric("score", "First metric of each task", "", "higher", 0.02),
        Metric("other", "Further metrics", "", "", 0.02),
    )
    pictures = (Picture("score", "task", "Task"),)

    @classmethod
    def of(cls, argument: str) -> Suite:
        """Returns the suite with these tasks, joined by commas."""
        return cls(tuple(name for name in argument.split(",") if name))

    def quick(self) -> Suite:
        """Returns the same suite with fewer and smaller instances."""
        return dataclasses.replace(self, limit=8)

    def check(self, subject: Subject, setting: Setting) -> None:
        """Raises ``SoftmapError`` where the harness is missing, or does not know a task."""
        super().check(subject, setting)
        need("suite lm_eval", "lm_eval")
        if not self.tasks:
            raise SoftmapError("suite lm_eval: expected lm_eval:TASK[,TASK], found no task")
        known = _manager(setting.include, self.tasks).all_tasks
        for name in self.tasks:
            if name not in known:
                raise SoftmapError(f"suite lm_eval: no task {name!r}{nearest(name, known)}")

    def rows(self, subject: Subject, setting: Setting) -> Iterator[Row]:
        """Yields a row for each document of a task and each of its metrics."""
        samples = self._samples(subject, setting)
        for number, (task, documents) in enumerate(sorted(samples.items())):
            seen: set[tuple[int, str]] = set()
            for document in documents:
                item = number * 10**7 + int(document["doc_id"])
                scores = _numbers(document)
                for place, (metric, value) in enumerate(scores.items()):
                    if (item, metric) in seen:  # a second filter of the same answers
                        continue
                    seen.add((item, metric))
                    at = {"task": task} if place == 0 else {"task": f"{task}: {metric}"}
                    name = "score" if place == 0 else "other"
                    yield {"measure": name, "item": item, "value": value, **at}

    def _samples(self, subject: Subject, setting: Setting) -> Mapping[str, list[dict[str, Any]]]:
        """Returns the harness's findings, by task and document."""
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        for name in ("lm_eval", "lm-eval"):
            logging.getLogger(name).setLevel(logging.ERROR)
        tokenizer = subject.tokenizer.hf
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        try:
            model = HFLM(
                pretrained=subject.model, tokenizer=tokenizer, batch_size=self.batch,
                max_length=setting.context, device=str(subject.device),
            )  # fmt: skip
            found: Any = lm_eval.simple_evaluate(
                model=model, tasks=list(self.tasks), limit=self.limit, log_samples=True,
                task_manager=_manager(setting.include, self.tasks), bootstrap_iters=0,
                verbosity="ERROR",
                random_seed=setting.seed, numpy_random_seed=setting.seed,
                torch_random_seed=setting.seed, fewshot_random_seed=setting.seed,
            )  # fmt: skip
        except SoftmapError:
            raise
        except Exception as error:  # the harness's, the data sets' or the network's own
            raise SoftmapError(f"suite lm_eval: the harness failed: {reason(error)}") from error
        samples: Mapping[str, list[dict[str, Any]]] = found["samples"]
        return samples


def _numbers(document: Mapping[str, Any]) -> dict[str, float]:
    """Returns the metrics of one document that are numbers, accuracies first."""
    found = {}
    for metric in document.get("metrics", []):
        value = document.get(metric)
        if isinstance(value, bool | int | float):
            found[metric] = float(value)
    order = sorted(found, key=lambda name: (name not in _SHARES, list(found).index(name)))
    return {name: found[name] for name in order}


@functools.lru_cache(maxsize=4)
def _manager(include: str | None, tasks: tuple[str, ...]) -> Any:
    """Returns the harness's index of tasks; of the folder alone where it has all of the tasks.

    Reading the index of the whole harness takes half a minute.
    """
    from lm_eval.tasks import TaskManager

    if include is not None:
        own = TaskManager(include_path=include, include_defaults=False)
        if set(tasks) <= set(own.all_tasks):
            return own
    return TaskManager(include_path=include)


SUITE = LmEval
