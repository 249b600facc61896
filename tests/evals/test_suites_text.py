"""Suites over text, each asked of a model whose answer is known."""

from __future__ import annotations

import math

import known
import numpy as np
import pytest

from softmap.errors import SoftmapError
from softmap.evals.catalogue import names, suite
from softmap.evals.question import Setting
from softmap.evals.suites.length import Length
from softmap.evals.suites.loss import Loss, octaves
from softmap.evals.suites.needles import FAITHFUL_CITIES, Needles, Prompt
from softmap.evals.suites.repeats import Repeats, distances, pairs_of_one_document
from softmap.evals.text import Text

LOG_V = math.log(257)


def test_a_uniform_model_loses_log_v_everywhere() -> None:
    found = known.asked(Loss(windows=3), known.subject(known.Uniform()), text=known.random_text())
    assert found["loss"] == pytest.approx(LOG_V, rel=1e-6)
    # One byte a token; the text's end is a token that is no byte.
    bits = LOG_V / math.log(2) * 20_001 / 20_000
    assert found["bits_per_byte"] == pytest.approx(bits, rel=1e-6)
    assert found["by_position", 1] == found["cumulative", 64] == pytest.approx(LOG_V, rel=1e-6)


def test_positions_are_binned_by_octaves() -> None:
    assert octaves(6) == [(0, 1), (1, 2), (2, 4), (4, 6)]
    assert octaves(4) == [(0, 1), (1, 2), (2, 4)]


def test_bits_per_byte_do_not_depend_on_the_tokens_size() -> None:
    """Two bytes a token, twice the loss a token: the same bits a byte."""
    text = Text("made", ("ab" * 500,))

    class Pairs:
        eod, hf = 0, None

        def encode_batch(self, texts: list[str]) -> list[list[int]]:
            return [[1] * (len(one) // 2) for one in texts]

    assert text.bytes_per_token(Pairs()) == pytest.approx(1000 / 501)


@pytest.mark.parametrize(("reach", "knows"), [(None, True), (64, False)])
def test_length_shows_who_reads_far(reach: int | None, knows: bool) -> None:
    """Text with a period of 100: who reads 128 tokens or more has seen what comes, and who looks
    64 back never has."""
    line = known.random_text(100).documents[0]
    who = known.subject(known.Copier(reach=reach), context=32)
    found = known.asked(Length(windows=2, times=8), who, text=Text("periodic", (line * 20,)))
    assert found["loss", 32] > 3
    assert (found["loss", 256] < 0.01) is knows
    assert (found["excess"] < -3) is knows


def test_every_length_has_the_same_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the text in front of them grows."""
    who, seen = known.subject(known.Uniform(), context=32), []

    def last_losses(window: np.ndarray, count: int) -> np.ndarray:
        seen.append((len(window) - 1, window[-count - 1 :].tolist()))
        return np.zeros(count)

    monkeypatch.setattr(who, "last_losses", last_losses)
    known.asked(Length(windows=1, times=8), who, text=known.random_text())
    assert [length for length, _ in seen] == [32, 64, 128, 256]
    assert all(targets == seen[0][1] for _, targets in seen)


def test_lengths_go_as_far_as_the_text() -> None:
    lengths = Length(times=8).lengths(32, 10_000)
    assert lengths == [32, 64, 128, 256]
    assert Length(times=8).lengths(32, 200) == [32, 64, 128]  # as far as the text goes
    assert suite("length:64").times == 64  # type: ignore[attr-defined]
    with pytest.raises(SoftmapError, match="expected a multiple of the context"):
        suite("length:far")


NEEDLES = Needles(samples=3, counts=((1, 1), (4, 1)), lengths=2, depths=(0, 10), per_cell=1)


def test_repeats_are_pairs_of_this_document_alone() -> None:
    """2 3 is in both documents; 4 2 is in the first alone, twice."""
    end = 9
    tokens = np.array([2, 3, 4, 2, 4, 2, end, 2, 3, 5, end])
    single = pairs_of_one_document(tokens, end)
    assert single == {(3, 4), (4, 2), (2, 4), (2, end), (end, 2), (3, 5), (5, end)}
    assert distances(tokens, single).tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 0, 0]


def test_a_copier_recalls_repeats_and_a_uniform_model_none() -> None:
    text = Text("made", ("abcdefghijklmnopqrst" * 20, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    copier, uniform = known.Copier(), known.Uniform()
    found = known.asked(Repeats(windows=2), known.subject(copier), text=text)
    assert found["recalled"] == 1 and found["repeated"] < 1e-6
    assert found["new"] > 1  # nothing says what comes next in the first 20
    found = known.asked(Repeats(windows=2), known.subject(uniform), text=text)
    assert [found["repeated", 32], found["new"]] == pytest.approx([LOG_V] * 2, rel=1e-6)


def test_a_copier_finds_every_needle() -> None:
    who = known.subject(known.Copier(), context=460)
    found = known.asked(NEEDLES, who, text=known.random_text())
    assert found["found"] == found["one"] == 1
    assert found["answer_loss"] < 0.5


def test_who_looks_64_tokens_back_misses_those_before() -> None:
    who = known.subject(known.Copier(reach=64), context=460)
    found = known.asked(NEEDLES, who, text=known.random_text())
    assert found["one", 460, 0.0] == 0
    assert found["found"] < 0.5


def test_a_uniform_model_finds_none() -> None:
    who = known.subject(known.Uniform(), context=400)
    found = known.asked(NEEDLES, who, text=known.random_text())
    assert found["found"] == found["one"] == 0
    assert found["answer_loss"] == pytest.approx(LOG_V, rel=1e-5)


@pytest.mark.parametrize(("way", "share"), [("faithful", 1.0), ("fixed", 0.0)])
def test_a_longer_number_is_a_hit_of_substrings_only(way: str, share: float) -> None:
    who = known.subject(known.Uniform())
    who.continued = lambda prompts, tokens: [who.encode(" 12345.")]  # type: ignore[method-assign]
    prompt = Prompt([1], ("234",), ((0, 1),), ((0, 1),), 0)
    assert Needles(way)._found(who, prompt) == share


def test_only_the_faithful_way_repeats_cities() -> None:
    assert len(FAITHFUL_CITIES) == 100 and len(set(FAITHFUL_CITIES)) == 69


def test_spans_hold_the_needle_and_its_number() -> None:
    who, setting = known.subject(known.Uniform(), context=600), Setting(600, 257)
    hay = known.random_text().tokens(who.tokenizer)
    prompt = Needles().prompt(who, hay, 600, [0.5, 0.1, 0.9], 1, setting.generator(1))
    for start, stop in prompt.spans:
        said = who.decode(prompt.tokens[start:stop])
        assert said.startswith("The special magic ") and said.endswith(".\n")
    (answer,) = prompt.answers
    assert who.decode(prompt.tokens[slice(*answer)]).strip(" .") == prompt.numbers[0]
    assert who.decode(prompt.tokens[prompt.question :]).strip().endswith("number is:")


def test_too_short_a_context_says_the_shortest() -> None:
    who = known.subject(known.Uniform(), context=100)
    with pytest.raises(SoftmapError, match=r"suite needles needs a context of at least \d{3}"):
        Needles().check(who, Setting(100, 257))


@pytest.mark.parametrize("name", ["loss", "length", "needles", "maps"])
def test_text_needs_a_tokenizer(name: str) -> None:
    who = known.subject(known.Uniform(), text=False)
    with pytest.raises(SoftmapError, match=f"it: suite {name} needs the model's tokenizer"):
        suite(name).check(who, Setting(64, 257))


def test_an_unknown_suite_is_answered_with_the_nearest() -> None:
    with pytest.raises(SoftmapError, match=r"no suite 'neddles' \(did you mean 'needles'"):
        suite("neddles")
    with pytest.raises(SoftmapError, match="suite loss takes no argument, found 'x'"):
        suite("loss:x")
    with pytest.raises(SoftmapError, match="expected fixed or faithful"):
        suite("needles:faithfull")


@pytest.mark.parametrize("name", names())
def test_every_suite_says_what_it_asks(name: str) -> None:
    found = suite(name)
    assert found.name == name and found.asks.endswith("?") and found.metrics
    assert {picture.metric for picture in found.pictures} <= {m.name for m in found.metrics}
    assert type(found.quick()) is type(found)
