"""What touches is red: on the mesh, and among the object's points."""

import numpy as np
from test_viewer import a_hand

from amt.draw.scene import GREY, OBJECT, SKIN, TOUCHING, point_colours, vertex_colours


def test_contact_is_red():
    contact = np.zeros(len(a_hand().vertices), np.float32)
    contact[7] = 1
    skin = vertex_colours(a_hand(hand_contact=contact))
    assert skin[7].tolist() == list(TOUCHING)
    assert (np.delete(skin, 7, 0) == SKIN).all()
    held = {"object_points": np.zeros((3, 3), np.float32), "object_contact": np.float32([0.9, 0.5, 0.1])}
    assert point_colours(a_hand(**held)).tolist() == [list(TOUCHING), list(OBJECT), list(OBJECT)]


def test_without_contact_all_has_one_colour():
    assert (vertex_colours(a_hand(), GREY) == GREY).all()
    assert (point_colours(a_hand(object_points=np.zeros((3, 3), np.float32)), GREY) == GREY).all()
