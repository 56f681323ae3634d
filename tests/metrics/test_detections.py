"""Average precision, recall and false alarms of found boxes, against cases worked out by hand."""

import math

import numpy as np
import pytest

from amt.metrics.detections import average_precision, box_iou, false_alarms, matches, recall

A, B, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [100, 100, 110, 110]
NONE = np.zeros((0, 4)), np.zeros(0)


def test_overlap_is_shared_area_over_covered_area():
    iou = box_iou(np.array([A, B]), np.array([A, [5, 0, 15, 10], FAR]))
    np.testing.assert_allclose(iou, [[1, 50 / 150, 0], [0, 0, 0]])
    assert box_iou(np.zeros((0, 4)), np.array([A])).shape == (0, 1)


def test_a_true_box_is_taken_once_and_by_the_surest():
    near = [1, 0, 11, 10]
    assert matches(np.array([near, A]), np.array([0.3, 0.9]), np.array([A])).tolist() == [-1, 0]
    assert matches(np.array([A, near]), np.array([0.3, 0.9]), np.array([A])).tolist() == [-1, 0]


def test_the_second_of_two_found_boxes_takes_the_free_hand_that_it_overlaps():
    true = np.array([A, [4, 0, 14, 10]])
    found = np.array([[1, 0, 11, 10], [2, 0, 12, 10]])
    assert sorted(matches(found, np.array([0.9, 0.8]), true, 0.4).tolist()) == [0, 1]


def test_every_hand_found_and_nothing_else_is_a_precision_of_one():
    pictures = [np.array([A]), np.array([A, B])]
    scores = [np.array([0.4]), np.array([0.9, 0.2])]
    assert average_precision(pictures, scores, pictures) == 1
    assert recall(pictures, scores, pictures) == 1


def test_precision_counts_what_is_surer_than_a_hand():
    """Right, wrong, right for two hands: precision 1 at half the recall, 2/3 at all of it."""
    found = [np.array([A, FAR, B])]
    assert average_precision(found, [np.array([0.9, 0.8, 0.7])], [np.array([A, B])]) == pytest.approx(
        0.5 * 1 + 0.5 * 2 / 3
    )
    # a wrong one that is less sure than all hands costs nothing
    assert average_precision(found, [np.array([0.9, 0.1, 0.7])], [np.array([A, B])]) == 1


def test_scores_are_compared_over_pictures():
    """The wrong box of the second picture is surer than the hand of the first."""
    found, true = [np.array([A]), np.array([FAR])], [np.array([A]), np.zeros((0, 4))]
    assert average_precision(found, [np.array([0.5]), np.array([0.9])], true) == pytest.approx(0.5)


def test_a_missed_hand_counts_in_both():
    found, true = [np.array([A]), NONE[0]], [np.array([A]), np.array([B])]
    assert recall(found, [np.array([0.9]), NONE[1]], true) == 0.5
    assert average_precision(found, [np.array([0.9]), NONE[1]], true) == 0.5


def test_false_alarms_are_pictures_and_not_boxes():
    assert false_alarms([np.array([0.9, 0.8]), NONE[1], NONE[1], NONE[1]]) == 0.25


def test_without_hands_or_pictures_there_is_no_figure():
    assert math.isnan(average_precision([NONE[0]], [NONE[1]], [NONE[0]]))
    assert math.isnan(recall([NONE[0]], [NONE[1]], [NONE[0]]))
    assert math.isnan(false_alarms([]))
