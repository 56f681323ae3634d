"""Pictures that are put together for the locator: hands, boxes and sides, and that (seed, epoch, index) decides all."""

import numpy as np
import pytest
from whole_frames_made import made_frames

from amt.data import whole_frames
from amt.data.dexycb import DexYCB
from amt.data.whole_frames import HAND, HEIGHT, OBJECT, WIDTH, compose, read_whole_frames

FRAMES = made_frames(12)
SAMPLES = [compose(FRAMES, 256, 192, 0, 0, k, plain=True) for k in range(400)]


def reddish(image):
    """bool [h, w]: where a made hand is, without its thumb."""
    r, g, b = (image[..., k].astype(int) for k in range(3))
    return (r > 150) & (g < 90) & (b < 90)


def in_sight(box, margin=0):
    return (box[:2] >= margin).all() and box[2] <= 256 - margin and box[3] <= 192 - margin


def test_there_are_pictures_with_one_hand_two_and_none():
    counts = np.bincount([len(sample.boxes) for sample in SAMPLES])
    assert len(counts) == 3
    assert (counts > 60).all()


def test_a_box_lies_around_its_hand():
    whole = 0
    for sample in SAMPLES:
        for box in sample.boxes:
            if not in_sight(box, 2) or len(sample.ignored):
                continue
            y, x = np.nonzero(reddish(sample.image))
            inside = (x > box[0] - 2) & (x < box[2] + 2) & (y > box[1] - 2) & (y < box[3] + 2)
            edges = np.array([x[inside].min(), y[inside].min(), x[inside].max(), y[inside].max()])
            whole += np.abs(edges - box).max() < 3.5
    assert whole > 0.9 * sum(
        in_sight(box, 2) and not len(s.ignored) for s in SAMPLES for box in s.boxes
    )  # others are covered in part


def test_the_side_is_that_of_what_is_seen():
    """A made right hand has its thumb on the left, mirrored it is a left hand."""
    compared = {True: 0, False: 0}
    for sample in SAMPLES:
        for box, right in zip(sample.boxes, sample.right):
            if not in_sight(box) or len(sample.boxes) + len(sample.ignored) > 1:
                continue
            left, top, far, bottom = box.round().astype(int)
            _, x = np.nonzero((sample.image[top:bottom, left:far] > 200).all(-1))
            assert (x.mean() < (far - left) / 2) == right
            compared[bool(right)] += 1
    assert min(compared.values()) > 40


def test_what_is_said_to_be_without_a_hand_shows_none():
    for sample in SAMPLES:
        if not len(sample.boxes) and not len(sample.ignored):
            assert reddish(sample.image).sum() < 40  # px, of some 1,000 of a hand


def test_a_hand_that_is_painted_over_is_gone_and_its_object_may_stay():
    pictures = [compose(FRAMES, 256, 192, 1, 0, k, empty=1) for k in range(200)]
    with_object = [(p.image[..., 2] > 150).sum() > 100 for p in pictures]
    assert 0.1 < np.mean(with_object) < 0.9
    assert not any(len(p.boxes) for p in pictures)


def test_a_hand_that_is_cut_by_the_edge_is_neither_a_hand_nor_none(monkeypatch):
    monkeypatch.setattr(whole_frames, "TWO", 0.0)
    samples = [compose(FRAMES, 256, 192, 2, 0, k, empty=0) for k in range(600)]
    cut = [s for s in samples if len(s.ignored)]
    assert len(cut) >= 3
    for sample in cut:
        for box in sample.ignored:
            inside = np.minimum(box[2:], (256, 192)) - np.maximum(box[:2], 0)
            assert 0 < inside.prod() < 0.75 * (box[2:] - box[:2]).prod()


def test_skin_is_where_hands_are_seen():
    for sample in SAMPLES[:100]:
        red = reddish(sample.image) | (sample.image > 200).all(-1)
        assert (red & (sample.skin > 200)).sum() > 0.9 * (sample.skin > 200).sum() - 5


def test_a_sample_derives_from_seed_epoch_and_index():
    def digest(*key):
        return compose(FRAMES, 256, 192, *key).image.tobytes()

    assert digest(0, 0, 5) == digest(0, 0, 5)
    assert len({digest(0, 0, 5), digest(1, 0, 5), digest(0, 1, 5), digest(0, 0, 6)}) == 4


def test_frames_are_read_with_their_marks(tiny_set):
    reader = DexYCB(tiny_set, "s0", "train")
    frames = read_whole_frames(reader, 7)
    assert frames.images.shape == (7, HEIGHT, WIDTH, 3)
    chosen = np.linspace(0, len(reader) - 1, 7).round().astype(int)
    for k, index in enumerate(chosen):
        frame = reader[int(index)]
        np.testing.assert_allclose(frames.joints[k], (frame.joints_2d + 0.5) / 2 - 0.5, atol=1e-3)
        assert frames.right[k] == (frame.sequence.side == "right")
        segment = frame.segment()
        assert np.abs((frames.marks[k] == HAND).mean() - (segment == 255).mean()) < 0.004
        assert np.abs((frames.marks[k] == OBJECT).mean() - (segment == frame.sequence.class_id).mean()) < 0.004


def test_a_frame_that_cannot_be_read_is_left_out_and_counted(own_set):
    reader = DexYCB(own_set, "s0", "train")
    reader[3].image_path.write_bytes(b"")
    assert len(read_whole_frames(reader, len(reader))) == len(reader) - 1
    assert "color_" in reader.report()


@pytest.mark.parametrize("size", [(256, 192), (128, 96), (96, 128)])
def test_any_size_can_be_made(size):
    sample = compose(FRAMES, *size, 0, 0, 3)
    assert sample.image.shape == (size[1], size[0], 3)
