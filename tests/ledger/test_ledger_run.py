"""``softmap claims``: what is run, written, listed and shown."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from softmap.claims._bases import MEDIUM, SMALL
from softmap.claims._claim import NEAR, Arm, Claim, Trained, on
from softmap.claims._find import claim
from softmap.cli import main
from softmap.errors import SoftmapError
from softmap.ledger import results
from softmap.ledger import run as running
from softmap.ledger.judge import Part, differences
from softmap.ledger.page import page
from softmap.ledger.run import chosen, run
from softmap.ledger.table import lines
from softmap.ledger.workspace import Workspace

STUDY = Trained(NEAR, (Arm("sas", "at most"), Arm("sas-p", "at most")))
CLAIM = dataclasses.replace(
    claim("sas-loss"), scales={"cpu": on(STUDY, SMALL, MEDIUM), "gpu": "no", "paper": "no"}
)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Losses by base instead of trainings; what was measured."""
    measured: list[str] = []

    def measure(study: Any, place: Workspace) -> list[Part]:
        measured.append(study.base.name)
        higher = {"sas-p": 0.0 if study.base is SMALL else 1.0}
        values = {
            name: {seed: 2.0 + higher.get(name, 0.0) + 0.001 * seed for seed in range(place.seeds)}
            for name in study.variants
        }
        points = [{"variant": n, "x": x, "value": 0.1 * x} for n in values for x in (1, 2)]
        curve = {"x": "Tokens", "y": "Loss", "log": True, "points": points}
        return [Part(study.measure, values, differences(study, values), {"sas": 1}, curve=curve)]

    monkeypatch.setattr(running, "_prepared", lambda study, place: (8, 60.0))
    monkeypatch.setitem(running._KINDS, "trained", measure)
    return measured


def test_a_result_has_all_that_the_page_is_drawn_from(tmp_path: Path, made_up: list[str]) -> None:
    said: list[str] = []
    path = run(CLAIM, "cpu", Workspace(tmp_path, command="softmap claims run x", tell=said.append),
               tmp_path / "results")  # fmt: skip
    assert path.name == "sas-loss.cpu.json" and made_up == ["small", "medium"]
    found = results.read(path)
    assert [stage["verdict"] for stage in found["stages"]] == ["reproduced", "contradicted"]
    assert (found["verdict"], found["runs"], found["seeds"]) == ("contradicted", 16, 5)
    assert found["seconds"] >= 120 and found["commit"] and found["versions"]["torch"]
    (part,) = found["stages"][0]["studies"][0]["parts"]
    assert part["values"]["sas"]["1"] == 2.001 and part["diverged"] == {"sas": 1}
    assert part["rows"][0]["verdict"] == "reproduced" and part["rows"][0]["low"] < 0
    assert said[-1].startswith("sas-loss: contradicted: 1 of 2 rows")
    assert path.stat().st_size < 6000

    html = page({("sas-loss", "cpu"): found})
    for text in ("SAS and SAS-P match a Pre-LN", "the curves overlap", "contradicted", "16 runs",
                 "softmap claims run x", "sas: 1 diverged", "+1.000 ["):  # fmt: skip
        assert text in html
    charts = json.loads(html.split('id="payload">')[1].split("</script>")[0])["charts"]
    assert len(charts) == 4 and all(f'id="chart-{key}"' in html for key in charts)
    table = "\n".join(lines({("sas-loss", "cpu"): found}))
    assert "sas-p beside transformer++: +1.000 [" in table and "not tested" not in table


def test_what_is_done_is_left_and_what_was_asked_otherwise_is_not(
    tmp_path: Path, made_up: list[str]
) -> None:
    place = Workspace(tmp_path)
    run(CLAIM, "cpu", place, tmp_path / "results", ["small"])
    run(CLAIM, "cpu", place, tmp_path / "results", ["small"])
    assert made_up == ["small"]
    run(CLAIM, "cpu", place, tmp_path / "results")
    assert made_up == ["small", "small", "medium"]
    run(CLAIM, "cpu", dataclasses.replace(place, seeds=3), tmp_path / "results")
    run(
        CLAIM,
        "cpu",
        dataclasses.replace(place, settings={"seeds": "1", "training.clip": "2"}),
        tmp_path / "results",
    )
    assert len(made_up) == 7


def test_a_base_that_is_done_is_on_disk_before_the_next(
    tmp_path: Path, made_up: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(study: Any, place: Workspace) -> tuple[int, float]:
        if study.base is MEDIUM:
            raise KeyboardInterrupt
        return 8, 1.0

    monkeypatch.setattr(running, "_prepared", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(CLAIM, "cpu", Workspace(tmp_path), tmp_path)
    found = results.read(tmp_path / "sas-loss.cpu.json")
    assert (found["verdict"], len(found["stages"])) == ("reproduced", 1)
    monkeypatch.setattr(running, "_prepared", lambda study, place: (8, 1.0))
    run(CLAIM, "cpu", Workspace(tmp_path), tmp_path)
    assert len(results.read(tmp_path / "sas-loss.cpu.json")["stages"]) == 2


def test_the_newest_result_counts_and_the_list_shows_it(
    tmp_path: Path, made_up: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run(CLAIM, "cpu", Workspace(tmp_path), tmp_path / "a", ["small"])
    run(CLAIM, "cpu", Workspace(tmp_path), tmp_path / "b")
    for folder, created in (("a", "2027"), ("b", "2026")):
        path = tmp_path / folder / "sas-loss.cpu.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"created": created}))
    found = results.latest([tmp_path / "a", tmp_path / "b"])
    assert found["sas-loss", "cpu"]["verdict"] == "reproduced"
    assert main(["claims", "list", str(tmp_path / "a")]) == 0
    told = capsys.readouterr().out.splitlines()
    (mine,) = [line for line in told if line.startswith("sas-loss")]
    assert mine.split()[1:4] == ["reproduced", "-", "-"]
    (leak,) = [line for line in told if line.startswith("dape-leak")]
    assert leak.count("not tested") == 3
    assert main(["claims", "report", str(tmp_path / "b"), "--page", str(tmp_path / "p.html")]) == 0
    assert "contradicted" in capsys.readouterr().out and (tmp_path / "p.html").is_file()


def test_claims_alone_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["claims"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 33
    assert not list(tmp_path.iterdir())


def test_all_are_those_that_are_tested_there() -> None:
    every = {found.id for found in chosen(["all"], "cpu")}
    assert "dape-extra" in every and not every & {"dape-leak", "diff-order"}
    assert {found.id for found in chosen(["all"], "cpu", ["long"])} == {"diff-long", "diff-alloc"}
    assert [c.id for c in chosen(["wsds", "dc-ablate", "wsds"], "cpu")] == ["wsds", "dc-ablate"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "dape-extr"], "no claim 'dape-extr' (did you mean 'dape-extra'"),
        (["run", "dape-extra", "--scale", "gp"], "no scale 'gp' (did you mean 'gpu'"),
        (["run", "dc-down"], "dc-down is not tested at the scale cpu: models of this size are at"),
        (["run"], "expected ids or all, found none"),
        (["run", "dape-extra", "--base", "smal"], "no base 'smal' (did you mean 'small'"),
        (["run", "sas-speed", "--base", "small"], "sas-speed is not tested on the base small"),
        (["run", "dape-extra", "--seeds", "0"], "--seeds"),
        (["run", "dape-extra", "--set", "x"], "--set: expected key.path=value"),
        (["run", "dape-extra", "--dry-run", "--set", "training.stepz=3"], "training.stepz"),
        (["report", "nowhere"], "nowhere: expected results of claims, found none; softmap claims"),
        (["repot"], "did you mean 'report'"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["claims", *words]) == 2
    (told,) = capsys.readouterr().err.strip().splitlines()
    assert said in told and told.startswith("softmap: error: ")
    assert not list(tmp_path.iterdir())


def test_one_claim_that_fails_does_not_end_the_queue(
    tmp_path: Path, made_up: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fails(study: Any, place: Workspace) -> tuple[int, float]:
        if study.control == "diff":
            raise SoftmapError("it has no room")
        return 8, 1.0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running, "_prepared", fails)
    monkeypatch.setattr("softmap.ledger.forecast.forecast", lambda *_: [])
    assert main(["claims", "run", "diff-controls", "sas-loss"]) == 2
    told = capsys.readouterr()
    assert told.out.split() == ["runs/claims/results/sas-loss.cpu.json"]
    said = told.err.strip().splitlines()
    assert said[0] == "diff-controls: it has no room"
    assert said[-1] == "softmap: error: claims run: not finished, see above: diff-controls"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"format": 7, "claim": "sas-loss"}, "expected a result of softmap claims, format 1, found "
         "format 7"),
        ({"rows": []}, "found another file"),
        ({"format": 1, "claim": "sas-loss"}, "scale: expected text"),
        ([], "expected"),
    ],
)  # fmt: skip
def test_results_of_another_format(content: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(content))
    with pytest.raises(SoftmapError, match=said):
        results.required([tmp_path])


def test_a_result_that_lacks_a_row_is_damaged(tmp_path: Path, made_up: list[str]) -> None:
    path = run(CLAIM, "cpu", Workspace(tmp_path), tmp_path)
    whole = json.loads(path.read_text())
    del whole["stages"][0]["studies"][0]["parts"][0]["rows"][0]["arm"]
    path.write_text(json.dumps(whole))
    with pytest.raises(SoftmapError, match=r"sas-loss.cpu.json: .*arm: expected text"):
        results.read(path)


def test_a_claim_is_its_own_data() -> None:
    assert isinstance(CLAIM, Claim) and "rule" not in repr(CLAIM)
