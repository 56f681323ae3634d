"""Pictures show what they should where they should, and leave every other pixel alone."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from amt.draw import paint
from amt.draw.hand_object import errors
from amt.draw.paint import Layer
from amt.draw.pictures import close_up, film, overlay, panel, sheet, shown_box, side_view
from amt.draw.scene import TOUCHING, camera_view
from amt.hand.shipped import shipped_hand

NUM_VERTICES = shipped_hand().num_vertices


def drawn_on(image, scene):
    picture = overlay(image, scene)
    assert picture.shape == image.shape
    assert picture.dtype == np.uint8
    return picture, (picture != image).any(2)


def test_only_pixels_at_the_hand_and_the_object_change(photo, result):
    before = photo.copy()
    _, changed = drawn_on(photo, result)
    np.testing.assert_array_equal(photo, before)
    view = camera_view(result.intrinsics)
    shown = np.concatenate([view(result.vertices)[0], view(result.object_box)[0]])
    low, high = shown.min(0) - 5, shown.max(0) + 5
    ys, xs = np.nonzero(changed)
    assert xs.min() >= low[0]
    assert xs.max() <= high[0]
    assert ys.min() >= low[1]
    assert ys.max() <= high[1]
    assert changed.mean() > 0.01


def test_joints_are_drawn_where_they_project(photo, result):
    """The wrist's dot is the lightest thing in the picture, its centre within half a pixel of the projection."""
    picture, _ = drawn_on(np.zeros_like(photo), replace(result, object_points=None, hand_contact=None))
    x, y = np.round(result.joints_2d[0]).astype(int)
    patch = picture[y - 3 : y + 4, x - 3 : x + 4].astype(float).min(2)
    bright = patch > 200
    assert bright.any()
    ys, xs = np.nonzero(bright)
    weight = patch[bright]
    centre = np.array([(xs * weight).sum(), (ys * weight).sum()]) / weight.sum() + (x - 3, y - 3)
    np.testing.assert_allclose(centre, result.joints_2d[0], atol=0.5)


def test_contact_is_red_and_no_contact_is_not(photo, result):
    def red(scene):
        picture = overlay(np.full_like(photo, 90), scene).astype(int)
        return (np.abs(picture - TOUCHING).max(2) < 70).sum()

    nowhere = replace(result, hand_contact=np.zeros(NUM_VERTICES), object_contact=np.zeros(64))
    on_hand = replace(nowhere, hand_contact=np.ones(NUM_VERTICES))
    on_object = replace(nowhere, object_contact=np.ones(64))
    assert red(on_hand) > red(nowhere) + 200
    assert red(on_object) > red(nowhere) + 100


@pytest.mark.parametrize("shift", [(0, 0, -2.0), (5.0, 0, 0), (np.nan, 0, 0)])
def test_what_cannot_be_seen_changes_nothing(photo, result, shift):
    moved = replace(
        result,
        joints=result.joints + np.float32(shift),
        vertices=result.vertices + np.float32(shift),
        object_translation=result.object_translation + np.float32(shift),
    )
    assert not drawn_on(photo, moved)[1].any()
    assert panel(photo, moved, size=64).shape[1] == 2 * 64 + 4


def test_a_close_up_is_the_same_scene_enlarged(photo, result):
    """A joint lies in the close-up where the box says: the drawing and the photograph are cut alike."""
    size, box = 300, np.array((*result.joints_2d[0], 60.0))
    plain = replace(result, object_points=None, hand_contact=None)
    picture = close_up(np.zeros_like(photo), plain, box, size)
    assert (picture[149:151, 149:151] > 200).all()  # the wrist's light dot in the middle
    marked = np.zeros_like(photo)
    x, y = np.round(result.joints_2d[0]).astype(int)
    marked[y, x] = (0, 255, 0)
    far_away = replace(plain, joints=plain.joints - 3, vertices=plain.vertices - 3)
    ys, xs = np.nonzero(close_up(marked, far_away, box, size)[..., 1] > 128)
    expected = (np.array((x, y)) - box[:2]) * size / 60 + size / 2 - 0.5
    np.testing.assert_allclose((xs.mean(), ys.mean()), expected, atol=0.6)


def test_the_side_view_shows_depth_to_the_right(result):
    """Of two wrists, the farther one is drawn farther right, to scale."""
    truth = replace(result, object_points=None)
    for offset in (0.1, -0.1):
        moved = replace(
            truth, joints=truth.joints + np.array((0, 0, offset)), vertices=truth.vertices + np.array((0, 0, offset))
        )
        picture = side_view(moved, truth, 400, span=0.6)
        middle = ((moved.vertices + truth.vertices) / 2)[:, 2]
        columns = np.nonzero((np.ptp(picture.astype(int), axis=2) > 60).any(0))[0]  # in colour: the prediction
        grey = 199.5
        assert np.sign(columns.mean() - grey) == np.sign(offset)
        centre = 199.5 + (moved.joints[:, 2].mean() - middle.mean()) * 400 / 0.6
        assert abs(columns.mean() - centre) < 30


def test_panels_hold_prediction_truth_and_side(photo, result):
    alone, beside = panel(photo, result, size=96), panel(photo, result, result, size=96)
    assert alone.shape == (96 + 44, 2 * 96 + 4, 3)
    assert beside.shape == (96 + 44, 3 * 96 + 8, 3)
    assert panel(photo, result, result, size=96, vertical=True).shape == (3 * 96 + 8 + 44, 96, 3)
    np.testing.assert_array_equal(beside[30:96, :96], beside[30:96, 100:196])  # same scene, same picture
    assert film(photo, result).shape == (240, 320 + 240, 3)


def test_a_sheet_joins_pictures_and_needs_one(photo, result):
    one = panel(photo, result, size=64)
    page = sheet([one, one, one], columns=2, gap=10)
    assert page.shape == (2 * one.shape[0] + 10, 2 * one.shape[1] + 10, 3)
    np.testing.assert_array_equal(page[-one.shape[0] :, : one.shape[1]], one)
    with pytest.raises(ValueError, match="panels"):
        sheet([])


def test_the_shown_square_holds_hand_and_object(photo, result):
    square = shown_box([result], photo.shape)
    view = camera_view(result.intrinsics)
    for pixels in (result.joints_2d, view(result.object_box)[0]):
        assert (np.abs(pixels - square[:2]) <= square[2] / 2 + 1e-6).all()
    lost = replace(result, joints=np.full((21, 3), np.nan))
    assert np.isfinite(shown_box([lost], photo.shape)).all()


def test_a_layer_blends_by_its_cover(photo):
    picture = photo.copy()
    layer = Layer(240, 320)
    layer.polygons(np.array([[(50, 60), (90, 60), (90, 80), (50, 80)]], float), np.array([(10, 20, 30)]))
    layer.over(picture, 0.25)
    inside = picture[62:78, 52:88].astype(float)
    expected = photo[62:78, 52:88] * 0.75 + 0.25 * np.array((10, 20, 30))
    assert np.abs(inside - expected).max() <= 1
    untouched = np.ones((240, 320), bool)
    untouched[59:82, 49:92] = False
    np.testing.assert_array_equal(picture[untouched], photo[untouched])


def test_errors_are_millimetres(result):
    moved = replace(result, joints=result.joints + np.float32((0, 0, 0.02)))
    found = errors(moved, result)
    assert found["absolute_mm"] == pytest.approx(20, abs=1e-3)
    assert found["wrist_aligned_mm"] == pytest.approx(0, abs=1e-3)
    assert found["object_centre_mm"] == found["object_adds_mm"] == 0
    shifted = replace(result, object_translation=result.object_translation + np.float32((0.003, 0.004, 0)))
    assert errors(shifted, result)["object_centre_mm"] == pytest.approx(5, abs=1e-3)
    assert 0 < errors(shifted, result)["object_adds_mm"] <= 5
    assert "object_adds_mm" not in errors(replace(result, object_points=None), result)


def test_letters_are_those_of_pillow(photo):
    """Written from the cache of letters, at the borders too, or by Pillow itself: the same picture up to rounding."""
    from PIL import Image, ImageDraw

    from amt.draw.paint import _font, write

    for place, anchor in (((40, 50), "la"), ((160, 239), "ms"), ((319, 3), "ra"), ((-9, -4), "la"), ((900, 900), "la")):
        expected = Image.fromarray(photo)
        ImageDraw.Draw(expected).text(place, "◂ 65 cm", fill=(20, 200, 90), font=_font(18, True), anchor=anchor)
        for _ in range(2):
            picture = photo.copy()
            write(picture, "◂ 65 cm", place, (20, 200, 90), 18, bold=True, anchor=anchor)
            assert np.abs(picture.astype(int) - np.asarray(expected)).max() <= 2


def test_an_opening_is_closed_by_a_lid_that_looks_outwards():
    """A box without its upper side: the lid is that side, and the opposite faces of the box are no lid."""
    from amt.draw.paint import _lids

    corners = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4)]  # all but z = 1
    faces = np.array([(q[0], q[k], q[k + 1]) for q in quads for k in (1, 2)])
    lids = _lids(faces.tobytes(), faces.dtype.str)
    assert {int(v) for v in lids.ravel()} == {1, 3, 5, 7}
    a, b, c = (corners[lids[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    outwards = np.cross(*(corners[faces[0, k]] - corners[faces[0, 0]] for k in (1, 2)))[0] < 0  # of the side x = 0
    assert outwards
    assert (normals[:, 2] > 0).all()
    assert np.abs(normals).sum() == 2
    whole = np.concatenate((faces, lids))
    assert not len(_lids(whole.tobytes(), whole.dtype.str))


@pytest.mark.skipif(not paint.has_rasteriser(), reason="OpenCV 4 has no rasteriser")
def test_opencvs_rasteriser_paints_what_polygons_paint(photo, result, monkeypatch):
    drawn = film(photo, result)
    monkeypatch.setattr(paint, "has_rasteriser", lambda: False)
    away = np.abs(drawn.astype(int) - film(photo, result)).max(-1)
    assert away.any()  # two ways, not one
    # Along contours, half a pixel of the sheet: nothing that is 3 px wide differs.
    assert not cv2.erode(np.uint8(away > 40), np.ones((3, 3), np.uint8)).any()


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("rasteriser", [True, False])
def test_the_nearer_of_two_triangles_is_seen(monkeypatch, rasteriser, first):
    if rasteriser and not paint.has_rasteriser():
        pytest.skip("OpenCV 4 has no rasteriser")
    monkeypatch.setattr(paint, "has_rasteriser", lambda: rasteriser)
    square = np.array(((5.0, 5), (5, 35), (35, 5)))
    pixels = np.concatenate((square, square + 4))
    seen = np.column_stack((pixels / 100, np.repeat((0.5, 0.4) if first else (0.4, 0.5), 3)))
    colours = np.repeat(((0, 0, 200.0), (200, 0, 0)), 3, axis=0)
    layer, picture = paint.Layer(64, 64), np.zeros((64, 64, 3), np.uint8)
    paint.paint_mesh(layer, pixels, seen, np.arange(6).reshape(2, 3), colours)
    layer.over(picture)
    assert picture[7, 7].argmax() == 2  # the first alone
    assert picture[15, 15].argmax() == (0 if first else 2)
    assert not picture[45:, 45:].any()


def test_points_without_a_place_leave_their_triangles_out():
    if not paint.has_rasteriser():
        pytest.skip("OpenCV 4 has no rasteriser")
    points = np.array(((5.0, 5), (5, 35), (35, 5), (np.nan, 3), (1e9, 3)))
    depth, colours = np.array((1.0, 1, 1, 1, np.nan)), np.full((5, 3), 255.0)
    layer, picture = paint.Layer(40, 40), np.zeros((40, 40, 3), np.uint8)
    layer.triangles(points, depth, np.array(((0, 1, 2), (0, 1, 3), (1, 2, 4))), colours)
    layer.over(picture)
    assert picture[10, 10].tolist() == [255] * 3
    assert not picture[30, 30].any()
    empty = paint.Layer(40, 40)
    empty.triangles(points, depth, np.array(((0, 1, 3),)), colours)
    empty.over(picture)
