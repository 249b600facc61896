"""Asks every model every question, and collects the answers."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import softmap
from softmap.errors import SoftmapError, nearest_or_all
from softmap.evals.catalogue import suite as suite_of
from softmap.evals.question import Row, Setting, Suite
from softmap.evals.subject import LONGEST, Subject
from softmap.evals.summary import answers
from softmap.lab import machine
from softmap.lab.asking import models as named
from softmap.lab.asking.models import ModelFolder
from softmap.lab.preflight import choose_device
from softmap.report.questions import compared

FORMAT = 1
Tell = Callable[[str], None]


@dataclass(frozen=True)
class EvalRequest:
    """The command's values: which suites are asked of which models, and how."""

    models: Sequence[str | ModelFolder]
    suites: Sequence[str]
    variants: Sequence[str] = ()
    control: str | None = None
    quick: bool = False
    context: int | None = None
    seed: int = 0
    data: str | None = None
    field: str | None = None
    device: str = "auto"
    precision: str = "fp32"
    include: str | None = None
    judge: Any = None
    trust_remote_code: bool = False
    command: str | None = None
    cache: Path = Path("runs/.cache")


def ask(asked: EvalRequest, tell: Tell = lambda _: None) -> dict[str, Any]:
    """Returns all answers as one object for JSON.

    Every model is checked before the first question, so that errors come at once. Raises
    ``SoftmapError`` for what cannot be asked, for unknown suites, and for models that do not load.
    """
    suites = [suite_of(name) for name in asked.suites]
    suites = [suite.quick() if asked.quick else suite for suite in suites]
    if not suites:
        raise SoftmapError("--suite: expected one or more names, found none")
    models = named.find(asked.models, asked.variants)
    labels = named.label_order(models)
    control = _control(asked.control, labels)
    setting = _setting(asked, suites, models, tell)
    rows: dict[tuple[str, ModelFolder], list[Row]] = {}
    seconds: dict[str, float] = defaultdict(float)
    for model in models:
        subject = _loaded(model, asked)
        for name, suite in zip(asked.suites, suites, strict=True):
            started = time.monotonic()
            rows[name, model] = _answers(suite, subject, setting, tell)
            seconds[name] += time.monotonic() - started
        del subject
        gc.collect()
    device = choose_device(asked.device)
    return {
        "format": FORMAT,
        "softmap": softmap.__version__,
        "command": asked.command,
        **machine.provenance(device),
        "control": control,
        "labels": [control, *(label for label in labels if label != control)],
        "models": [_described(model) for model in models],
        "setting": {
            "context": setting.context, "vocabulary": setting.vocabulary, "seed": setting.seed,
            "text": setting.text.source if setting.text else None, "quick": asked.quick,
            "precision": asked.precision,
        },
        "suites": {
            name: _suite_facts(suite, name, models, rows, control) | {"seconds": seconds[name]}
            for name, suite in zip(asked.suites, suites, strict=True)
        },
    }  # fmt: skip


def _answers(suite: Suite, subject: Subject, setting: Setting, tell: Tell) -> list[Row]:
    tell(f"{suite.name}: {subject.name}")
    found: list[Row] = []
    last = time.monotonic()
    for one in suite.rows(subject, setting):
        found.append(one)
        if time.monotonic() - last > 10:
            last = time.monotonic()
            tell(f"{suite.name}: {subject.name}: {len(found):,} answers")
    return found


def _suite_facts(
    suite: Suite,
    name: str,
    models: Sequence[ModelFolder],
    rows: dict[tuple[str, ModelFolder], list[Row]],
    control: str,
) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for model in models:
        found[model.label][model.run] = answers(suite, rows[name, model])
    told = suite.described()
    return told | {
        "cells": compared(told, found, control),
        "rows": {model.name: rows[name, model] for model in models},
    }


def _setting(
    asked: EvalRequest, suites: Sequence[Suite], models: Sequence[ModelFolder], tell: Tell
) -> Setting:
    """Returns what all models share: the shortest context, the smallest vocabulary, one text."""
    text = None
    if any(suite.reads_text for suite in suites):
        text = named.text_of(models, asked.data, asked.field, asked.cache)
    setting = Setting(
        context=0, vocabulary=0, seed=asked.seed, text=text, judge=asked.judge,
        include=asked.include, tell=tell,
    )  # fmt: skip
    sizes = []
    for model in models:
        subject = _loaded(model, asked)
        own = asked.context or min(subject.context, LONGEST)
        sizes.append((own, subject.vocabulary))
        for suite in suites:
            suite.check(subject, replace(setting, context=own, vocabulary=subject.vocabulary))
    return replace(setting, context=min(c for c, _ in sizes), vocabulary=min(v for _, v in sizes))


def _loaded(model: ModelFolder, asked: EvalRequest) -> Subject:
    subject = named.load(
        model, trust_remote_code=asked.trust_remote_code, precision=asked.precision
    )
    device = choose_device(asked.device)
    subject.model.to(device)
    subject.device = device
    return subject


def _control(given: str | None, labels: Sequence[str]) -> str:
    if given is None:
        return labels[0]
    if given not in labels:
        raise SoftmapError(f"--control: no model {given!r}{nearest_or_all(given, labels)}")
    return given


def _described(model: ModelFolder) -> dict[str, Any]:
    return {"label": model.label, "run": model.run, "folder": str(model.folder)}
