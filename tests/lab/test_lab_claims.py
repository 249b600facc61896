"""Claims share their trainings: a base is a run's folder, its models are trained once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lab_invented
import lab_tiny
import pytest

from softmap.claims._claim import LOSS, Arm, Trained
from softmap.cli import main
from softmap.errors import SoftmapError
from softmap.lab.interrupts import Interrupted
from softmap.ledger import trained
from softmap.ledger.judge import Part
from softmap.ledger.training import missing
from softmap.ledger.workspace import Workspace
from softmap.report.load import read_run

SIZES = {
    "model.hidden_size": "32", "model.num_attention_heads": "2", "model.context": "32",
    "training.steps": "12", "training.batch_size": "2", "training.warmup": "0.1",
    "training.log_every": "2", "training.precision": "fp32", "training.budgets": "[1]",
    "evaluation.windows": "8", "evaluation.passage_tokens": "12", "data.tokenizer": "bytes",
}  # fmt: skip
ONE = Trained(LOSS, (Arm("diff", "lower"),))
TWO = Trained(LOSS, (Arm("diff2", "lower"), Arm("transformer++")), control="diff")


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    text = str(lab_tiny.write_text(tmp_path))
    return Workspace(tmp_path / "cpu", seeds=2, jobs=1, settings={**SIZES, "data.data": text})


def invent(monkeypatch: pytest.MonkeyPatch, **how: Any) -> lab_invented.Invented:
    made = lab_invented.Invented(**how)
    monkeypatch.setattr("softmap.lab.session.run_trial", made)
    return made


def measured(study: Trained, place: Workspace) -> list[Part]:
    trained.prepare(study, place)
    return trained.measure(study, place)


def loss(label: str, seed: int) -> float | None:
    at = {"transformer++": 3.0, "diff": 2.0, "diff2": 1.0}[label] + 0.001 * seed
    return None if (label, seed) == ("diff2", 1) else at


def test_a_model_is_trained_once_whoever_asks(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = invent(monkeypatch, loss=loss)
    (part,) = measured(ONE, place)
    every = {("transformer++", n) for n in range(4)} | {("diff", n) for n in range(2)}
    assert len(made.trained) == 6 and set(made.trained) == every
    assert part.values["diff"] == {0: 2.0, 1: 2.001}
    assert part.rows[0].mean == pytest.approx(2.0005 - 3.0015)

    (part,) = measured(TWO, place)
    assert sorted(made.trained[6:]) == [("diff", 2), ("diff", 3), ("diff2", 0), ("diff2", 1)]
    assert part.diverged == {"diff2": 1} and part.values["diff2"] == {0: 1.0}
    ((small, runs),) = trained.needed(TWO, place)
    assert missing(place, small, runs) == []
    info = read_run(place.folder / "small" / "run.json")
    assert info["seeds_by_variant"]["transformer++"] == [0, 1, 2, 3]
    measured(ONE, place)
    assert len(made.trained) == 10


def test_a_queue_that_was_stopped_goes_on(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = invent(monkeypatch, loss=loss, stop=(3, Interrupted(15)))
    with pytest.raises(Interrupted):
        measured(ONE, place)
    assert len(made.trained) == 3
    made.stop = None
    (part,) = measured(ONE, place)
    assert len(made.trained) == 6 and len(part.values["transformer++"]) == 4


def test_models_of_another_setting_are_not_mixed_in(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = invent(monkeypatch, loss=loss)
    measured(ONE, place)
    other = Workspace(place.folder, 3, 1, {**place.settings, "training.steps": "14"})
    with pytest.raises(SoftmapError, match=r"training.steps was 12, is 14; --runs FOLDER"):
        measured(ONE, other)
    assert len(made.trained) == 6


@pytest.mark.slow
def test_from_the_command_line_with_real_trainings(
    place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    values = [f"{name}={value}" for name, value in place.settings.items()]
    ids = ("dape-extra", "diff-quant", "sas-depth", "--base", "small", "deep")
    command = ["claims", "run", *ids, "--seeds", "2", "--jobs", "1", "--set", *values]
    command.append("model.num_hidden_layers=2")
    assert main([*command, "--dry-run"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("small: 20 to do, about ")
    assert told[-1].startswith("3 claims, 28 trainings, about ") and not Path("runs").exists()
    assert main(command) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    found = json.loads(Path("runs/claims/results/dape-extra.cpu.json").read_text())
    (part,) = found["stages"][0]["studies"][0]["parts"]
    assert part["what"] == "at length 512" and len(part["values"]["dape"]) == 4
    assert {point["x"] for point in part["curve"]["points"]} == {32, 64, 128, 256, 512}
    start, end = json.loads(Path("runs/claims/results/sas-depth.cpu.json").read_text())["stages"][
        0
    ]["studies"]
    assert start["parts"][0]["rows"][2]["mean"] > 0.1  # without skips tokens become alike
    assert end["measure"]["title"] == "Held-out loss"
    assert main(["claims", "report"]) == 0
    assert Path("runs/claims/ledger.html").is_file()
