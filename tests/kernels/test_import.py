"""What `import amt.kernels` loads, and that an implementation registers itself wherever its first call happens.

Each test looks at a fresh process, in which nothing is loaded yet.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from amt.kernels import _native

needs_native = pytest.mark.skipif(
    _native.missing("hand_frames", "cpu") is not None, reason="the native library is not built here"
)


def python(code: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "AMT_KERNELS"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


BLOCK = "import sys; sys.modules.update(dict.fromkeys({names!r}))\n"  # None: to import it is an ImportError
OTHERS = (
    "hydra",
    "omegaconf",
    "cv2",
    "matplotlib",
    "trimesh",
    "transformers",
    "safetensors",
    "PIL",
    "yaml",
    "tqdm",
)
CALLS = """
import torch, amt.kernels as k
points, joints = torch.randn(2, 5, 3), torch.randn(2, 21, 3)
frames = k.hand_frames(joints)
print(*k.frame_pointnet(points, *frames, *(torch.randn(s) for s in ((4, 3), (22, 4), (6, 4), (6,)))).shape)
print(*k.attention(*torch.randn(3, 1, 2, 7, 64).unbind(), precision="fp8").shape)
weights = k.RefineWeights(torch.randn(2, 8, 6), torch.randn(2, 21, 8), torch.randn(2, 3, 8), torch.randn(2, 3))
camera = torch.eye(3).expand(2, 3, 3).contiguous()
print(*k.refine(joints, camera, [torch.randn(2, 4, 4, 3)], weights, image_size=(16, 16)).shape)
"""
SHAPES = "2 22 6\n1 2 7 64\n2 2 21 3\n"


def test_the_kernels_need_pytorch_alone():
    assert python(BLOCK.format(names=OTHERS) + CALLS) == SHAPES


def test_the_kernels_need_no_triton():
    assert python(BLOCK.format(names=("triton",)) + CALLS) == SHAPES


def test_importing_loads_no_compiler():
    """A look into sys.modules, not at a clock."""
    loaded = python(
        "import torch, sys; before = set(sys.modules); import amt.kernels; print(*set(sys.modules) - before)"
    ).split()
    assert "amt.kernels.refine" in loaded
    heavy = ("triton", "sympy", "torch._dynamo", "torch._inductor", "torch._functorch", "torch.export", "torch._export")
    assert [m for m in loaded if any(m == h or m.startswith(h + ".") for h in heavy)] == []
    # nor an implementation, whose ops register themselves
    assert [m for m in loaded if m.startswith("amt.") and m.endswith((".native", ".triton", ".fp8", ".autograd"))] == []


def test_a_call_on_the_cpu_loads_no_compiler():
    loaded = python(CALLS + "import sys; print(*sys.modules)").split()
    assert not {"triton", "torch._dynamo", "torch._inductor"} & set(loaded)


FIRST = """
import torch, amt.kernels as k
torch.manual_seed(0)
joints, points = torch.randn(2, 21, 3, requires_grad=True), torch.randn(2, 5, 3, requires_grad=True)
mlp = [torch.randn(s, requires_grad=True) for s in ((4, 3), (22, 4), (6, 4), (6,))]
weights = [torch.randn(s, requires_grad=True) for s in ((2, 8, 6), (2, 21, 8), (2, 3, 8), (2, 3))]
camera, maps = torch.eye(3).expand(2, 3, 3).contiguous(), torch.randn(2, 4, 4, 3)
q = torch.randn(1, 2, 7, 64, requires_grad=True)

def all_ops(joints, points):
    frames = k.frame_pointnet(points, *k.hand_frames(joints), *mlp)
    steps = k.refine(joints, camera, [maps], k.RefineWeights(*weights), image_size=(16, 16))
    return frames.square().sum() + steps.square().sum() + k.attention(q, q, q, precision="fp8").square().sum()

inputs = (joints, points, q, *mlp, *weights)
"""
COMPILED = """
compiled = torch.compile(all_ops, fullgraph=True, backend="aot_eager")
loss = compiled(joints, points)
for ours, expected in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(all_ops(joints, points), inputs)):
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
print("same")
"""
EXPORTED = """
class Module(torch.nn.Module):
    def forward(self, joints, points):
        return all_ops(joints, points)

import sys
with torch.no_grad():
    exported = torch.export.export(Module(), (joints.detach(), points.detach()), strict=STRICT)
    ours = exported.module()(joints.detach() + 1, points.detach())
    torch.testing.assert_close(ours, all_ops(joints + 1, points))
print("same")
"""


@pytest.mark.parametrize("choice", ["auto", "reference"])
def test_the_first_call_may_be_a_compiled_one(choice):
    choose = f"k.use({choice!r}).__enter__()\n" if choice != "auto" else ""
    code = FIRST.replace('precision="fp8"', 'precision="auto"') if choice == "reference" else FIRST
    assert python(code + choose + COMPILED) == "same\n"


@pytest.mark.parametrize("strict", [True, False])
def test_the_first_call_may_be_an_exported_one(strict):
    assert python(FIRST + EXPORTED.replace("STRICT", str(strict))) == "same\n"


def test_the_first_call_may_be_on_fake_tensors():
    code = f"""
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    exec({FIRST!r})
    print(*torch.autograd.grad(all_ops(joints, points), inputs)[1].shape)
print(*k.hand_frames(torch.randn(1, 21, 3))[0].shape)
"""
    assert python(code) == "2 5 3\n1 22 3\n"


@needs_native
def test_an_exported_program_runs_in_a_process_that_only_imports_the_kernels(tmp_path):
    path = tmp_path / "program.pt2"
    save = """
class Module(torch.nn.Module):
    def forward(self, joints):
        return k.hand_frames(joints)[1] * 2
torch.export.save(torch.export.export(Module(), (joints.detach(),)), PATH)
""".replace("PATH", repr(str(path)))
    load = """
import torch, amt.kernels as k
joints = torch.randn(2, 21, 3)
ours = torch.export.load(PATH).module()(joints)
print(torch.equal(ours, k.hand_frames(joints)[1] * 2))
""".replace("PATH", repr(str(path)))
    python(FIRST + save)
    assert python(load) == "True\n"
