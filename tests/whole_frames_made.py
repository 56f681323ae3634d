"""Whole frames that are made, not read: a red disc with a bright thumb is a hand, a blue square beside it its object."""

import numpy as np

from amt.data.whole_frames import HAND, HEIGHT, OBJECT, WIDTH, WholeFrames

RADIUS = 24  # px
RED, BLUE, WHITE = (230, 20, 20), (20, 20, 230), (255, 255, 255)


def made_frames(count: int, seed: int = 0) -> WholeFrames:
    """A right hand's thumb points to the left, a left hand's to the right. Every second hand is a left one."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    images, marks, joints = [], [], []
    right = np.arange(count) % 2 == 0
    for is_right in right:
        centre = rng.uniform((60, 60), (WIDTH - 60, HEIGHT - 60))
        image = np.full((HEIGHT, WIDTH, 3), rng.integers(60, 120, 3), np.uint8)
        mark = np.zeros((HEIGHT, WIDTH), np.uint8)
        square = (abs(x - centre[0]) < 12) & (abs(y - centre[1] - 34) < 12)
        disc = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= RADIUS**2
        aside = -12 if is_right else 12
        thumb = (abs(x - centre[0] - aside) < 5) & (abs(y - centre[1]) < 5)
        for where, colour, label in ((square, BLUE, OBJECT), (disc, RED, HAND), (thumb, WHITE, HAND)):
            image[where], mark[where] = colour, label
        angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        ring = centre + RADIUS * np.stack([np.cos(angle), np.sin(angle)], 1)
        images.append(image)
        marks.append(mark)
        joints.append(np.concatenate([centre[None], ring]))
    backgrounds = rng.integers(60, 120, (4, 1, 1, 3), np.uint8) * np.ones((1, WIDTH, WIDTH, 1), np.uint8)
    return WholeFrames(np.stack(images), np.stack(marks), np.stack(joints), right, backgrounds)
