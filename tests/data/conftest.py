from pathlib import Path

import pytest

from amt.data.synthetic.cameras import CameraConfig
from amt.data.synthetic.write import SetConfig, write_set

TINY = SetConfig(sequences=2, frames=4, subjects=2, seed=3)
EVERYTHING = CameraConfig(
    focal=(560.0, 660.0), aspect=(0.95, 1.05), offset=(-40.0, 40.0), radial=(-0.2, 0.1), tangential=(-0.004, 0.004),
    exposure_time=(20.0, 40.0), shake=(50.0, 200.0), aperture=(2.0, 4.0), softness=(0.6, 1.0), shot_noise=(4.0, 8.0),
    read_noise=(1.0, 3.0), exposure=(-0.6, 0.6), white_balance=(-0.2, 0.2), jpeg_quality=(60.0, 80.0), occluded=1.0,
    distorted=True,
)  # fmt: skip
SPOILED = SetConfig(sequences=1, frames=2, subjects=2, seed=11, camera=EVERYTHING)


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory) -> Path:
    """2 subjects x 2 sequences x 4 frames x 8 cameras; shared, so tests must not change it."""
    pytest.importorskip("embreex")
    return write_set(tmp_path_factory.mktemp("synthetic") / "set", TINY, workers=1, progress=False)


@pytest.fixture(scope="session")
def spoiled_set(tmp_path_factory) -> Path:
    """2 subjects x 1 sequence x 2 frames x 8 cameras with every effect of the camera on, distortion and occluders included."""
    pytest.importorskip("embreex")
    return write_set(tmp_path_factory.mktemp("spoiled") / "set", SPOILED, workers=1, progress=False)


@pytest.fixture
def own_set(tiny_set, tmp_path) -> Path:
    """A copy of the tiny set that a test may damage."""
    import shutil

    return Path(shutil.copytree(tiny_set, tmp_path / "set"))
