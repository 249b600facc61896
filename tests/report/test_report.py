"""A run folder in, a page out: whole, partial, hostile and damaged runs."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import fake
import numpy as np
import pytest

from softmap import report
from softmap.errors import SoftmapError
from softmap.report import assemble
from softmap.report.page import breakable, safe_url, sentence

SMALL = {"windows": 40, "context": 32}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    run = fake.make(tmp_path_factory.mktemp("runs") / "demo", variants=4, seeds=2, **SMALL)
    return report.build(run).parent


@pytest.fixture
def no_pictures(monkeypatch):
    """Spare the drawing where only the page is looked at."""
    monkeypatch.setattr(assemble, "_pictures", lambda *_: None)


class _Page(HTMLParser):
    """Collects tags and attributes; scripts and styles are opaque to it, as to a browser."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def _payload(folder):
    text = (folder / "report.html").read_text()
    found = re.search(r'<script type="application/json" id="payload">(.*?)</script>', text, re.S)
    return json.loads(found.group(1))


def test_every_promised_file_is_there_and_nothing_else(built):
    names = {path.name for path in built.iterdir()}
    assert names == {
        "run.json",
        "variants",
        "charts",
        *(f"report.{e}" for e in ("html", "json", "csv")),
    }
    charts = {path.name for path in (built / "charts").iterdir()}
    keys = set(_payload(built)["charts"])
    assert len(keys) == 11
    assert charts == {f"{key}.{kind}" for key in keys for kind in ("svg", "png")}
    for path in (built / "charts").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_pictures_hold_text_in_a_real_font(built):
    svg = (built / "charts" / "loss_tokens.svg").read_text()
    assert "Loss against tokens" in svg and "Liberation Sans" in svg
    for label in ("transformer++", "dcmha"):
        assert label in svg  # the legend


def test_the_page_asks_nothing_of_the_network(built):
    page = _Page((built / "report.html").read_text())
    assert not page.all("img") and not page.all("iframe") and not page.all("link")
    assert all("src" not in script for script in page.all("script"))
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert "default-src 'none'" in policy and "http" not in policy
    assert (built / "report.html").read_text().count("window.vegaEmbed") == 1


def test_accessible_names_and_unique_ids(built):
    page = _Page((built / "report.html").read_text())
    identities = [a["id"] for _, a in page.tags if "id" in a]
    assert len(identities) == len(set(identities))
    for _, attributes in page.tags:
        for name in ("aria-labelledby", "aria-describedby"):
            if name in attributes:
                assert attributes[name] in identities
    sortable = [a for a in page.all("th") if "aria-sort" in a]
    assert [a["aria-sort"] for a in sortable].count("ascending") == 1
    assert all(a.get("aria-label") for a in page.all("canvas") if "id" not in a)


def test_json_is_the_summary_and_csv_has_a_line_per_variant(built):
    assert json.loads((built / "report.json").read_text()) == report.summary(built)
    with (built / "report.csv").open() as file:
        lines = list(csv.DictReader(file))
    rows = report.summary(built)["variants"]
    assert [line["variant"] for line in lines] == [row["variant"] for row in rows]
    assert float(lines[1]["difference_low"]) == rows[1]["difference"]["low"]
    assert lines[0]["difference"] == ""


def test_difference_is_that_of_the_runs_means(tmp_path):
    run = fake.make(tmp_path / "run", variants=2, seeds=3, **SMALL)

    def losses(label):
        files = [fake.folder(run, label, seed) / "eval-2.npz" for seed in range(3)]
        return [np.load(file)["losses"].astype(float).mean() for file in files]

    ours, theirs = losses("diff"), losses("transformer++")
    found = report.summary(run)["variants"][1]["difference"]
    assert found["mean"] == pytest.approx(np.mean(ours) - np.mean(theirs))
    pooled = (np.var(ours, ddof=1) + np.var(theirs, ddof=1)) / 2
    assert found["run_stderr"] == pytest.approx((pooled * 2 / 3) ** 0.5)
    assert (found["runs"], found["control_runs"]) == (3, 3)


def test_equal_time_interpolates_a_slower_variant(tmp_path):
    run = fake.make(tmp_path / "run", variants=4, **SMALL)
    row = report.summary(run)["variants"][3]
    budgets, allowed = row["budgets"], report.summary(run)["variants"][0]["budgets"][-1]
    below, above = budgets[1], budgets[2]
    share = np.log(allowed["seconds"] / below["seconds"]) / np.log(
        above["seconds"] / below["seconds"]
    )
    expected = (1 - share) * below["loss"] + share * above["loss"] - allowed["loss"]
    assert row["equal_time"]["mean"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("variants", "seeds"), [(1, 1), pytest.param(15, 2, marks=pytest.mark.slow)]
)
def test_small_and_large_runs(tmp_path, no_pictures, variants, seeds):
    page = report.build(fake.make(tmp_path / "run", variants=variants, seeds=seeds, **SMALL))
    payload = _payload(page.parent)
    assert len(payload["report"]["variants"]) == variants
    assert len(fake.hues(page.parent)) == variants


def test_colours_do_not_depend_on_what_has_finished(tmp_path, no_pictures):
    whole = report.build(fake.make(tmp_path / "a", variants=4, **SMALL)).parent
    skip = (("transformer++", 0), ("diff", 0))
    folder = report.build(fake.make(tmp_path / "b", variants=4, skip=skip, **SMALL)).parent
    part = _payload(folder)
    assert len(fake.hues(folder)) == 4 and fake.hues(folder) == fake.hues(whole)
    assert part["labels"] == _payload(whole)["labels"]
    assert "difference" not in part["charts"] and part["report"]["control_finished"] is False
    assert [row["variant"] for row in part["report"]["variants"]] == ["diff2", "dcmha"]


def test_every_run_counts_whatever_its_seed(tmp_path):
    run = fake.make(tmp_path / "run", variants=2, seeds=3, skip=(("diff", 1),), **SMALL)
    summary = report.summary(run)
    found = summary["variants"][1]["difference"]
    assert (found["runs"], found["control_runs"]) == (2, 3)
    assert summary["missing"] == [{"variant": "diff", "seed": 1}]


def test_first_stage_alone_gives_the_spread(tmp_path):
    run = fake.make(tmp_path / "run", variants=2, seeds=4, **SMALL)
    info = json.loads((run / "run.json").read_text())
    whole = report.summary(run)
    first = {label: [0, 1] for label in info["variants"]}
    stages = {"half_width": 0.5, "first_seeds": first}
    (run / "run.json").write_text(json.dumps(info | {"resolve": stages}))
    staged = report.summary(run)
    assert (whole["statistics"]["pooled_df"], staged["statistics"]["pooled_df"]) == (6, 2)
    mean = [found["variants"][1]["difference"]["mean"] for found in (whole, staged)]
    assert mean[0] == mean[1]
    said = [" ".join(found["verdict"]["caveats"]) for found in (whole, staged)]
    lost = {"half_width": 0.5, "first_seeds": first | {"diff": [8, 9]}}  # those diverged
    (run / "run.json").write_text(json.dumps(info | {"resolve": lost}))
    assert report.summary(run)["statistics"]["pooled_df"] == 1 + 3
    assert "Stein" not in said[0] and "rule for intervals of at most ± 0.5" in said[1]


def diverge(run, label, seed, step=12):
    path = fake.folder(run, label, seed) / "result.json"
    kept = {key: json.loads(path.read_text())[key] for key in ("variant", "slug", "seed")}
    end = {"diverged": {"step": step, "reason": "loss nan"}, "budgets": []}
    path.write_text(json.dumps(kept | end))


def test_runs_that_diverged_are_counted_and_not_averaged(tmp_path, no_pictures):
    run = fake.make(tmp_path / "run", variants=3, seeds=3, **SMALL)
    diverge(run, "diff", 1)
    for seed in range(3):
        diverge(run, "diff2", seed, step=7 + seed)
    page = report.build(run).read_text()
    found = report.summary(run)
    row = found["variants"][1]
    assert row["seeds"] == [0, 2] and row["diverged"] == [
        {"seed": 1, "step": 12, "reason": "loss nan"}
    ]
    assert len(found["diverged"]) == 4 and found["missing"] == [] and found["lost"] == {"diff2": 3}
    points = {point["variant"]: point for point in found["verdict"]["points"]}
    assert "1 of 3 runs diverged" in points["diff"]["text"]
    assert "3 of 3 runs diverged" in points["diff2"]["text"]
    assert any("1 of 3 runs of diff" in note for note in found["verdict"]["caveats"])
    assert page.count("1 of 3 runs diverged") >= 2 and "3 of 3 runs diverged" in page


def test_a_control_that_diverged_is_not_called_unfinished(tmp_path):
    run = fake.make(tmp_path / "run", variants=2, seeds=1, **SMALL)
    diverge(run, "transformer++", 0)
    verdict = report.summary(run)["verdict"]
    assert "diverged" in verdict["headline"] and verdict["incomplete"] is None
    diverge(run, "diff", 0)
    with pytest.raises(SoftmapError, match=r"nothing to report.* found only diverged ones"):
        report.summary(run)


def test_every_run_has_its_log_beside_the_page(tmp_path, no_pictures):
    run = fake.make(tmp_path / "a run", variants=2, seeds=2, **SMALL)
    diverge(run, "diff", 1)
    (fake.folder(run, "transformer++", 1) / "train.jsonl").unlink()
    page = report.build(run)
    links = [unquote(a["href"]) for a in _Page(page.read_text()).all("a") if a.get("href")]
    logs = [link for link in links if link.endswith(".jsonl")]
    assert len(logs) == 3 and all((page.parent / link).is_file() for link in logs)
    found = {(row["variant"], row["seed"]): row for row in report.summary(run)["every_run"]}
    assert len(found) == 4 and found["transformer++", 1]["log"] is None
    assert found["diff", 1]["loss"] is None and found["diff", 1]["diverged"]["step"] == 12
    assert found["diff", 0]["log"] in logs
    assert "diverged at step 12" in page.read_text()


def test_what_a_run_does_not_say_is_left_out(tmp_path, no_pictures):
    run = fake.make(tmp_path / "run", variants=2, **SMALL)
    info = json.loads((run / "run.json").read_text())
    for key in ("command", "created", "commit", "softmap_version", "recipe", "device", "data"):
        info[key] = None
    info["model"]["head_dim"] = None
    info["training"]["betas"] = [0.9, None, {"nested": None, "given": True}]
    (run / "run.json").write_text(json.dumps(info))
    page = report.build(run).read_text()
    text = page.partition('id="repeat"')[2].partition("</section>")[0]
    assert "None" not in text and "head_dim" not in text and "[0.9, none, given true]" in text


def test_data_can_break_neither_the_markup_nor_the_script(tmp_path, no_pictures):
    run = fake.make(tmp_path / "run", variants=2, **SMALL)
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    info = json.loads((run / "run.json").read_text())
    info |= {"recipe": evil, "command": evil, "name": evil}
    info["passage"]["tokens"][0] = evil
    (run / "run.json").write_text(json.dumps(info))
    result = fake.folder(run, "diff") / "result.json"
    result.write_text(
        json.dumps(json.loads(result.read_text()) | {"source": "javascript:alert(3)"})
    )
    page = _Page(report.build(run).read_text())
    assert len(page.all("script")) == 3 and not page.all("img")
    assert not [a for a in page.all("a") if "javascript" in (a["href"] or "")]
    assert _payload(run)["tokens"][0] == evil


def test_addresses_and_long_names():
    assert safe_url("https://arxiv.org/abs/1") == "https://arxiv.org/abs/1"
    assert safe_url("javascript:1") is None and safe_url(None) is None
    assert breakable("a<b>(c=1,d=2)") == "a&lt;b&gt;<wbr>(c=1,<wbr>d=2)"
    assert breakable("first/transformer++") == "first/<wbr>transformer++"
    assert breakable("diff+sas-p(x_y=1)") == "diff+sas-p<wbr>(x_y=1)"
    assert sentence("a/b, <c> ends") == '<span class="whole">a/<wbr>b,</span> &lt;c&gt; ends'


def _damage_missing_key(path):
    content = json.loads(path.read_text())
    del content["budgets"]
    path.write_text(json.dumps(content))


DAMAGES = {
    "truncated": ("result.json", lambda path: path.write_text(path.read_text()[:100])),
    "old": ("result.json", _damage_missing_key),
    "not an object": ("result.json", lambda path: path.write_text("[]")),
    "no evaluation": ("eval-1.npz", lambda path: path.unlink()),
    "half an evaluation": ("eval-2.npz", lambda path: path.write_bytes(path.read_bytes()[:200])),
    "not finite": ("eval-0.npz", lambda path: np.savez(path, losses=np.full((40, 32), np.nan))),
    "pickled": ("eval-0.npz", lambda path: np.savez(path, losses=np.array([{}], dtype=object))),
    "flat": ("maps.npz", lambda path: np.savez(path, maps=np.ones(4))),
    "log": ("train.jsonl", lambda path: path.write_text("{}\n" + path.read_text())),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_named_in_one_line(tmp_path, name):
    run = fake.make(tmp_path / "run", variants=2, **SMALL)
    file, damage = DAMAGES[name]
    damage(fake.folder(run, "diff") / file)
    with pytest.raises(SoftmapError, match=re.escape(f"seed0/{file}")) as error:
        report.build(run)
    assert "\n" not in str(error.value)
    assert not (run / "report.html").exists() and not (run / "charts").exists()


def test_other_windows_are_refused(tmp_path):
    run = fake.make(tmp_path / "run", variants=2, **SMALL)
    np.savez(fake.folder(run, "diff") / "eval-2.npz", losses=np.ones((7, 32)))
    with pytest.raises(SoftmapError, match="windows"):
        report.summary(run)


def test_no_run_and_nothing_finished(tmp_path):
    with pytest.raises(SoftmapError, match=r"run\.json"):
        report.summary(tmp_path)
    run = fake.make(tmp_path / "run", variants=1, skip=(("transformer++", 0),), **SMALL)
    with pytest.raises(SoftmapError, match="nothing to report"):
        report.build(run)


def test_a_log_cut_off_in_its_last_line_is_fine(tmp_path):
    run = fake.make(tmp_path / "run", variants=1, **SMALL)
    log = fake.folder(run, "transformer++") / "train.jsonl"
    log.write_text(log.read_text()[:-20])
    assert report.summary(run)["variants"]


@pytest.mark.slow
def test_a_full_disk_keeps_the_old_page_and_leaves_no_litter(tmp_path, monkeypatch):
    run = fake.make(tmp_path / "run", variants=1, **SMALL)
    page = report.build(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SoftmapError, match="No space left"):
        report.build(run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert page.exists()


def test_differences_are_drawn_without_intervals_too(tmp_path, no_pictures):
    payload = _payload(report.build(fake.make(tmp_path / "run", variants=2, **SMALL)).parent)
    assert {"difference", "trend", "position_difference"} <= set(payload["charts"])
    assert "none: nothing was repeated" in json.dumps(payload["charts"]["difference"])


def test_rounds_of_clean_speed_widen_the_ratio_of_time_alone(tmp_path):
    run = fake.make(tmp_path / "run", variants=2, seeds=3, **SMALL)

    def time(low, high, count):
        spread = {"median": 400.0, "low": low, "high": high, "count": count}
        mine = {"tokens_per_second": spread, "peak_memory_bytes": 7}
        found = {"variants": {"transformer++": mine, "diff": mine}, "disturbed": None}
        (run / "speed.json").write_text(json.dumps(found))
        summary = report.summary(run)
        assert summary["statistics"]["speed_error"] == (count is not None)
        return summary["variants"][1]["equal_loss"]

    exact, noisy, unknown = time(400.0, 400.0, 7), time(340.0, 460.0, 7), time(340.0, 460.0, None)
    assert noisy["tokens"] == exact["tokens"] and unknown == exact
    assert noisy["time"]["value"] == exact["time"]["value"]
    assert noisy["time"]["low"] < exact["time"]["low"] == exact["tokens"]["low"]
    assert noisy["time"]["high"] > exact["time"]["high"]


def test_clean_speed_stands_in_for_that_of_training(tmp_path, no_pictures):
    run = fake.make(tmp_path / "run", variants=2, seeds=2, **SMALL)
    note = "Speed and memory are those of the training itself"
    before = report.summary(run)
    assert any(note in text for text in before["verdict"]["caveats"])
    speeds = {"median": 400.0, "low": 390.0, "high": 410.0}
    both = {"tokens_per_second": speeds, "peak_memory_bytes": 77}
    found = {"variants": {"transformer++": both, "diff": both}, "disturbed": None}
    (run / "speed.json").write_text(json.dumps(found))
    after = report.summary(run)
    assert [row["tokens_per_second"] for row in after["variants"]] == [400.0, 400.0]
    assert after["variants"][1]["speed_ratio"] == after["variants"][1]["memory_ratio"] == 1
    assert not any(note in text for text in after["verdict"]["caveats"])
    found["disturbed"] = "the machine was not idle: other processes used 1.0 cores"
    (run / "speed.json").write_text(json.dumps(found))
    assert any("other processes" in text for text in report.summary(run)["verdict"]["caveats"])
    del found["variants"]["diff"]  # clean for one alone would be unfair
    (run / "speed.json").write_text(json.dumps(found))
    assert report.summary(run)["variants"] == before["variants"]
    (run / "speed.json").write_text('{"variants": 3}')
    with pytest.raises(SoftmapError, match=r"speed\.json"):
        report.summary(run)
