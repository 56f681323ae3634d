"""The table of costs, against numbers worked out by hand and against a real step."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from amt.hand.shipped import shipped_hand
from amt.kernels import _native, use
from amt.model import AMT, ModelConfig
from amt.model.__main__ import main
from amt.model.summary import summarize
from tests.model.conftest import EVERY_PART

NUM_VERTICES = shipped_hand().num_vertices


class Points(nn.Module):
    """Two linear layers on the object's points; the second one is frozen."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(size="toy", crop_size=16, hidden=5, backbone=SimpleNamespace(name="none"))
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 7).requires_grad_(False)

    def forward(self, inputs):
        return self.second(torch.relu(self.first(inputs.object_points)))


def test_a_linear_layer_costs_what_it_should():
    """10 points an image: 2 * 3 * 5 operations each; saved are the points and what ReLU gives."""
    first, second, between = summarize(Points(), batch_size=4, num_points=10).modules
    assert (first.trained, first.frozen, first.flops, first.activation_bytes) == (20, 0, 10 * 2 * 3 * 5, 10 * 3 * 4)
    assert (second.trained, second.frozen, second.flops, second.activation_bytes) == (0, 42, 10 * 2 * 5 * 7, 0)
    assert (between.trained, between.activation_bytes) == (0, 10 * 5 * 4)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return AMT(ModelConfig(**EVERY_PART))


def test_totals(tiny):
    summary = tiny.summary()
    assert summary.total.trained == tiny.num_parameters()
    for name in ("trained", "frozen", "flops", "activation_bytes"):
        assert sum(getattr(row, name) for row in summary.modules) == pytest.approx(getattr(summary.total, name)), name
    text = str(summary)
    assert f"{tiny.num_parameters():,}" in text
    assert all(name in text for name in ("backbone", "refinement", "GFLOP"))
    assert len({len(line) for line in text.splitlines()[1:-1]}) == 1  # the columns stand under each other


def test_memory_grows_with_the_batch_and_not_an_image_s_share(tiny):
    few, many = tiny.summary(batch_size=8).total, tiny.summary(batch_size=16).total
    assert many.flops == pytest.approx(few.flops, rel=1e-3)
    assert many.activation_bytes == pytest.approx(few.activation_bytes, rel=0.01)
    assert few.activation_bytes > 1e6


def test_points_of_the_object_cost(tiny):
    few, many = (
        {row.name: row for row in tiny.summary(num_points=n).modules}["contact_encoder"].flops for n in (64, 128)
    )
    assert many > 1.5 * few


@pytest.mark.skipif(_native.missing("refine", "cpu") is not None, reason="counts the native ops")
def test_the_package_s_own_ops_are_counted(tiny):
    with use("auto"):
        rows = {row.name: row for row in tiny.summary(num_points=64).modules}
    c = tiny.config
    mlp = 2 * 21 * c.refine_steps * c.refine_hidden * (2 * c.map_channels + 3 + 3)
    assert rows["refinement"].flops == mlp + 2 * c.latent * c.map_channels
    pointnet = 2 * NUM_VERTICES * 22 * c.point_hidden * (3 + c.point_features)
    assert rows["hand_encoder"].flops > pointnet
    assert rows["hand_encoder"].flops < pointnet * 1.05  # and two small linear layers a token


def test_the_same_bytes_as_a_real_step(tiny, make_batch):
    """Fake tensors save what real ones save."""
    state = {t.untyped_storage().data_ptr() for t in (*tiny.parameters(), *tiny.buffers())}
    storages = {}

    def save(tensor):
        storages.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with saved_tensors_hooks(save, lambda tensor: tensor):
        prediction = tiny.train()(make_batch(4).inputs)
    saved = sum(t.untyped_storage().nbytes() for pointer, t in storages.items() if pointer not in state)
    assert prediction.joints.requires_grad
    assert tiny.summary(batch_size=4, num_points=64).total.activation_bytes * 4 == pytest.approx(saved, rel=0.01)


def test_nothing_changes(tiny):
    tiny.eval()
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    random = torch.get_rng_state()
    tiny.summary(batch_size=2)
    assert not tiny.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.state_dict().items())
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in tiny.children())


def test_a_model_on_meta_has_the_same_costs(tiny):
    with torch.device("meta"):
        model = AMT(ModelConfig(**EVERY_PART))
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"meta"}
    assert model.summary() == tiny.summary()


def test_frozen_blocks_save_nothing():
    pytest.importorskip("transformers")
    costs = []
    for frozen in (0, 2):
        with torch.device("meta"), pytest.warns(UserWarning, match="starts at random"):
            model = AMT(ModelConfig(size="small", crop_size=56, backbone={"depth": 3, "frozen_layers": frozen}))
        costs.append({row.name: row for row in model.summary(batch_size=2).modules}["backbone"])
    assert costs[0].trained + costs[0].frozen == costs[1].trained + costs[1].frozen
    assert costs[0].flops == costs[1].flops
    assert costs[1].activation_bytes < 0.6 * costs[0].activation_bytes


def test_the_command(capsys):
    assert main(["tiny", "--batch-size", "2"]) == 0
    assert "tiny: hybrid, crop 112 px" in capsys.readouterr().out
    for words, message in ((["huge"], "size must be one of tiny, small, base, large; got 'huge'"),
                           (["tiny", "--points", "0"], "--points must be at least 1; got 0")):  # fmt: skip
        assert main(words) == 2
        assert message in capsys.readouterr().err
