"""Things between a camera and the hand: a board, a rod or a ball, nearer to the camera and so out of focus."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from amt.data.synthetic.appearance import random_colour
from amt.data.synthetic.primitives import Part, box, hull
from amt.data.synthetic.render import Body, Camera
from amt.data.synthetic.skin import vertex_normals
from amt.data.synthetic.visible import View

CLEAR = 0.05  # m of depth between an occluder and the nearest joint
NEAREST = 0.12  # m from the camera
MOST_HIDDEN = 0.6  # of the joints in a frame
TRIES = 8


def occluder(camera: Camera, joints: np.ndarray, rng: np.random.Generator) -> Body | None:
    """A body that hides some of the hand in the middle frame, and touches it in none; None where no try succeeds.

    Args:
        joints: float64 [F, 21, 3], m.
    """
    eye, middle = camera.centre, joints[len(joints) // 2]
    room = ((joints.reshape(-1, 3) - eye) @ camera.rotation[2]).min()
    for _ in range(TRIES):
        body = _thing(rng)
        aim = middle[rng.integers(len(middle))]
        far = float(np.linalg.norm(aim - eye))
        size = float(np.linalg.norm(body.vertices, axis=1).max())
        low = NEAREST + 0.3 * size
        distance = rng.uniform(low, max(low, room - CLEAR - 0.3 * size))
        offset = rng.normal(0, 1, 3)
        offset -= (aim - eye) * ((aim - eye) @ offset) / far**2
        offset *= rng.uniform(0.6, 1.1) * np.sort(np.ptp(body.vertices, axis=0))[1] / 2 / np.linalg.norm(offset)
        placed = body.vertices + eye + (aim - eye) * distance / far + offset
        depth = (placed - eye) @ camera.rotation[2]
        if depth.min() < NEAREST / 2 or depth.max() > room - CLEAR:
            continue
        body = replace(body, vertices=placed)
        hidden = (View(camera, body).first(middle @ camera.rotation.T + camera.translation) < 1).mean()
        if 0 < hidden <= MOST_HIDDEN:
            return body
    return None


def _thing(rng: np.random.Generator) -> Body:
    """A board, a rod or a round thing about the origin, in a random position."""
    kind = rng.choice(["board", "rod", "round"])
    if kind == "board":
        part = box(rng.uniform(0.06, 0.2), rng.uniform(0.06, 0.2), rng.uniform(0.003, 0.02))
    elif kind == "rod":
        width = rng.uniform(0.006, 0.025)
        part = box(width, width, rng.uniform(0.2, 0.4), 0.3 * width)
    else:
        part = hull(rng.normal(0, 1, (40, 3)) * rng.uniform(0.015, 0.04, 3))
    rotation = np.linalg.qr(rng.normal(0, 1, (3, 3)))[0]
    rotation[:, 0] *= np.sign(np.linalg.det(rotation))
    return faceted(Part(part.vertices @ rotation.T, part.faces), random_colour(rng))


def faceted(part: Part, colour: np.ndarray) -> Body:
    """A body of one colour [3] with sharp edges and without a label."""
    vertices = part.vertices[part.faces].reshape(-1, 3)  # every face has its own corners
    faces = np.arange(len(vertices)).reshape(-1, 3)
    colours = np.broadcast_to(colour, vertices.shape).astype(np.float32)
    return Body(vertices, faces, vertex_normals(vertices, faces), colours, 0, 0.1)
