"""Every private name of PyTorch that AMT uses, and what for: an update of PyTorch that moves one is mended in this file alone.

A name that is missing raises an ImportError that says which one; tests/kernels/test_torch_private.py looks each of them up.
"""

from __future__ import annotations

import torch


def find(path: str):
    """The object of a dotted name such as ``torch._C._dispatch_get_all_op_names``.

    Raises:
        ImportError: this PyTorch has no such name.
    """
    found = torch
    for name in path.split(".")[1:]:
        try:
            found = getattr(found, name)
        except AttributeError:
            raise ImportError(
                f"PyTorch {torch.__version__} has no {path}, a private name that AMT uses: install the PyTorch of "
                "constraints.txt, or replace the name in amt/kernels/_torch_private.py"
            ) from None
    return found


# Skips autograd in a block: a formula registered in Python costs more on the host than a small kernel.
AutoDispatchBelowAutograd = find("torch._C._AutoDispatchBelowAutograd")
# Whether torch.func (grad, vmap, ...) is at work.
_functorch_transforms_active = find("torch._C._are_functorch_transforms_active")
# The innermost level of forward-mode AD, -1 outside of any: a global variable, looked up here and read at every call.
find("torch.autograd.forward_ad._current_level")
# What a native library holds: its ops, and for which devices.
all_op_names = find("torch._C._dispatch_get_all_op_names")
has_kernel = find("torch._C._dispatch_has_kernel_for_dispatch_key")


def transforms_active() -> bool:
    """Whether a transform of torch.func (vmap, grad, jacrev, jvp, ...) or forward-mode AD is at work."""
    return _functorch_transforms_active() or forward_mode()


def forward_mode() -> bool:
    """Whether forward-mode AD (jvp) is at work."""
    return torch.autograd.forward_ad._current_level >= 0


# Products of FP8 matrices with a scale for each row.
scaled_mm = find("torch._scaled_mm")
# A product with a bias and tanh's GELU in its epilogue.
addmm_activation = find("torch.ops.aten._addmm_activation")
# Trees of tensors, for the error rule.
tree_leaves = find("torch.utils._pytree.tree_leaves")
# Shapes without numbers, for the model's summary.
FakeTensorMode = find("torch._subclasses.fake_tensor.FakeTensorMode")
# What scaled_dot_product_attention is on the CPU, for counting its operations.
flash_attention_for_cpu = find("torch.ops.aten._scaled_dot_product_flash_attention_for_cpu")
# All that it can be, for keeping its output where a block is computed again.
attention_ops = (
    find("torch.ops.aten._scaled_dot_product_flash_attention.default"),
    find("torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default"),
    find("torch.ops.aten._scaled_dot_product_efficient_attention.default"),
    find("torch.ops.aten._scaled_dot_product_cudnn_attention.default"),
)
# Sees every operation and whether a storage is still alive, for the estimate of a training step's memory.
TorchDispatchMode = find("torch.utils._python_dispatch.TorchDispatchMode")
StorageWeakRef = find("torch.multiprocessing.reductions.StorageWeakRef")
# One call for all tensors of the weights' moving average.
foreach_lerp_ = find("torch._foreach_lerp_")
# One call for all gradients that are clipped.
foreach_mul_ = find("torch._foreach_mul_")
# An operator of a traced program, as against a Python function.
OpOverload = find("torch._ops.OpOverload")


def aoti_compile_and_package(program: torch.export.ExportedProgram, path: str) -> None:
    """AOTInductor's package of a program, written to ``path``. Looked up at the call: the compiler takes a second to import."""
    find("torch._inductor.aoti_compile_and_package")(program, package_path=path)


def aoti_load_package(path: str):
    """What runs a package of AOTInductor."""
    return find("torch._inductor.aoti_load_package")(path)
