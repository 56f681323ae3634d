"""The view in three dimensions: a whole page in a frame, which shows what it was given."""

import base64
import html
import json
import re

import numpy as np
import pytest

from amt.draw.hand_object import HandObject
from amt.draw.viewer import Shown, View, scene_data
from amt.hand.shipped import shipped_hand

HOSTILE = '</script><script>alert(1)</script>"><img src=x onerror=alert(1)>'


def a_hand(shift=0.0, **more):
    model = shipped_hand("right")
    vertices = (model.v_template + np.array((shift, 0, 0.6))).astype(np.float32)
    joints = np.repeat(vertices[:1], 21, axis=0)
    return HandObject(
        side="right", intrinsics=np.eye(3, dtype=np.float32), joints=joints, vertices=vertices, faces=model.f, **more
    )


def scenes_of(page):
    found = re.search(r'<script type="application/json" id="scenes">(.*?)</script>', page, re.S)
    return json.loads(found[1])


def points_of(text):
    return np.frombuffer(base64.b64decode(text), "<i2").reshape(-1, 3) / 10_000  # m


def test_the_points_are_those_of_the_scenes():
    cube = np.random.default_rng(0).uniform(-0.05, 0.05, (30, 3)).astype(np.float32)
    held = {"object_points": cube, "object_rotation": np.eye(3, dtype=np.float32)[[1, 0, 2]]}
    scene = a_hand(0.03, **held, object_translation=np.float32((0, 0, 0.7)))
    truth = a_hand()
    data = scenes_of(View([Shown("a: b", scene, truth), Shown("c", truth=truth)]).html())
    middle = truth.joints.mean(0)
    first, second = data["scenes"]
    np.testing.assert_allclose(points_of(first["predicted"]), scene.vertices - middle, atol=6e-5)
    np.testing.assert_allclose(points_of(first["predictedObject"]), scene.in_camera(cube) - middle, atol=6e-5)
    assert set(first) == {"title", "predicted", "truth", "predictedObject"}
    assert set(second) == {"title", "truth"}
    faces = np.frombuffer(base64.b64decode(data["faces"]), "<u2").reshape(-1, 3)
    np.testing.assert_array_equal(faces, scene.faces)


def test_a_view_is_a_frame_of_its_own_that_fetches_nothing():
    frame = View([Shown(HOSTILE, a_hand())])._repr_html_()
    assert frame.count("<") == 2  # the frame's own tags: all else is escaped
    page = html.unescape(re.search(r'srcdoc="([^"]*)"', frame)[1])
    assert (page.count("<script"), page.count("<img")) == (2, 0)  # the data, and what draws them
    assert scenes_of(page)["scenes"][0]["title"] == HOSTILE
    assert not re.search(r'https?://|(src|href)="(?!data:)', page)


def test_without_a_mesh_there_is_nothing_to_show():
    joints = HandObject(side="right", intrinsics=np.eye(3), joints=np.zeros((21, 3)))
    with pytest.raises(ValueError, match="the vertices and faces of a hand"):
        View([Shown("joints alone", joints)])


def test_what_touches_is_marked_and_nothing_is_where_nobody_knows():
    hand = a_hand()
    contact = np.zeros(len(hand.vertices), np.float32)
    contact[:10] = 0.9
    marked = scene_data(Shown("a", a_hand(hand_contact=contact)))
    touching = np.frombuffer(base64.b64decode(marked["predictedTouches"]), np.uint8)
    np.testing.assert_array_equal(touching, contact > 0.5)
    assert set(marked) == {"title", "predicted", "predictedTouches"}
    assert set(scene_data(Shown("a", hand))) == {"title", "predicted"}
