"""A checkpoint of an untrained model, pictures on disk, and a hand with a known pose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from infer_files import write_image

from amt.data.crops import square_around
from amt.hand.camera import project
from amt.hand.mano import ManoLayer
from amt.hand.shipped import shipped_hand
from amt.infer.predictor import Predictor, load
from amt.infer.result import Result
from amt.model.amt import AMT
from amt.model.checkpoint import save_checkpoint
from amt.model.config import ModelConfig
from amt.model.keypoints import num_keypoints

NUM_VERTICES = shipped_hand().num_vertices

HEIGHT, WIDTH = 240, 320
K = np.array([[310.0, 0, 158.0], [0, 305.0, 121.0], [0, 0, 1]])


def save_tiny(folder: Path, sharpness: float) -> Path:
    """An untrained model whose keypoint scores are multiplied by ``sharpness``."""
    torch.manual_seed(0)
    model = AMT(ModelConfig(size="tiny", refine_steps=2))
    with torch.no_grad():
        model.keypoints.score_and_depth.weight[: num_keypoints(model.config)] *= sharpness
    return save_checkpoint(folder, model, data={"crop": {"num_points": 64}})


@pytest.fixture(autouse=True)
def no_shipped_locator(request, monkeypatch):
    """A checkpoint without a locator searches windows: these pictures are noise, in which the one that ships sees no hand.

    Tests marked ``shipped_locator`` have it.
    """
    from amt.infer import predictor
    from amt.model.checkpoint import load_locator

    choose = predictor.choose_finder

    def choose_finder(name, folder, *rest):
        return choose("window" if name == "model" and load_locator(folder) is None else name, folder, *rest)

    if "shipped_locator" not in request.keywords:
        monkeypatch.setattr(predictor, "choose_finder", choose_finder)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """As sure of what it sees as a trained model: it finds a hand in every picture."""
    return save_tiny(tmp_path_factory.mktemp("checkpoint") / "ck", sharpness=150)


@pytest.fixture(scope="session")
def unsure_checkpoint(tmp_path_factory) -> Path:
    """It finds a hand in no picture."""
    return save_tiny(tmp_path_factory.mktemp("checkpoint") / "ck", sharpness=1)


@pytest.fixture(scope="session")
def predictor(unsure_checkpoint) -> Predictor:
    return load(unsure_checkpoint, device="cpu", max_spread=1, locator="window")


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """uint8 [240, 320, 3]: smooth noise, nowhere flat."""
    import cv2

    coarse = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    return cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="session")
def points() -> np.ndarray:
    """float32 [64, 3], m: a box of 6 x 8 x 10 cm."""
    rng = np.random.default_rng(1)
    return (rng.uniform(-1, 1, (64, 3)) * (0.03, 0.04, 0.05)).astype(np.float32)


@pytest.fixture(scope="session")
def result(points) -> Result:
    """AMT's own hand in front of the camera, an object in it, some contact."""
    model = shipped_hand("right")
    layer = ManoLayer(model)
    pose = torch.zeros(1, 48)
    pose[0, :3] = torch.tensor((0.9, 0.4, 0.2))
    pose[0, 3:] = layer.hands_mean
    translation = torch.tensor([[0.06, 0.01, 0.6]])
    mesh = layer(pose, torch.zeros(1, 10), translation)
    joints, vertices = mesh.joints[0].numpy(), mesh.vertices[0].numpy()
    pixels = project(joints, K.astype(np.float32)).numpy()
    hand_contact = np.zeros(NUM_VERTICES, np.float32)
    hand_contact[:100] = 1
    return Result(
        side="right",
        intrinsics=K,
        joints=joints,
        vertices=vertices,
        faces=model.f,
        object_class=0,
        object_class_seen=0,
        object_points=points,
        object_rotation=np.eye(3, dtype=np.float32),
        object_translation=joints.mean(0),
        hand_contact=hand_contact,
        object_contact=(np.arange(64) < 8).astype(np.float32),
        joints_2d=pixels,
        pose=pose[0].numpy(),
        betas=np.zeros(10, np.float32),
        translation=translation[0].numpy(),
        mano_joints=joints,
        mano_vertices=vertices,
        mano_model="right",
        steps=joints[None],
        coarse_joints=joints,
        box=square_around(pixels).astype(np.float32),
        box_source="given",
        box_settled=True,
        doubt=1.0,
        spread=0.01,
        hand_found=True,
    )


@pytest.fixture
def picture(tmp_path, photo) -> Path:
    """A JPEG file."""
    return write_image(tmp_path / "hand.jpg", photo)


@pytest.fixture(scope="session")
def small_set(tmp_path_factory) -> Path:
    """A rendered set: two subjects, one sequence, two frames, eight cameras."""
    pytest.importorskip("embreex")
    from amt.data.synthetic.write import SetConfig, write_set

    config = SetConfig(sequences=1, frames=2, subjects=2, seed=3)
    return Path(write_set(tmp_path_factory.mktemp("set") / "set", config, workers=1, progress=False))
