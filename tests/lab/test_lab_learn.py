"""``softmap learn``: what is trained, what is chosen, what is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lab_tiny
import numpy as np
import pytest
import torch

from softmap.cli import main
from softmap.errors import SoftmapError
from softmap.evals.suites.token_composition import _ANSWER, _THING, Composed, answer_table
from softmap.evals.suites.token_needles import TokenNeedle
from softmap.evals.suites.token_shots import TokenShot
from softmap.evals.tasks import IGNORED
from softmap.lab import learn as learning
from softmap.lab.jobs import best_peaks
from softmap.lab.learn import LearnRequest, batch, learn, learnable, task_suite

pytestmark = pytest.mark.slow

TINY = {"model.hidden_size": "16", "model.num_hidden_layers": "1", "model.num_attention_heads": "2",
        "training.batch_size": "4"}  # fmt: skip


def test_what_can_be_learned() -> None:
    assert learnable() == [
        "bigram", "mad", "recall", "token_composition", "token_needles", "token_shots",
    ]  # fmt: skip
    for short in ("needles", "composition", "shots"):
        assert task_suite(short) == task_suite(f"token_{short}")
    for name in learnable():
        mixture = task_suite(name).mixture()
        assert len({task.vocabulary for task in mixture}) == 1
    with pytest.raises(SoftmapError, match=r"no task 'recal' \(did you mean 'recall'"):
        task_suite("recal")


def test_batches_take_the_mixture_in_turn_and_ask_only_what_tasks_ask() -> None:
    mixture = (TokenNeedle(64, 1), TokenNeedle(128, 2))
    ids, labels = batch(mixture, seed=3, step=1, size=4, context=128)
    assert ids.shape == labels.shape == (4, 129)
    assert [int(row.max(0).indices) for row in labels] == [63, 127, 63, 127]
    assert ((labels == ids) | (labels == IGNORED)).all()
    again, _ = batch(mixture, seed=3, step=1, size=4, context=128)
    other, _ = batch(mixture, seed=3, step=2, size=4, context=128)
    assert torch.equal(ids, again) and not torch.equal(ids, other)


def test_a_shot_is_decided_by_its_ending_and_every_label_is_shown() -> None:
    for every in (False, True):
        ids, labels = TokenShot(3 * 13, every=every).batch(0, 0, 8)
        for row, asked in zip(ids.reshape(8, 13, 3), labels.reshape(8, 13, 3), strict=True):
            rule = dict(row[:, 1:].tolist())
            assert all(rule[int(ending)] == label for _, ending, label in row)
            assert set(row[:6, 2].tolist()) == set(range(6))
            at = np.flatnonzero((asked != IGNORED).any(1)).tolist()
            assert at == (list(range(6, 13)) if every else [12])
    other = TokenShot(3 * 13).batch(0, 1, 1)[0][0, 1::3]
    assert set(other.tolist()) != set(ids[0, 1::3].tolist())  # other endings, another rule


def test_a_needle_says_what_is_asked() -> None:
    for needles in (1, 16):
        ids, labels = TokenNeedle(128, needles).batch(0, 0, 8)
        for row, asked in zip(ids, labels, strict=True):
            assert np.flatnonzero(asked != IGNORED).tolist() == [127]
            marks = np.flatnonzero(row[:-3] == 0)
            assert len(marks) == needles
            found = {int(row[m + 1]): int(row[m + 2]) for m in marks}
            assert found[int(row[-2])] == row[-1] and len(found) == needles


@pytest.mark.parametrize("seen", [True, False])
def test_answers_follow_from_facts_and_transforms(seen: bool) -> None:
    ids, labels = Composed(seen=seen).batch(0, 0, 4)
    for row, asked in zip(ids, labels, strict=True):
        facts = {(r, owner): thing for r, owner, thing in row[:36].reshape(-1, 3).tolist()}
        assert len(facts) == 12
        for r, t, owner, answer in row[36:].reshape(-1, 4).tolist():
            assert (r != t - 3) is seen  # pairs of one number are held out of training
            assert answer == answer_table()[t - 3, facts[r, owner] - _THING] >= _ANSWER
        assert np.flatnonzero(asked != IGNORED).tolist() == list(range(39, 72, 4))


class Point:
    """A training of a label at a peak."""

    def __init__(self, label: str, peak_lr: float) -> None:
        self.label, self.peak_lr = label, peak_lr


def outcome(label: str, *losses: float | None) -> dict[Any, dict[str, Any]]:
    """What came out at the peaks 1, 2, ..."""
    return {Point(label, n): {"loss": loss} for n, loss in enumerate(losses, 1)}


def test_each_variant_takes_its_own_best_peak() -> None:
    results = outcome("a", 2.0, 1.0, None) | outcome("b", 0.5, 0.6)
    assert best_peaks(list(results), results, lambda _: None) == {"a": 2, "b": 1}
    assert best_peaks(list(results)[:1], {}, lambda _: None) == {"a": 1}
    results = outcome("a", None, None)
    with pytest.raises(SoftmapError, match="a diverged at every peak"):
        best_peaks(list(results), results, lambda _: None)


def test_points_of_the_decays_are_kept_where_the_task_asks_for_them(tmp_path: Path) -> None:
    request = LearnRequest(
        "bigram", seeds=1, peaks=[1e-3], steps=12, settings=TINY, jobs=1, quick=True,
    )  # fmt: skip
    found = learn(request, tmp_path / "learned")
    cells = found["suites"]["bigram"]["cells"]
    phases = {cell["at"]["phase"] for cell in cells if cell["at"] and "phase" in cell["at"]}
    assert phases == {f"{n} {phase}" for n in (1, 2, 3) for phase in ("before", "after")}
    heads = {cell["measure"] for cell in cells if cell["at"] is None}
    assert heads == {"excess", "loss", "fall", "curvature", "through"}


def test_what_is_trained_is_asked_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = LearnRequest(
        "token_composition", ["diff"], seeds=1, peaks=[1e-3, 1e-2], steps=2, settings=TINY, jobs=1,
        quick=True,
    )  # fmt: skip
    display = lab_tiny.Notes()
    found = learn(request, tmp_path / "learned", display)
    assert found["labels"] == ["transformer++", "diff"]
    assert set(found["peaks"]) == {"transformer++", "diff"} and found["diverged"] == 0
    headline = found["suites"]["token_composition"]["cells"][0]
    assert len(headline["models"]["diff"]["runs"]) == 1
    assert sum("seed 1000" in line for line in display.said) == 4
    assert sum("seed 0 at" in line for line in display.said) == 2
    done = {label: row.done for label, row in display.rows.items()}
    best = [f"{label} at {peak:g}" for label, peak in found["peaks"].items()]
    assert sum(done.values()) == 6 and all(done[label] == 2 for label in best)
    # All is kept: nothing is trained a second time, and the answers are the same.
    monkeypatch.setattr(
        learning, "run_job", lambda job, _: pytest.fail(f"{job.name} trained again")
    )
    again = learn(request, tmp_path / "learned")
    assert again["suites"]["token_composition"]["cells"][0] == headline


def test_bad_input_before_anything_is_trained(tmp_path: Path) -> None:
    for request, said in [
        (LearnRequest("recall", ["dif"]), "dif"),
        (LearnRequest("recall", settings={"model.hiden_size": "3"}), "hiden_size"),
        (LearnRequest("lost"), "no task 'lost'"),
    ]:
        with pytest.raises(SoftmapError, match=said):
            learn(request, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(SoftmapError, match="expected a separate folder, found a run"):
        learn(LearnRequest("recall"), tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["los"], "learn: no task 'los'"),
        (["recall", "--peaks", "0"], "--peaks: expected one or more numbers above 0"),
        (["recall", "--seeds", "0"], "--seeds"),
        (["recall", "--set", "model.hidden_size"], "--set: expected key.path=value"),
        (["recall", "--name", "a/b"], "--name: expected the name of a folder"),
    ],
)
def test_typing_errors_are_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["learn", *words]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert said in told[-1] and told[-1].startswith("softmap: error: ")
