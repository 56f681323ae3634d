from pathlib import Path

import pytest

from amt.data.synthetic.write import SetConfig, write_set

TINY = SetConfig(sequences=2, frames=4, subjects=2, seed=3)


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory) -> Path:
    """2 subjects x 2 sequences x 4 frames x 8 cameras; shared, so tests must not change it."""
    pytest.importorskip("embreex")
    return write_set(tmp_path_factory.mktemp("synthetic") / "set", TINY, workers=1, progress=False)


@pytest.fixture
def own_set(tiny_set, tmp_path) -> Path:
    """A copy of the tiny set that a test may damage."""
    import shutil

    return Path(shutil.copytree(tiny_set, tmp_path / "set"))
