"""Forward, loss and backward of all four sizes: the smaller ones with numbers, the large one with shapes only."""

from operator import attrgetter

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from amt.hand.batch import Batch
from amt.hand.shipped import shipped_hand
from amt.model import AMT, ModelConfig, Prediction
from amt.model.summary import fake_state
from amt.train.losses import LossConfig, compute_loss
from tests.model.conftest import EVERY_PART

NUM_VERTICES = shipped_hand().num_vertices

SHAPES = {  # of one image with 64 object points
    "joints": (21, 3), "vertices": (NUM_VERTICES, 3), "pose": (16, 3, 3), "betas": (10,), "translation": (3,),
    "object_rotation": (3, 3), "object_translation": (3,), "hand_contact": (NUM_VERTICES,), "object_contact": (64,),
    "object_class": (22,), "steps": (3, 21, 3), "keypoints.position": (30, 2), "coarse.vertices": (NUM_VERTICES, 3),
}  # fmt: skip
PARAMETERS_M = {"tiny": (3, 5), "small": (35, 45), "base": (150, 180), "large": (450, 550)}


def build(size: str, device: str = "cpu") -> AMT:
    if size != "tiny":
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    with torch.device(device):
        if size == "tiny":
            return AMT(ModelConfig(size=size, **EVERY_PART))
        with pytest.warns(UserWarning, match=f"dinov2-{size} starts at random"):
            return AMT(ModelConfig(size=size, **EVERY_PART))


def check_shapes(prediction: Prediction, batch_size: int) -> None:
    for name, shape in SHAPES.items():
        assert attrgetter(name)(prediction).shape == (batch_size, *shape), name
    assert all(tensor.dtype == torch.float32 for _, tensor in prediction.named_tensors())


@pytest.mark.parametrize("size", ["tiny", "small", pytest.param("base", marks=pytest.mark.slow)])
def test_a_step_with_numbers(size, make_batch):
    """One image; batch norm of a pixel-wise map has enough cells in it."""
    model = build(size)
    low, high = PARAMETERS_M[size]
    assert low <= model.num_parameters() / 1e6 <= high
    batch = make_batch(1, crop=model.config.crop_size)
    prediction = model(batch.inputs)
    check_shapes(prediction, 1)
    loss = compute_loss(prediction, batch, LossConfig()).total
    assert loss.isfinite()
    loss.backward()
    trained = [(name, p.grad) for name, p in model.named_parameters() if p.requires_grad]
    assert [name for name, grad in trained if grad is None or not grad.isfinite().all()] == []


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_a_step_on_meta(size, make_batch):
    model = build(size, "meta")
    low, high = PARAMETERS_M[size]
    assert low <= model.num_parameters() / 1e6 <= high
    batch = make_batch(2, crop=model.config.crop_size, left=True).to("meta")
    prediction = model(batch.inputs)
    assert prediction.joints.device.type == "meta"
    check_shapes(prediction, 2)
    compute_loss(prediction, batch, LossConfig()).total.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.shape == parameter.shape, name


@pytest.mark.parametrize("size", ["large"])
def test_a_step_on_fakes(size, make_batch):
    """The same ops as on a CPU, native ones and fused attention included, without memory for the weights."""
    model = build(size, "meta")
    real = make_batch(2, crop=model.config.crop_size, left=True)
    with FakeTensorMode() as mode:
        state = fake_state(model)
        batch = real.map(mode.from_tensor)
        assert isinstance(batch, Batch)
        prediction = torch.func.functional_call(model, state, (batch.inputs,))
        check_shapes(prediction, 2)
        compute_loss(prediction, batch, LossConfig()).total.backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert state[name].grad.shape == parameter.shape, name
