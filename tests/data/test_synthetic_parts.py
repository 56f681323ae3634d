"""Shortcuts of the renderer against the long way: which triangles a point may lie behind, shadows, the server of processes."""

import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from amt.data.synthetic.render import _darken
from amt.data.synthetic.visible import _candidates


@pytest.mark.parametrize("count", [1, 5, 400])
def test_every_point_within_bounds_is_a_candidate_and_no_other(count):
    rng = np.random.default_rng(count)
    points = rng.normal(0, 1, (2, count))
    points[:, : count // 4] = np.round(points[:, : count // 4])  # many with the same coordinates
    low = rng.normal(0, 1, (2, 300))
    high = low + rng.exponential(0.2, (2, 300))
    low[:, :40], high[:, :40] = np.round(low[:, :40]), np.round(high[:, :40])  # some are a line, some are empty
    low[0, 40:60], high[0, 40:60], low[1, 50:70], high[1, 50:70] = -np.inf, np.inf, -np.inf, np.inf
    inside = ((points[:, :, None] >= low[:, None]) & (points[:, :, None] <= high[:, None])).all(0)
    which, face = _candidates(points, low, high)
    found = np.zeros_like(inside)
    found[which, face] = True
    np.testing.assert_array_equal(found, inside)
    assert len(which) == inside.sum()


@pytest.mark.parametrize("case", ["inside", "at the border", "beside", "none"])
def test_a_shadow_is_the_one_that_the_whole_picture_would_get(case):
    rng = np.random.default_rng(0)
    image, table = rng.integers(0, 256, (60, 80, 3), np.uint8), rng.random((60, 80)) < 0.8
    columns, rows = np.meshgrid(np.linspace(-3, 25, 80), np.linspace(-2, 22, 60))
    cells = (np.stack((columns, rows), -1) + rng.normal(0, 0.3, (60, 80, 2))).astype(np.float32)
    shade = np.full((20, 20, 3), 255, np.uint8)
    if case != "none":
        start = {"inside": (7, 9), "at the border": (0, 14), "beside": (3, 3)}[case]
        shade[start[0] : start[0] + 6, start[1] : start[1] + 6] = rng.integers(0, 256, (6, 6, 3))
    if case == "beside":
        cells += 40
    fall = cv2.remap(shade, cells, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(255,) * 3)
    expected = np.where(table[..., None], cv2.multiply(image, fall, scale=1 / 255), image)
    found = image.copy()
    _darken(found, SimpleNamespace(image=image, table=table, cells=cells), shade)
    np.testing.assert_array_equal(found, expected)
    assert (case in ("beside", "none")) == (found == image).all()


def test_processes_are_forks_of_one_that_has_loaded_the_renderer():
    """A server that fails to load it says nothing: its processes would do so one by one."""
    code = """
import sys
from concurrent.futures import ProcessPoolExecutor
from amt.data.synthetic.server import start_server
if __name__ == "__main__":
    context = start_server()
    assert not {"numpy", "torch"} & set(sys.modules)
    with ProcessPoolExecutor(1, context) as pool:
        print(pool.submit(eval, "{'amt.data.synthetic.write', 'trimesh'} <= set(__import__('sys').modules)").result())
        print(pool.submit(eval, "__import__('torch').get_num_threads()").result())
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert ran.stdout.split() == ["True", "1"], ran.stderr
