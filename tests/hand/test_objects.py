"""The box around an object's points: one order of corners for keypoints, losses and pictures."""

import numpy as np
import torch

from amt.hand.objects import NUM_CORNERS, box_corners


def test_the_corner_s_number_says_where_it_lies():
    points = torch.tensor([[0.0, 0, 0], [1, 2, 3], [0.5, 1, 1]])
    corners = box_corners(points)
    for number in range(NUM_CORNERS):
        x, y, z = number >> 2 & 1, number >> 1 & 1, number & 1
        assert corners[number].tolist() == [x * 1.0, y * 2.0, z * 3.0]


def test_arrays_batches_and_tensors_have_the_same_corners():
    points = np.random.default_rng(0).normal(size=(2, 5, 30, 3)).astype(np.float32)
    corners = box_corners(points)
    assert corners.shape == (2, 5, NUM_CORNERS, 3)
    assert corners.dtype == np.float32
    assert np.array_equal(box_corners(torch.from_numpy(points)).numpy(), corners)
    assert np.array_equal(box_corners(points[1, 3]), corners[1, 3])


def test_a_picture_s_box_has_twelve_edges_and_faces_seen_from_outside():
    from amt.draw.paint import BOX_EDGES, BOX_FACES

    corners = box_corners(np.random.default_rng(1).normal(size=(9, 3)))
    lengths = np.sort([np.abs(corners[a] - corners[b]).sum() for a, b in BOX_EDGES])
    sides = np.sort(np.repeat(corners[7] - corners[0], 4))
    np.testing.assert_allclose(lengths, sides)
    centre = corners.mean(0)
    for face in corners[BOX_FACES]:
        normal = np.cross(face[1] - face[0], face[2] - face[1])
        assert normal @ (face.mean(0) - centre) > 0  # counter-clockwise from outside
        np.testing.assert_allclose(face[0] + face[2], face[1] + face[3])  # its corners go around it
