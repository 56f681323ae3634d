"""The ways that benchmarks.data compares show the same crops, and a difference stops it."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch

from amt.model.backbone import Normalize
from benchmarks import data


@pytest.fixture
def frames(tmp_path):
    """Two smooth pictures with boxes, one of which leaves the picture."""
    rng, found = np.random.default_rng(0), []
    for k, box in enumerate(((300.0, 200.0, 180.0), (40.0, 430.0, 220.0))):
        small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        path = tmp_path / f"{k}.jpg"
        cv2.imwrite(str(path), cv2.resize(small, (640, 480), interpolation=cv2.INTER_CUBIC))
        found.append((path, np.array(box, np.float32)))
    return found


def test_pillow_and_the_crop_cache_s_way_give_the_same_crops(frames):
    plain = torch.stack([data.Pictures(frames)[k] for k in range(2)])
    with ThreadPoolExecutor(1) as pool:
        (crops,) = data.from_files(frames, pool)
    assert (Normalize()(crops) - plain).abs().mean() < 0.05
    ways = {"DataLoader": lambda: [plain], "files": lambda: [plain + 0.01], "cache": lambda: [plain]}
    data.check(ways)
    with pytest.raises(ValueError, match=r"cache: crops differ from the DataLoader's by 0\.300"):
        data.check(ways | {"cache": lambda: [plain + 0.3]})


def test_rates_as_a_record_of_a_results_file():
    rates = {"DataLoader": 400.0, "cache, varied": 12_345.6}
    found = {"samples_per_s": rates, "cores": 16, "wait_share_of_a_tiny_step": {"share": 0.01}}
    record = data.for_table(found, torch.device("cuda"))
    assert (record["op"], record["device"], record["samples_s"], record["by_way"]) == ("crops", "cuda", 12_345.6, rates)
    assert (record["loader_cores"], record["wait_share"]) == (16, 0.01)
    assert data.for_table(found | {"wait_share_of_a_tiny_step": None}, torch.device("cpu"))["wait_share"] is None


def test_a_way_that_loses_crops_is_no_result():
    with pytest.raises(ValueError, match="3 crops came, not 4"):
        data.rate(lambda: iter([torch.zeros(3, 1)]), 4, torch.device("cpu"))
