"""The second look: crops around proposals, in any picture's own pixels."""

import numpy as np
import torch

from amt.locate import ModelLocator
from amt.locate.second_look import verify
from amt.model.locator import FoundHand, Locator, LocatorConfig
from amt.model.verifier import SIZE, Verifier


class Blob(Verifier):
    """Sees a hand where the crop is bright, right where it is red, in the box of the bright px."""

    def judge(self, crops, both_ways=True):
        bright = crops.float().amax(1) > 127
        hand, right, boxes = [], [], []
        for crop, seen in zip(crops, bright):
            y, x = seen.nonzero(as_tuple=True)
            found = len(x) > 20
            hand.append(0.9 if found else 0.1)
            right.append(float(crop[0][seen].float().mean() > 127) if found else 0.5)
            boxes.append([x.min(), y.min(), x.max(), y.max()] if found else [20, 20, 60, 60])
        return torch.tensor(hand), torch.tensor(right), torch.tensor(boxes, dtype=torch.float32)


def picture(height=300, width=500):
    image = np.zeros((height, width, 3), np.uint8)
    image[100:160, 200:280, 0] = 255
    image[200:240, 400:430, 2] = 255
    return image


def test_boxes_come_back_in_the_pictures_pixels():
    rough = np.array([[190.0, 90.0, 270.0, 150.0], [395.0, 205.0, 425.0, 250.0], [20.0, 20.0, 60.0, 60.0]])
    first, second, none = verify(Blob(), [picture()], [rough])[0]
    np.testing.assert_allclose(first.box, (200, 100, 279, 159), atol=2.0)
    np.testing.assert_allclose(second.box, (400, 200, 429, 239), atol=1.5)
    np.testing.assert_allclose((first.right, second.right), (1, 0), atol=1e-5)
    np.testing.assert_allclose([first.score, none.score], [0.9, 0.1], atol=1e-6)


def test_two_proposals_of_one_hand_are_one_hand():
    rough = np.array([[190.0, 90.0, 270.0, 150.0], [210.0, 110.0, 290.0, 170.0]])
    assert len(verify(Blob(), [picture()], [rough])[0]) == 1


def test_pictures_of_any_sizes_and_without_proposals():
    rough = np.array([[190.0, 90.0, 270.0, 150.0]])
    found = verify(Blob(), [picture(), picture(10, 10), picture(900, 600)], [rough, np.zeros((0, 4)), rough])
    assert [len(hands) for hands in found] == [1, 0, 1]
    assert verify(Blob(), [], []) == []


def test_a_locator_of_two_stages_says_what_the_second_one_sees():
    locator = Locator(LocatorConfig(threshold=0.5, verifier=(8, 8, 8)))
    locator.verifier = Blob()
    scale = 192 / 640
    boxes = [(380, 180, 560, 340), (40, 40, 120, 120)]
    proposals = [FoundHand(tuple((np.array(b) + 0.5) * scale - 0.5), 0.06, 0.5) for b in boxes]
    locator.find = lambda images, threshold: [proposals] * len(images)
    image = np.zeros((480, 640, 3), np.uint8)
    image[200:320, 400:560, 0] = 255
    (hand,) = ModelLocator(locator).locate(image)
    np.testing.assert_allclose(hand.tight, (400, 200, 559, 319), atol=4)
    assert (hand.side, round(hand.side_score, 4)) == ("right", 1)
    assert hand.box[2] > SIZE
    assert len(ModelLocator(locator, threshold=0.05).locate(image)) == 2


def test_where_every_picture_shows_a_hand_the_surest_candidate_counts():
    unsure, unlikely = (FoundHand((20.0 + x, 20.0, 60.0 + x, 60.0), score, 0.9) for x, score in ((0, 0.3), (80, 0.1)))
    locator, image = Locator(LocatorConfig(threshold=0.5)), np.zeros((144, 192, 3), np.uint8)

    def find(seen, always):
        locator.find = lambda images, threshold: [[hand for hand in seen if hand.score >= threshold]]
        return [hand.score for hand in ModelLocator(locator, always=always).locate(image)]

    assert find([unsure, unlikely], False) == []
    assert find([unsure, unlikely], True) == [0.3]
    assert find([unsure._replace(score=0.6), unlikely], True) == [0.6]
    assert find([], True) == []


def test_hands_below_the_threshold_are_marked_where_they_are_asked_for():
    hands = [FoundHand((20.0 + x, 20.0, 60.0 + x, 60.0), score, 0.9) for x, score in ((0, 0.95), (80, 0.3), (160, 0.1))]
    network = Locator(LocatorConfig(channels=(8, 8, 8), threshold=0.9))
    network.find = lambda pictures, least: [[hand for hand in hands if hand.score >= least]]
    picture = np.zeros((120, 320, 3), np.uint8)

    def found(**settings):
        return [(hand.score, hand.sure) for hand in ModelLocator(network, **settings).locate(picture)]

    assert found() == [(0.95, True)]
    assert found(unsure=0.2) == [(0.95, True), (0.3, False)]
    assert found(unsure=0.99) == [(0.95, True)]
    assert [hand.sure for hand in ModelLocator(network, unsure=0.2).plain().locate(picture)] == [True, False]


class Doubtful(Blob):
    """Doubts the side of an upright red blob; takes a turned one for a left hand. Keeps how many crops it saw."""

    def __init__(self, score=0.9):
        super().__init__()
        self.score, self.seen = score, []

    def judge(self, crops, both_ways=True):
        hand, _, boxes = super().judge(crops)
        filled = [
            bool((crop[0, int(b[1]) : int(b[3]) + 1, int(b[0]) : int(b[2]) + 1] > 127).float().mean() > 0.9)
            for crop, b in zip(crops, boxes)
        ]
        self.seen.append(len(crops))
        return torch.full_like(hand, self.score), torch.where(torch.tensor(filled), 0.6, 0.05), boxes


def test_a_side_in_doubt_is_looked_at_in_turned_squares():
    rough = np.array([[190.0, 90.0, 270.0, 150.0]])
    (hand,) = verify(doubtful := Doubtful(), [picture()], [rough])[0]
    assert doubtful.seen == [1, 1, 2, 2]
    np.testing.assert_allclose(hand.right, 1 / (1 + np.sqrt(0.4 / 0.6 * 0.95 / 0.05)), atol=1e-4)  # the logits' mean
    np.testing.assert_allclose(hand.box, (200, 100, 279, 159), atol=2.0)
    verify(doubtful := Doubtful(0.2), [picture()], [rough])
    assert doubtful.seen == [1, 1, 2]  # hardly a hand
    verify(sure := Doubtful(), [picture()[:, :, ::-1].copy()], [rough])  # no red: taken for left at once
    assert sure.seen == [1, 1, 2]
