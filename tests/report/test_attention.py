"""Map statistics by hand, and the packing that the page draws from."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from softmap.report import attention

# One layer, one head, three tokens; the last row is signed: masses 1/4, 1/4, 1/2.
MAPS = np.array([[[[1.0, 0, 0], [0.5, 0.5, 0], [0.5, -0.5, 1.0]]]])


def test_statistics_by_hand():
    numbers = attention.statistics(MAPS)
    assert numbers["first_token"] == pytest.approx((0.5 + 0.25) / 2)
    assert numbers["diagonal"] == pytest.approx((0.5 + 0.5) / 2)
    assert numbers["negative"] == pytest.approx((0 + 0.25) / 2)
    assert numbers["row_sum"] == pytest.approx(1.0)
    assert numbers["entropy"] == pytest.approx((np.log(2) + 1.5 * np.log(2)) / 2)
    assert numbers["effective_tokens"] == pytest.approx(2**1.25)


def test_uniform_maps_spread_over_every_visible_token():
    size = 6
    maps = np.tril(np.ones((2, 3, size, size)) / np.arange(1, size + 1)[:, None])
    numbers = attention.statistics(maps)
    assert numbers["entropy"] == pytest.approx(np.mean(np.log(np.arange(2, size + 1))))
    assert numbers["negative"] == 0


def test_zero_rows_and_a_single_token_are_no_error():
    assert attention.statistics(np.zeros((1, 1, 3, 3)))["entropy"] == 0
    assert attention.statistics(np.ones((1, 1, 1, 1)))["first_token"] == 0


def _unpack(packed):
    codes = np.frombuffer(base64.b64decode(packed["data"]), np.int8) / 127
    shape = (len(packed["layers"]), len(packed["heads"]), -1)
    return (codes * np.abs(codes)).reshape(shape) * np.array(packed["scales"])[..., None]


def test_packed_maps_come_back_within_the_stated_step():
    maps = np.tril(np.random.default_rng(0).normal(size=(2, 3, 7, 7)))
    packed = attention.pack(maps)
    i, j = np.tril_indices(7)
    error = np.abs(_unpack(packed) - maps[:, :, i, j]) / np.abs(maps).max((-1, -2))[..., None]
    assert error.max() < 0.009
    assert packed["size"] == 7


def test_large_models_are_thinned_evenly():
    packed = attention.pack(np.tril(np.ones((30, 40, 3, 3))))
    assert (len(packed["layers"]), len(packed["heads"])) == (12, 16)
    assert (packed["layers"][0], packed["layers"][-1], packed["heads"][-1]) == (0, 29, 39)
    assert _unpack(packed).shape == (12, 16, 6)


def test_caption_compares_with_the_control_and_names_the_sign():
    sharp = attention.statistics(MAPS) | {"effective_tokens": 2.0}
    control = sharp | {"effective_tokens": 4.0, "first_token": 0.5}
    text = attention.describe(sharp, control)
    assert text.startswith("Sharper than the control") and "(control 4.0)" in text
    assert "12% of it is negative" in text
    assert "None of it is negative" in attention.describe(sharp | {"negative": 0.0}, None)
