"""A comparison from end to end: what it leaves, how it goes on, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import lab_tiny
import numpy as np
import pytest
from safetensors.numpy import load_file

from softmap.data import order
from softmap.errors import SoftmapError
from softmap.lab import compare as compares
from softmap.lab import page as pages
from softmap.lab import recipe as recipes
from softmap.lab import session as sessions
from softmap.lab import trial
from softmap.lab.compare import Request, compare
from softmap.lab.interrupts import Interrupted
from softmap.lab.progress import Display
from softmap.lab.recipe import Entry, Recipe
from softmap.lab.trial import Trial


def result(run: Path, variant: str, seed: int = 0) -> dict:
    return json.loads((run / "variants" / variant / f"seed{seed}" / "result.json").read_text())


class StopAt(Display):
    """Sends this process a signal at a step of a variant."""

    def __init__(self, label: str, step: int, number: int) -> None:
        super().__init__()
        self.at, self.number = (label, step), number

    def step(self, label: str, seed: int, metrics: dict) -> None:
        super().step(label, seed, metrics)
        if (label, metrics["step"]) == self.at:
            os.kill(os.getpid(), self.number)


def test_a_run_is_all_there(finished: Path) -> None:
    run = json.loads((finished / "run.json").read_text())
    assert run["variants"] == ["transformer++", "diff"] and run["control"] == "transformer++"
    assert run["training"]["budgets_tokens"] == [192, 384, 768]
    assert len(run["passage"]["tokens"]) == 12
    assert "".join(run["passage"]["tokens"]) == run["passage"]["text"]
    assert (finished / "report.html").stat().st_size > 10_000
    assert not list(finished.rglob("*.tmp")) and not list(finished.rglob("checkpoints"))


@pytest.mark.parametrize(("slug", "heads"), [("transformerpp", 2), ("diff", 1)])
def test_results_agree_with_their_files(finished: Path, slug: str, heads: int) -> None:
    found, folder = result(finished, slug), finished / "variants" / slug / "seed0"
    assert [b["tokens"] for b in found["budgets"]] == [192, 384, 768]
    for budget in found["budgets"]:
        losses = np.load(folder / budget["file"])["losses"]
        assert losses.shape == (8, 32) and losses.dtype == np.float32
        assert budget["loss"] == pytest.approx(losses.mean(dtype=np.float64))
        assert budget["flops"] == budget["tokens"] * found["flops_per_token"]
    assert found["budgets"][-1]["loss"] < found["budgets"][0]["loss"]
    assert np.load(folder / "maps.npz")["maps"].shape == (2, heads, 12, 12)
    stored = sum(w.size for w in load_file(folder / "model" / "model.safetensors").values())
    assert found["parameters"] == stored
    assert found["tokens_per_second"] > 0 and found["peak_memory_bytes"] > 0
    assert found["backbone"] == {}
    assert found["impl"] in ("folded", "native")  # diff has a kernel where a compiler is at hand


def test_the_recorded_recipe_repeats_the_run(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "again.yaml"
    path.write_text(json.loads((finished / "run.json").read_text())["recipe"])
    original = recipes.load(finished.parents[1] / "tiny.yaml")
    assert recipes.load(path) == original


def test_variants_get_the_same_batches_seeds_get_others(
    tiny: Recipe, tmp_path: Path, no_page: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[tuple[str, int], dict[int, bytes]] = {}
    now = ("", 0)

    class Watch(Display):
        def start(self, label: str, seed: int) -> None:
            nonlocal now
            super().start(label, seed)
            now = (label, seed)

    real = order.batch

    def spy(*arguments: object, **named: Any) -> np.ndarray:
        batch = real(*arguments, **named)
        seen.setdefault(now, {})[named["step"]] = batch.tobytes()
        return batch

    monkeypatch.setattr(order, "batch", spy)
    compare(dataclasses.replace(tiny, seeds=[0, 1]), Request(tmp_path / "runs"), Watch())
    assert sorted(seen["diff", 0]) == list(range(12))
    assert seen["diff", 0] == seen["transformer++", 0]
    assert seen["diff", 1] == seen["transformer++", 1] != seen["diff", 0]


def test_interrupted_and_continued_equals_uninterrupted(
    tiny: Recipe, finished: Path, tmp_path: Path, no_page: None
) -> None:
    request = Request(tmp_path / "runs")
    with pytest.raises(Interrupted) as stop:
        compare(tiny, request, StopAt("diff", 8, signal.SIGTERM))
    assert stop.value.signal == signal.SIGTERM
    run = tmp_path / "runs" / "tiny"
    assert (run / "variants" / "transformerpp" / "seed0" / "result.json").exists()
    assert not (run / "variants" / "diff" / "seed0" / "result.json").exists()
    compare(tiny, request)
    for slug in ("transformerpp", "diff"):
        mine, theirs = result(run, slug), result(finished, slug)
        assert [b["loss"] for b in mine["budgets"]] == [b["loss"] for b in theirs["budgets"]]
        logs = [
            [json.loads(line)["loss"] for line in path.read_text().splitlines()]
            for path in (p / "variants" / slug / "seed0" / "train.jsonl" for p in (run, finished))
        ]
        assert logs[0] == logs[1]


def test_a_budget_of_another_trial_is_not_taken_over(finished: Path, tmp_path: Path) -> None:
    mine, theirs = (finished / "variants" / n / "seed0" for n in ("diff", "transformerpp"))
    marks = [result(finished, name)["fingerprint"] for name in ("diff", "transformerpp")]
    copy = Path(shutil.copytree(mine, tmp_path / "trial"))
    assert trial._budget(copy / "budget-1.json", marks[0])["file"] == "eval-1.npz"
    for name in ("budget-1.json", "eval-1.npz"):
        shutil.copy(theirs / name, copy)
        with pytest.raises(SoftmapError, match=r"found that of another|eval-1\.npz: expected"):
            trial._budget(copy / "budget-1.json", marks[0])
        shutil.copy(mine / name, copy)
    shutil.copy(mine / "budget-0.json", copy / "budget-1.json")
    with pytest.raises(SoftmapError, match=r"the budget of eval-1\.npz, found that of another"):
        trial._budget(copy / "budget-1.json", marks[0])


def test_an_interrupted_run_has_a_page(tiny: Recipe, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        compare(tiny, Request(tmp_path / "runs"), StopAt("diff", 2, signal.SIGINT))
    assert (tmp_path / "runs" / "tiny" / "report.html").exists()


@pytest.mark.slow
def test_what_is_finished_is_not_trained_again_and_stays_on_the_page(
    tiny: Recipe, tmp_path: Path, no_page: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(tmp_path / "runs")
    folder = compare(tiny, request).parent
    before = result(folder, "diff")
    trained: list[str] = []
    real = sessions.run_trial

    def spy(trial: Trial, *rest: object) -> dict:
        trained.append(trial.name)
        return real(trial, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(sessions, "run_trial", spy)
    compare(tiny, request)
    assert trained == []
    other = dataclasses.replace(tiny, variants=[Entry("transformer++"), Entry("gated")])
    compare(other, request)
    assert trained == ["gated seed 0"]
    run = json.loads((folder / "run.json").read_text())
    assert run["variants"] == ["transformer++", "gated", "diff"]
    assert result(folder, "diff") == before


def test_another_recipe_in_the_same_folder_is_refused_unless_fresh(
    tiny: Recipe, tmp_path: Path, no_page: None
) -> None:
    request = Request(tmp_path / "runs")
    folder = compare(dataclasses.replace(tiny, variants=tiny.variants[:1]), request).parent
    training = dataclasses.replace(tiny.training, weight_decay=0.2)
    other = dataclasses.replace(tiny, variants=tiny.variants[:1], training=training)
    with pytest.raises(SoftmapError, match=r"training.weight_decay was 0.1, is 0.2; --fresh"):
        compare(other, request)
    peaked = dataclasses.replace(tiny, variants=[Entry("transformer++", peak_lr=0.01)])
    with pytest.raises(SoftmapError, match=r"peak_lr was 0.003, is 0.01"):
        compare(peaked, request)
    compare(other, dataclasses.replace(request, fresh=True))
    settings = json.loads((folder / "run.json").read_text())["settings"]
    assert settings["training.weight_decay"] == 0.2


def test_changed_text_is_noticed(tiny: Recipe, tmp_path: Path, no_page: None) -> None:
    recipe = dataclasses.replace(tiny, variants=tiny.variants[:1])
    compare(recipe, Request(tmp_path / "runs"))
    (tmp_path / "text.txt").write_text("other text\n" * 3000)
    with pytest.raises(SoftmapError, match=r"holds another run: the text was .*: data was"):
        compare(recipe, Request(tmp_path / "runs"))


def test_other_peoples_files_are_left_alone(tiny: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "tiny"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").touch()
    with pytest.raises(SoftmapError, match=r"found 'thesis.tex'"):
        compare(tiny, Request(tmp_path / "runs", fresh=True))
    assert (folder / "thesis.tex").exists()


def test_bad_input_leaves_no_run_behind(tiny: Recipe, tmp_path: Path) -> None:
    for broken in (
        dataclasses.replace(tiny, variants=[Entry("dif")]),
        dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, data="nowhere.txt")),
        dataclasses.replace(tiny, training=dataclasses.replace(tiny.training, batch_size=9999)),
    ):
        with pytest.raises(SoftmapError):
            compare(broken, Request(tmp_path / "runs"))
        assert not (tmp_path / "runs" / "tiny").exists()


def test_it_runs_outside_of_the_main_thread(tiny: Recipe, tmp_path: Path, no_page: None) -> None:
    recipe = dataclasses.replace(tiny, variants=tiny.variants[:1])
    worker = threading.Thread(target=compare, args=(recipe, Request(tmp_path / "runs")))
    worker.start()
    worker.join()
    assert (tmp_path / "runs/tiny/variants/transformerpp/seed0/result.json").exists()


def test_speed_is_measured_before_training_so_that_every_page_has_it(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def build(folder: Path) -> Path:
        done.append("page")
        return folder / "report.html"

    monkeypatch.setattr("softmap.report.build", build)
    monkeypatch.setattr(compares, "measure_speed", lambda *_: done.append("speed"))
    recipe = dataclasses.replace(tiny, variants=tiny.variants[:1])
    compare(recipe, Request(tmp_path / "runs", speed=True))
    assert done == ["speed", "page"]


@pytest.mark.slow
def test_a_page_that_cannot_be_drawn_does_not_stop_the_training(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_folder: Path) -> Path:
        raise RuntimeError("no ink")

    monkeypatch.setattr("softmap.report.build", broken)
    display = lab_tiny.Notes()
    with pytest.raises(RuntimeError, match="no ink"):
        compare(tiny, Request(tmp_path / "runs"), display)
    assert len(list((tmp_path / "runs/tiny").rglob("result.json"))) == 2
    assert "the page could not be built yet: no ink" in display.said


def test_pages_take_little_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock, built = Clock(), []

    def build(folder: Path) -> Path:
        built.append(clock.now)
        clock.now += 2.0
        return folder

    monkeypatch.setattr(pages, "time", clock)
    monkeypatch.setattr("softmap.report.build", build)
    page = pages.Page(Path("run"), Display())
    for clock.now in (10.0, 20.0, 71.0, 73.0, 140.0):
        page.changed()
    assert built == [10.0, 73.0, 140.0]
    page.refresh()
    assert built == [10.0, 73.0, 140.0]
