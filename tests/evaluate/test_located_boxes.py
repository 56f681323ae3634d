"""Crops of the boxes that a locator finds, and the side of a hand where the locator is in doubt."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from amt.evaluate.boxes import LocatedBatches, nearest, overlap
from amt.hand.camera import crop_camera
from amt.locate.squares import on_grid


class Made:
    """A locator that finds each hand a little beside its true box, and one more elsewhere; none in pictures of ``lost``."""

    def __init__(self, boxes, lost, odds=9.0):
        self.boxes, self.lost, self.odds = boxes, lost, odds

    def locate(self, image):
        number = int(image[0, 0, 0])
        if number in self.lost:
            return [SimpleNamespace(box=(5.0, 5.0, 10.0), side="left", odds=-9.0)]
        x, y, side = self.boxes[number]
        return [
            SimpleNamespace(box=(600.0, 20.0, 30.0), side="left", odds=-9.0),
            SimpleNamespace(box=(x + 4, y, side), side="right", odds=self.odds),
        ]


class Sided(torch.nn.Linear):
    """A model whose maps are narrower for left hands in the crops whose first pixel is 1, for right ones in others.

    Its joints [B, 21, 3] (m) are these, or unknown.
    """

    def __init__(self, joints=None):
        super().__init__(1, 1)
        self.asked, self.joints = 0, joints

    def forward(self, inputs):
        self.asked += len(inputs.image)
        left = inputs.image[:, 0, 0, 0] == 1
        doubt = torch.where(inputs.right == left, 2.0, 1.0)
        joints = torch.full((len(left), 21, 3), float("nan")) if self.joints is None else self.joints
        return SimpleNamespace(keypoints=SimpleNamespace(doubt=lambda count: doubt), joints=joints)


def test_located_crops_are_cut_from_the_full_picture(make_batch):
    batch = make_batch(3, seed=4)
    k = batch.inputs.frame_intrinsics[0].numpy()

    def frame_at(index):
        rows = np.broadcast_to(np.arange(480, dtype=np.uint8)[:, None, None], (480, 640, 3)).copy()
        rows[0, 0] = index
        return SimpleNamespace(image=lambda: rows, intrinsics=k)

    locator, model = Made(batch.inputs.box.tolist(), {1}), Sided()
    found = LocatedBatches([batch], SimpleNamespace(frame_at=frame_at), locator, model)
    (moved,) = list(found)
    assert model.asked == 2  # no side is in doubt: once for the square of each hand that was found
    assert found.missed == {1}
    seen = torch.from_numpy(on_grid(batch.inputs.box[0].numpy() + np.array((4.0, 0, 0)))).float()
    torch.testing.assert_close(moved.inputs.box[0], seen)
    torch.testing.assert_close(moved.inputs.box[1], batch.inputs.box[1])
    assert torch.equal(moved.inputs.image[1], batch.inputs.image[1])
    assert not torch.equal(moved.inputs.image[0], batch.inputs.image[0])
    # The pixel in the middle of the crop shows the row of the picture at the box's centre.
    middle = float(moved.inputs.image[0, 0, 55:57, 55].float().mean())
    assert middle == pytest.approx(float(seen[1]) % 256, abs=1.5)
    # The same ray lies at the same place: K of the crop belongs to the new box.
    centre, of_frame = moved.inputs.intrinsics[0, 0, 2], batch.inputs.frame_intrinsics[0, 0, 2]
    assert float(centre) == pytest.approx(55.5 + float(of_frame - seen[0]) * 112 / float(seen[2]), abs=1e-2)


@pytest.mark.parametrize(("odds", "answer"), [(0.5, [True, False, True]), (9.0, [True, True, True])])
def test_the_model_decides_on_sides_in_doubt(make_batch, monkeypatch, odds, answer):
    batch = make_batch(3, seed=4)
    k, numbers = batch.inputs.frame_intrinsics[0].numpy(), iter((0, 1, 2))
    monkeypatch.setattr("amt.evaluate.boxes.cut", lambda *_: np.full((112, 112, 3), next(numbers), np.uint8))

    def frame_at(index):
        return SimpleNamespace(image=lambda: np.full((480, 640, 3), index, np.uint8), intrinsics=k)

    locator, model = Made(batch.inputs.box.tolist(), (), odds), Sided()
    (asked,) = LocatedBatches([batch], SimpleNamespace(frame_at=frame_at), locator, model)
    assert asked.inputs.right.tolist() == answer
    assert model.asked == (6 if odds < 1 else 3)


def test_a_square_that_the_joints_do_not_fit_is_replaced_by_theirs(make_batch):
    batch = make_batch(2, seed=4)
    k = batch.inputs.frame_intrinsics[0].numpy()
    picture = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    picture[0, 0] = 0
    reader = SimpleNamespace(frame_at=lambda index: SimpleNamespace(image=lambda: picture, intrinsics=k))
    found = np.array((320.0, 240.0, 150.0))
    # the first hand lies to the right of its square and is larger, the second one fills its square
    wide = np.array([[(360 + 120 * dx, 240 + 100 * dy) for dx, dy in ((-0.5, -0.5), (0.5, 0.5))]]).repeat(11, 1)[:, :21]
    tight = (wide - (360, 240)) * 100 / 120 + (320, 240)
    pixels = np.concatenate((wide, tight))
    rays = np.concatenate((pixels, np.ones((2, 21, 1))), 2) @ np.linalg.inv(k.astype(np.float64)).T
    model = Sided(torch.from_numpy(rays * 0.6).float())
    locator = SimpleNamespace(locate=lambda image: [SimpleNamespace(box=found, side="right", odds=9.0)])
    batch.inputs.box[:] = torch.from_numpy(found)
    (settled,) = LocatedBatches([batch], reader, locator, model)
    torch.testing.assert_close(settled.inputs.box[0], torch.tensor((360.0, 240.0, 180.0)), atol=0, rtol=0)
    torch.testing.assert_close(settled.inputs.box[1], torch.from_numpy(found).float())
    again, _ = crop_camera(k.astype(np.float64), np.array((360.0, 240, 180)), settled.inputs.image.shape[-1])
    torch.testing.assert_close(settled.inputs.intrinsics[0], again.float(), atol=0, rtol=0)
    assert not torch.equal(settled.inputs.image[0], settled.inputs.image[1])


def test_the_overlap_of_squares():
    a = np.array((10.0, 10, 4))
    assert overlap(a, a) == 1
    assert overlap(a, np.array((12.0, 10, 4))) == pytest.approx(8 / 24)
    assert overlap(a, np.array((19.0, 10, 4))) == 0
    assert nearest([], a) is None
