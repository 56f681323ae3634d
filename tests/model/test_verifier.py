"""The locator's second stage: what its numbers mean, and that left is right in a mirror."""

import pytest
import torch

from amt.model.verifier import SIZE, UNIT, Verdict, Verifier


def crops(count, seed=0):
    return torch.randint(
        0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


@pytest.fixture(scope="module")
def verifier():
    torch.manual_seed(0)
    network = Verifier((16, 24, 32)).eval()
    with torch.no_grad():
        network.head.weight.mul_(30)  # answers that differ from picture to picture
    return network


def test_boxes_stand_in_the_crops_pixels():
    box = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.5, -0.25, 0.0, -0.6931472]])
    nothing = torch.zeros(2)
    boxes = Verdict(nothing, nothing, box, nothing, nothing, nothing).boxes()
    middle, half = (SIZE - 1) / 2, UNIT / 2
    torch.testing.assert_close(boxes[0], torch.tensor([middle - half, middle - half, middle + half, middle + half]))
    x, y = middle + UNIT / 2, middle - UNIT / 4
    torch.testing.assert_close(boxes[1], torch.tensor([x - half, y - half / 2, x + half, y + half / 2]))


def test_shapes(verifier):
    verdict = verifier(crops(3))
    assert [tuple(field.shape) for field in verdict] == [(3,), (3,), (3, 4), (3, 21), (3, 21, 2), (3, 10, 10)]
    assert verdict.joints.abs().max() < 1


def test_a_mirrored_crop_has_the_mirrored_answer(verifier):
    picture = crops(4)
    hand, right, boxes = verifier.judge(picture)
    mirrored_hand, mirrored_right, mirrored_boxes = verifier.judge(picture.flip(-1))
    assert right.std() > 1e-3
    torch.testing.assert_close(mirrored_hand, hand)
    torch.testing.assert_close(mirrored_right, 1 - right)
    left, top, far, bottom = boxes.unbind(1)
    torch.testing.assert_close(mirrored_boxes, torch.stack((SIZE - 1 - far, top, SIZE - 1 - left, bottom), 1))
