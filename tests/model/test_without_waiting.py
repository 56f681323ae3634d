"""Forward passes and training steps hand everything to the device at once.

A constant copied from the host, or a value read back, makes a CUDA device finish all its work first, and cannot be captured into
a CUDA graph. Without a card the same is seen on the meta device, which holds no values, and in the operators of a training step.
"""

from collections import Counter

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from amt.kernels import use
from amt.model import AMT, ModelConfig
from benchmarks import bench_train, model_inputs

WAITING = (
    "aten.lift_fresh",
    "aten._local_scalar_dense",
    "aten.nonzero",
    "aten.masked_select",
    "aten.is_nonzero",
    "aten.equal",
)


class Watch(TorchDispatchMode):
    """Counts the operators, those that wait, and those that touch another device than ``device``."""

    def __init__(self, device: str):
        super().__init__()
        self.device, self.count, self.waiting, self.elsewhere = device, 0, Counter(), Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name, tensors = (
            str(function),
            [x for x in pytree.tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)],
        )
        self.count += 1
        self.waiting[name] += name.startswith(WAITING)
        self.elsewhere[name] += any(x.device.type != self.device for x in tensors)
        return out


@pytest.mark.parametrize(
    "options",
    [{}, {"hand_frames": True, "contact_tokens": True, "refine_steps": 2, "corners": True}],
    ids=["shipped", "all"],
)
def test_a_forward_pass_on_a_device_without_values(options):
    model = AMT(ModelConfig(size="tiny", crop_size=32, **options)).eval().to("meta")
    inputs = model_inputs.inputs(32, 2, torch.Generator().manual_seed(0)).to("meta")
    with torch.inference_mode(), use("reference"):
        model(inputs)  # constants are uploaded once
        with Watch("meta") as watch:
            model(inputs)
    assert watch.count > 1000
    assert +watch.waiting == Counter()
    assert +watch.elsewhere == Counter()


def test_a_training_step():
    device = torch.device("cpu")
    trainer = bench_train._trainer("tiny", 32, 2, device)
    batch = model_inputs.batch(32, 2, torch.Generator().manual_seed(0))
    with use("reference"):
        trainer.train_step(batch)
        with Watch("cpu") as watch:
            trainer.train_step(batch)
    bench_train._trainer.cache_clear()
    assert watch.count > 5000
    assert +watch.waiting == Counter()


def test_what_waits_is_seen():
    x = torch.zeros(3)
    with Watch("cpu") as watch:
        x.new_tensor((1, 2, 3))
        x[[2, 0]]
        bool(x.any())
    assert set(+watch.waiting) == {"aten.lift_fresh.default", "aten._local_scalar_dense.default"}
    with Watch("meta") as watch:
        torch.arange(3).to("meta")
    assert set(+watch.elsewhere) >= {"aten.arange.default"}
