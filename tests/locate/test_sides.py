"""The model's word on a side that the finder is not sure of."""

import math

import pytest

from amt.locate.sides import DOUBT, in_doubt, log_odds, word


def test_odds_have_the_sign_of_the_side():
    assert log_odds("right", 0.9) == pytest.approx(math.log(9))
    assert log_odds("left", 0.9) == pytest.approx(-math.log(9))
    assert log_odds("left", 0.5) == 0
    assert math.isfinite(log_odds("right", 1.0))


def test_only_small_odds_are_in_doubt():
    assert in_doubt(0.99 * DOUBT)
    assert in_doubt(-0.99 * DOUBT)
    assert not in_doubt(DOUBT)
    assert not in_doubt(-DOUBT)


@pytest.mark.parametrize(("as_right", "as_left", "sign"), [(1.0, 1.5, 1), (1.5, 1.0, -1), (1.0, 1.0, 0)])
def test_the_side_with_narrower_maps_gains(as_right, as_left, sign):
    assert (word(as_right, as_left) > 0) - (word(as_right, as_left) < 0) == sign


def test_a_look_that_says_nothing_changes_nothing():
    assert word(math.nan, 1.0) == word(1.0, math.inf) == 0
