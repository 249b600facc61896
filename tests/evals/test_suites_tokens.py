"""Suites over tokens and prompts in context, asked of models whose answers are known."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import known
import numpy as np
import pytest

from softmap.errors import SoftmapError
from softmap.evals.catalogue import suite
from softmap.evals.question import Setting
from softmap.evals.suites import (
    composition,
    halluc,
    mad,
    recall,
    shots,
    signal,
    token_composition,
    token_needles,
)
from softmap.evals.suites.order import Order
from softmap.evals.tasks import IGNORED


def test_a_copier_recalls_and_a_uniform_model_has_log_v() -> None:
    found = known.asked(
        recall.RecallSuite(sequences=4), known.subject(known.Copier(512), 256, text=False)
    )
    assert found["accuracy"] == found["accuracy", 64] == 1
    found = known.asked(
        recall.RecallSuite(sequences=4), known.subject(known.Uniform(512), 256, text=False)
    )
    assert found["accuracy"] == 0
    assert found["loss", 4] == pytest.approx(math.log(512), rel=1e-5)
    assert ("loss", 128) not in found  # of 512 tokens, beyond the context


def test_every_key_is_asked_once_with_its_value() -> None:
    task = recall.RecallTask(64, 8, 40)
    ids, labels = task.batch(0, 0, 3)
    for row, asked in zip(ids, labels, strict=True):
        pairs = dict(row[:16].reshape(-1, 2).tolist())
        places = np.flatnonzero(asked != IGNORED)
        assert {int(row[p - 1]): int(row[p]) for p in places} == pairs
        assert (row[places] == asked[places]).all() and places.min() > 16
        rest = np.delete(row[16:], np.concatenate([places - 16, places - 17]))
        assert not set(rest.tolist()) & set(pairs)
    assert np.array_equal(task.batch(0, 0, 3)[0], ids)
    assert not np.array_equal(task.batch(0, 1, 3)[0], ids)


@pytest.mark.parametrize(
    ("context", "vocabulary", "said"),
    [
        (32, 512, "suite recall needs a context of at least 64, found 32"),
        (64, 7, "suite recall needs a vocabulary of at least 8, found 7"),
    ],
)
def test_recall_says_the_least(context: int, vocabulary: int, said: str) -> None:
    who = known.subject(known.Uniform(vocabulary), context, text=False)
    with pytest.raises(SoftmapError, match=said):
        suite("recall").check(who, Setting(context, vocabulary))


def test_a_copier_has_the_three_recalls_of_mad() -> None:
    who = known.subject(known.Copier(mad.VOCABULARY), 128, text=False)
    found = known.asked(mad.MadSuite(sequences=4), who)
    tasks = ("in-context recall", "noisy recall", "fuzzy recall")
    assert [found["accuracy", task] for task in tasks] == [1, 1, 1]
    assert found["accuracy", "memorisation"] < 0.5


@pytest.mark.parametrize("task", mad.TASKS, ids=lambda task: task.key)
def test_what_mad_asks_can_be_known(task: mad.Mad) -> None:
    ids, labels = task.batch(0, 3, 4)
    assert ids.shape == labels.shape == (4, 128)
    assert ids.min() >= 0 and ids.max() < mad.VOCABULARY
    for row, asked in zip(ids, labels, strict=True):
        places = np.flatnonzero(asked != IGNORED)
        assert len(places) > 8 and (row[places] == asked[places]).all()
        if task.key == "selective copying":
            assert [t for t in row[:111] if t < mad.SIZE] == row[112:].tolist()
        if task.key == "compression":
            assert row[:63].tolist() == row[64:127].tolist()
        if task.key == "memorisation":  # the same dictionary in every sequence
            pairs = [dict(one[:32].reshape(-1, 2).tolist()) for one in (row, ids[0])]
            assert pairs[0] == pairs[1]


def test_a_copier_learns_from_shots_and_does_not_mind_their_order() -> None:
    who = known.subject(known.Copier(), 700)
    found = known.asked(shots.Shots(counts=(6, 12), items=6), who)
    assert found["accuracy", 6] == found["most"] == 1
    found = known.asked(Order(orders=3, shots=12, questions=3, sets=2), who)
    assert found["accuracy"] == 1
    assert found["spread_random"] == found["spread_by_class"] == 0


def test_who_says_the_latest_label_minds_the_order() -> None:
    """It looks back no further than the last label: accuracy is by luck of the order."""
    who = known.subject(known.Uniform(), 700)
    latest = lambda prompt: who.decode(prompt).split("\n")[-2].split(" -> ")[1]  # noqa: E731
    order = Order(orders=6, shots=12, questions=4, sets=3)
    generator = Setting(700, 257).generator(0)
    shown, labels, questions = order._set(generator)

    def accuracy(demonstrations: list[shots.Example]) -> float:
        right = [
            latest(who.encode(shots.written(demonstrations, text))) == label
            for text, label in questions
        ]
        return float(np.mean(right))

    found = {accuracy(order._ordered(shown, True, generator)) for _ in range(8)}
    assert max(found) > min(found)  # orders do differ, and classes stand together
    mixed = [label for _, label in order._ordered(shown, True, generator)]
    assert [label for label, _ in itertools.groupby(mixed)] == list(dict.fromkeys(mixed))
    assert sorted(labels) == labels


def test_only_labels_can_be_said() -> None:
    """The likeliest token of all is no label's; among labels the next likeliest decides."""
    prompt = [ord("x")]
    who = known.subject(known.Fixed(prompt, [ord("!")]))
    assert shots.constrained(who, prompt, ["red", "blue"]) in ("red", "blue")
    who = known.subject(known.Fixed(prompt, list(b" green\n")))
    assert shots.constrained(who, prompt, ["grey", "green", "red"]) == "green"


def test_shots_and_their_files(tmp_path: Path) -> None:
    path = tmp_path / "trec.jsonl"
    lines = [{"text": f"what {n}", "label": "ab"[n % 2]} for n in range(10)]
    path.write_text("\n".join(map(json.dumps, lines)))
    found = suite(f"shots:{path}")
    assert isinstance(found, shots.Shots) and len(found.examples) == 10
    path.write_text("\n".join(map(json.dumps, lines[:3])) + '\n{"text": "what"}\n')
    with pytest.raises(SoftmapError, match=r"trec\.jsonl line 4: label: expected text, found None"):
        suite(f"shots:{path}")
    path.write_text('{"text": "a", "label": "b"}\n\n{"text"\n')
    with pytest.raises(SoftmapError, match=r"trec\.jsonl line 3: expected JSON"):
        suite(f"shots:{path}")
    with pytest.raises(SoftmapError, match="expected JSON lines in UTF-8"):
        suite(f"order:{tmp_path / 'none.jsonl'}")


def test_answers_in_brackets_are_scored_token_by_token() -> None:
    who = known.subject(known.Copier(), 100)
    tokens, answers = composition.parts(who, "ab cd ef. ab [cd]. x [zz]")
    assert who.decode(tokens) == "ab cd ef. ab cd. x zz"
    assert [who.decode(tokens[slice(*one)]) for one in answers] == [" cd", " zz"]
    texts = (("t", "ab cd ef. ab [cd]. x [zz]"),)
    found = known.asked(composition.CompositionSuite(texts), who)
    # " cd" follows " ab" as before; after " x" nothing is known.
    assert found["accuracy"] == 0.5


def test_the_authors_file_and_its_broken_lines(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    line = {"task_id": 7, "texts": ["Ada has a dog.", "So Ada has an [animal]."] * 4}
    path.write_text(json.dumps(line))
    found = suite(f"composition:{path}")
    assert isinstance(found, composition.CompositionSuite)
    assert found.texts == (("7", "\n".join(line["texts"])),)  # type: ignore[arg-type]
    for bad, said in [
        ('{"task_id": 1}', "line 2: texts: expected"),
        ('{"task_id": 1, "texts": ["no answer"]}', r"line 2: expected answers in \[ \]"),
        ('{"task_id": 1, "texts": [3]}', "line 2: expected texts"),
    ]:
        path.write_text(f"{json.dumps(line)}\n{bad}\n")
        with pytest.raises(SoftmapError, match=said):
            suite(f"composition:{path}")


def test_our_composition_texts_state_what_they_ask() -> None:
    setting = Setting(512, 257)
    for _, text in composition.CompositionSuite(samples=2)._texts(setting):
        lines = text.split("\n")[-8:]
        assert sum("[" in line for line in lines) == 6
    found = known.asked(composition.CompositionSuite(samples=2), known.subject(known.Copier(), 900))
    assert found["accuracy", "thing"] > 0.9 > found["accuracy", "kind"]


def test_a_reader_of_the_document_is_right_and_an_inventor_is_not() -> None:
    made = halluc.Halluc()
    case = made.case(Setting(1, 1).generator(3), stated=True)
    assert case.answer is not None and f" {case.answer}." in case.prompt
    other = next(value for value in case.possible if value != case.answer)
    assert halluc.graded(case, f" {case.answer}.") == (True, False)
    assert halluc.graded(case, f" {other}.") == (False, True)
    assert halluc.graded(case, f" {case.answer} or {other}") == (False, True)
    assert halluc.graded(case, " not stated") == (False, False)
    missing = made.case(Setting(1, 1).generator(3), stated=False)
    assert missing.answer is None
    assert halluc.graded(missing, " not stated") == (True, False)
    assert halluc.graded(missing, f" {missing.possible[0]}") == (False, True)
    who, kind = missing.prompt.split("\n")[-1].split(" Answer")[0], missing.prompt.split("\n")[0]
    assert who not in kind


def test_hallucination_by_a_model_that_always_says_the_same() -> None:
    answer = known.subject(known.Fixed(list(b"Answer:"), list(b" not stated\n")), 900)
    found = known.asked(halluc.Halluc(documents=6), answer)
    assert found["correct", "no"] == 1 and found["correct", "yes"] == 0
    assert found["hallucinated"] == 0


def test_signal_of_a_model_that_is_the_identity() -> None:
    """Blocks that add nothing: the same states and gradients at every depth."""
    model = known.tiny(layers=3)
    for layer in model.model.layers:
        for module in (layer.attention.o_proj, layer.mlp.down_proj):
            module.weight.data.zero_()
    text = known.random_text()
    found = known.asked(signal.Signal(windows=2), known.subject(model), text=text)
    assert found["similarity", 2] == pytest.approx(found["similarity", 0])
    assert found["gradient", 1] == pytest.approx(1, rel=1e-5)
    x = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    import torch

    assert signal.similarity(torch.tensor(x)) == pytest.approx(1 / 3)


def test_a_copier_finds_needles_among_tokens_and_composes_nothing() -> None:
    who = known.subject(known.Copier(128), 128, text=False)
    found = known.asked(token_needles.TokenNeedles(sequences=4), who)
    assert found["accuracy", 1] == found["accuracy", 16] == 1
    found = known.asked(token_composition.TokenComposition(sequences=4), who)
    assert found["accuracy", "held out"] < 0.4


def test_lengths_without_positions_are_left_out() -> None:
    """Learned positions end with the context: what is longer has no answer, and that is said."""
    model = known.tiny("transformer++(position=learned)", vocabulary=128)
    told: list[str] = []
    who = known.subject(model, 64, text=False)
    found = known.asked(recall.RecallSuite(sequences=2), who, context=128, tell=told.append)
    assert ("accuracy", 16) in found and ("accuracy", 32) not in found
    assert "no sequences of 128 tokens: learned positions reach 64" in told[0]
