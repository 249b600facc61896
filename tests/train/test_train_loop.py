from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import pytest
import torch
from train_stub import BATCH, CONTEXT, Stub, batches, same, weights

from softmap.errors import SoftmapError
from softmap.train import NonFiniteLoss, TrainingOptions, train

OPTIONS = TrainingOptions(
    steps=20,
    budgets=(10, 20),
    batch_size=BATCH,
    micro_batch_size=3,
    context=CONTEXT,
    peak_lr=0.05,
    warmup=2,
    decay_fraction=0.3,
    checkpoint_every=4,
    log_every=3,
    label="stub",
)


class Budgets:
    """Records the callback's calls, and disturbs the random state as an evaluation may."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []
        self.weights: dict[int, dict] = {}

    def __call__(self, index, step, model):
        assert not model.training
        torch.rand(7)
        self.calls.append((index, step))
        self.weights[index] = weights(model)


def lines(folder):
    text = (folder / "train.jsonl").read_text()
    timed = ("seconds", "tokens_per_second")
    return [
        {k: v for k, v in json.loads(line).items() if k not in timed} for line in text.splitlines()
    ]


def stop_after(calls):
    """True at the question before step number ``calls`` (each step asks once before)."""
    count = iter(range(10**6))
    return lambda: next(count) >= calls


def interrupted(folder, options, stops):
    """Runs to the end with an interruption after each number of further steps in ``stops``."""
    seen = Budgets()
    for steps in stops:
        model = Stub(seed=99)  # a resumed model's own initialisation must not matter
        if not (folder / "checkpoints").exists():
            model = Stub()
        state = train(
            model, batches, options, folder, on_budget=seen, should_stop=stop_after(steps)
        )
        assert not state.finished
    model = Stub(seed=99)
    state = train(model, batches, options, folder, on_budget=seen)
    assert state.finished
    return model, state, seen


@pytest.mark.parametrize("schedule", ["wsd-s", "wsd", "cyclic-cosine", "cosine-oracle", "cosine"])
def test_interrupted_and_resumed_is_bit_for_bit_the_uninterrupted_run(tmp_path, schedule):
    budgets = (20,) if schedule == "cosine" else (10, 20)
    options = replace(OPTIONS, schedule=schedule, budgets=budgets)
    whole, seen = Stub(), Budgets()
    train(whole, batches, options, tmp_path / "whole", on_budget=seen)
    torch.rand(1)
    model, state, again = interrupted(tmp_path / "parts", options, stops=[5, 3, 4])
    assert same(weights(whole), weights(model))
    assert seen.calls == again.calls
    assert all(same(seen.weights[i], again.weights[i]) for i in seen.weights)
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
    assert state.tokens == 20 * BATCH * CONTEXT


def test_dropout_takes_part_in_training():
    """Otherwise the test above would not notice a lost random state."""
    model = Stub()
    loss = [model(batches(0), batches(0)).loss.item() for _ in range(2)]
    assert loss[0] != loss[1]


def test_budgets_of_wsd_are_decayed_branches_of_one_undecayed_trunk(tmp_path):
    """Its first budget equals that of wsd-s; its second does not (no decay lies behind it)."""
    seen = {}
    for schedule in ("wsd", "wsd-s"):
        seen[schedule] = Budgets()
        options = replace(OPTIONS, schedule=schedule)
        train(Stub(), batches, options, tmp_path / schedule, on_budget=seen[schedule])
        assert seen[schedule].calls == [(0, 10), (1, 20)]
    assert same(seen["wsd"].weights[0], seen["wsd-s"].weights[0])
    assert not same(seen["wsd"].weights[1], seen["wsd-s"].weights[1])


def test_evaluating_at_budgets_leaves_no_trace_in_the_training(tmp_path):
    evaluated, plain = Stub(), Stub()
    train(evaluated, batches, OPTIONS, tmp_path / "a", on_budget=Budgets())
    train(plain, batches, OPTIONS, tmp_path / "b")
    assert same(weights(evaluated), weights(plain))


def test_the_model_is_trained_in_train_mode(tmp_path):
    evaluating, training = Stub().eval(), Stub()
    train(evaluating, batches, OPTIONS, tmp_path / "a")
    train(training, batches, OPTIONS, tmp_path / "b")
    assert same(weights(evaluating), weights(training))


def test_each_oracle_run_equals_a_run_of_its_own(tmp_path):
    seen, alone = Budgets(), Stub()
    train(
        Stub(), batches, replace(OPTIONS, schedule="cosine-oracle"), tmp_path / "a", on_budget=seen
    )
    one = replace(OPTIONS, schedule="cosine", steps=20, budgets=(20,))
    train(alone, batches, one, tmp_path / "b")
    assert same(seen.weights[1], weights(alone))


def test_a_finished_run_is_loaded_and_not_trained_or_evaluated_again(tmp_path):
    model, seen = Stub(), Budgets()
    train(model, batches, OPTIONS, tmp_path, on_budget=seen)
    loaded = Stub(seed=5)
    state = train(loaded, pytest.fail, OPTIONS, tmp_path, on_budget=seen)
    assert state.finished and state.step == 20
    assert same(weights(model), weights(loaded))
    assert seen.calls == [(0, 10), (1, 20)]


def test_a_run_can_be_given_further_budgets(tmp_path):
    whole = Stub()
    longer = replace(OPTIONS, steps=30, budgets=(10, 20, 30))
    train(whole, batches, longer, tmp_path / "whole")
    train(Stub(), batches, OPTIONS, tmp_path / "parts")
    model = Stub(seed=5)
    train(model, batches, longer, tmp_path / "parts")
    assert same(weights(whole), weights(model))


def test_a_budget_whose_callback_failed_is_called_again_from_the_same_weights(tmp_path):
    seen = Budgets()

    def failing(index, step, model):
        seen(index, step, model)
        raise RuntimeError("evaluation failed")

    with pytest.raises(RuntimeError, match="evaluation failed"):
        train(Stub(), batches, OPTIONS, tmp_path, on_budget=failing)
    first = seen.weights[0]
    train(Stub(seed=5), batches, OPTIONS, tmp_path, on_budget=seen)
    assert seen.calls == [(0, 10), (0, 10), (1, 20)]
    assert same(first, seen.weights[0])


def test_going_back_to_an_older_checkpoint_repeats_steps_but_no_budget(tmp_path):
    whole, seen = Stub(), Budgets()
    train(whole, batches, OPTIONS, tmp_path, on_budget=seen)
    before = lines(tmp_path)
    newest = max((tmp_path / "checkpoints").iterdir())
    (newest / "model.safetensors").write_bytes(b"short")
    model = Stub(seed=5)
    with pytest.warns(RuntimeWarning, match="model.safetensors: expected"):
        train(model, batches, OPTIONS, tmp_path, on_budget=seen)
    assert seen.calls == [(0, 10), (1, 20)]
    assert same(weights(whole), weights(model))
    assert lines(tmp_path) == before


def test_metrics_average_over_the_interval_and_reach_every_tracker(tmp_path):
    every, third = [], []
    for log_every, seen in ((1, every), (3, third)):
        options = replace(OPTIONS, log_every=log_every)
        train(Stub(), batches, options, tmp_path / str(log_every), on_step=seen.append)
    assert [m["step"] for m in third] == [3, 6, 9, 10, 12, 15, 18, 20]
    for name in ("loss", "grad_norm"):
        mean = sum(m[name] for m in every[:3]) / 3
        assert third[0][name] == pytest.approx(mean)
    assert [m["lr"] for m in every[:2]] == [0.025, 0.05]
    assert every[9]["lr"] == pytest.approx(0.005)
    assert third[0]["tokens"] == 3 * BATCH * CONTEXT
    seconds = [m["seconds"] for m in every]
    assert seconds == sorted(seconds) and seconds[0] > 0
    assert [m["step"] for m in lines(tmp_path / "3")] == [m["step"] for m in third]


def test_seconds_go_on_after_a_resume(tmp_path):
    seen = []
    state = train(Stub(), batches, OPTIONS, tmp_path, should_stop=stop_after(9))
    train(Stub(), batches, OPTIONS, tmp_path, on_step=seen.append)
    assert seen[0]["seconds"] > state.seconds > 0


def test_a_torn_line_and_lines_after_the_checkpoint_are_dropped(tmp_path):
    train(Stub(), batches, OPTIONS, tmp_path, should_stop=stop_after(9))
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"segment": 0, "step": 10, "loss": 1.0}\n{"segm')
    train(Stub(), batches, OPTIONS, tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == [3, 6, 9, 10, 12, 15, 18, 20]
    assert all("lr" in line for line in lines(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_after_the_current_step(tmp_path, number):
    def interrupting(step):
        if step == 5:
            os.kill(os.getpid(), number)
        return batches(step)

    before = signal.getsignal(number)
    state = train(Stub(), interrupting, OPTIONS, tmp_path)
    assert (state.finished, state.step, state.signal) == (False, 6, number)
    assert signal.getsignal(number) == before
    model, whole = Stub(seed=5), Stub()
    train(model, batches, OPTIONS, tmp_path)
    train(whole, batches, OPTIONS, tmp_path / "whole")
    assert same(weights(model), weights(whole))


def test_a_second_interrupt_is_not_held_back(tmp_path):
    def impatient(step):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        return batches(step)

    with pytest.raises(KeyboardInterrupt):
        train(Stub(), impatient, OPTIONS, tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_loss_names_step_variant_and_last_good_checkpoint(tmp_path, bad):
    class Failing(Stub):
        calls = 0

        def forward(self, input_ids, labels, shift_labels=None):
            output = super().forward(input_ids, labels, shift_labels)
            self.calls += 1
            output.loss = output.loss * (bad if self.calls > 14 else 1)  # two, then two a step
            return output

    model = Failing()
    with pytest.raises(NonFiniteLoss) as caught:
        train(model, batches, OPTIONS, tmp_path)
    assert (caught.value.step, caught.value.label) == (6, "stub")
    message = str(caught.value)
    assert "stub" in message and "step 6" in message and "000-000000004" in message
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_a_run_with_other_options_or_another_model_is_refused(tmp_path):
    train(Stub(), batches, OPTIONS, tmp_path)
    with pytest.raises(SoftmapError, match=r"expected peak_lr 0\.1, found 0\.05"):
        train(Stub(), batches, replace(OPTIONS, peak_lr=0.1), tmp_path)
    other = Stub()
    other.mix = torch.nn.Linear(8, 8, bias=False)
    with pytest.raises(SoftmapError, match=r"mix\.bias: expected no such tensor, found float32"):
        train(other, batches, OPTIONS, tmp_path)
    with pytest.raises(SoftmapError, match=r"expected run diff, found"):
        train(Stub(), batches, replace(OPTIONS, run="diff"), tmp_path)
    train(Stub(), batches, replace(OPTIONS, micro_batch_size=2, log_every=1, label="b"), tmp_path)


def test_a_batch_of_another_shape_is_refused(tmp_path):
    with pytest.raises(SoftmapError, match=r"expected token ids int64 of shape \(4, 7\)"):
        train(Stub(), lambda step: batches(step)[:, :-1], OPTIONS, tmp_path)


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0, "budgets": ()},
        {"steps": 30},
        {"micro_batch_size": 5},
        {"clip": 0.0},
        {"precision": "fp8"},
        {"min_lr_ratio": 0.0},
        {"schedule": "cosine"},
        {"warmup": 7},
    ],
)
def test_options_that_make_no_sense_are_refused(bad):
    with pytest.raises(SoftmapError):
        replace(OPTIONS, **bad)
