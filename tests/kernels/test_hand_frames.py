"""hand_frames as an op: accuracy against float64, derivatives, PyTorch's own checks, strides, odd sizes, the same bits."""

from __future__ import annotations

from functools import partial

import helpers
import pytest
import torch
from frames_cases import degenerate_hands, generator, posed_hands, random_hands, straight_hands
from helpers import assert_error_rule, interpreted
from hypothesis import given, settings
from hypothesis import strategies as st

from amt.kernels import hand_frames, use
from amt.kernels.hand_frames import reference

native = helpers.native("hand_frames")
implementations = pytest.mark.parametrize("runs", helpers.implementations("hand_frames"), ids=str)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def results(function, joints):
    joints = joints.detach().requires_grad_()
    origins, r = function(joints)
    g = generator(4)
    seeds = [torch.randn(t.shape, dtype=torch.float64, generator=g).to(t) for t in (origins, r)]
    return origins.detach(), r.detach(), *torch.autograd.grad((origins, r), joints, seeds)


@implementations
@dtypes
@pytest.mark.parametrize("batch", [1, 2, 4, 5, 15, 16, 17, 37, 63, 300])
def test_error_rule(runs, dtype, batch):
    joints = torch.cat([posed_hands(batch, seed=batch), straight_hands(batch), random_hands(batch)])[:batch].to(dtype)
    with use(runs.name):
        ours = results(hand_frames, joints.to(runs.device))
    assert_error_rule(
        [t.cpu() for t in ours], results(reference.hand_frames, joints.double()), results(reference.hand_frames, joints)
    )


@native
@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 40),
    seed=st.integers(0, 2**16),
    exponent=st.integers(-20, 20),
    same=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=6),
)
def test_error_rule_on_any_hand(batch, seed, exponent, same):
    """Any size, any joints on top of each other."""
    joints = random_hands(batch, seed)
    for a, b in same:
        joints[:, a] = joints[:, b]
    joints = (joints * 10.0**exponent).float()
    ours = [t.double() for t in results(hand_frames, joints)]
    truth, peer = results(reference.hand_frames, joints.double()), results(reference.hand_frames, joints)
    assert all(t.isfinite().all() for t in ours)
    scale = 10.0**exponent  # origins in units in which they are about 1; gradients grow as 1 / size and are only finite
    forwards = [(origins / scale, r) for origins, r, _ in (ours, truth, peer)]
    assert_error_rule([t.float() for t in forwards[0]], *forwards[1:])


@native
def test_derivatives_in_float64():
    joints = random_hands(2).requires_grad_()
    with use("native"):
        assert torch.autograd.gradcheck(hand_frames, joints)
        assert torch.autograd.gradgradcheck(hand_frames, joints, fast_mode=True)


@native
def test_opcheck():
    joints = posed_hands(3).float()
    torch.library.opcheck(torch.ops.amt.hand_frames.default, (joints.requires_grad_(),))
    with torch.no_grad():
        gradients = [torch.randn_like(t) for t in hand_frames(joints)]
        torch.library.opcheck(torch.ops.amt.hand_frames_backward.default, (*gradients, joints.detach()))


@native
def test_compiles_whole():
    joints = posed_hands(5).float().requires_grad_()

    def loss(j):
        origins, r = hand_frames(j * 2)
        return (r * torch.linspace(-1, 1, 3)).sum() + origins.square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(joints), loss(joints))
    torch.testing.assert_close(torch.autograd.grad(compiled(joints), joints), torch.autograd.grad(loss(joints), joints))
    with torch.no_grad():
        torch.testing.assert_close(compiled(joints), loss(joints))


@native
@pytest.mark.filterwarnings("ignore:amt.kernels")  # of the fall back to the reference
def test_torch_func():
    """vmap, grad, jacrev, jacfwd and jvp, alone and nested, against autograd of the native op."""
    joints = posed_hands(3).requires_grad_()
    tangent = torch.randn(joints.shape, dtype=joints.dtype, generator=generator(2))

    def one(hand):  # [21, 3] -> [22, 3, 3]
        return hand_frames(hand[None])[1][0]

    def loss(hand):
        return one(hand).sin().sum()

    func = torch.func
    jacobian = torch.stack([torch.autograd.functional.jacobian(one, hand) for hand in joints])  # [3, 22, 3, 3, 21, 3]
    (gradient,) = torch.autograd.grad(hand_frames(joints)[1].sin().sum(), joints)
    close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)
    close(func.vmap(one)(joints), hand_frames(joints)[1])
    close(func.vmap(func.grad(loss))(joints), gradient)
    close(torch.compile(func.vmap(func.grad(loss)), fullgraph=True, backend="eager")(joints), gradient)
    close(func.grad(lambda j: func.vmap(loss)(j).sum())(joints), gradient)
    close(func.vmap(func.jacrev(one))(joints), jacobian)
    close(func.vmap(func.jacfwd(one))(joints), jacobian)
    moved = func.jvp(lambda j: hand_frames(j)[1], (joints,), (tangent,))[1]
    close(moved, torch.einsum("bijknd,bnd->bijk", jacobian, tangent))


@native
@pytest.mark.filterwarnings("ignore:amt.kernels")
def test_forward_mode():
    joints = posed_hands(3)
    tangent = torch.randn(joints.shape, dtype=joints.dtype, generator=generator(2))
    with torch.autograd.forward_ad.dual_level():
        moved = torch.autograd.forward_ad.unpack_dual(
            hand_frames(torch.autograd.forward_ad.make_dual(joints, tangent))[1]
        ).tangent
    step = 1e-6
    difference = (hand_frames(joints + step * tangent)[1] - hand_frames(joints - step * tangent)[1]) / (2 * step)
    torch.testing.assert_close(moved, difference, rtol=1e-5, atol=1e-6)


@native
def test_exports():
    class Module(torch.nn.Module):
        def forward(self, joints):
            origins, r = hand_frames(joints)
            return r @ origins[..., None]

    joints = posed_hands(4).float()
    exported = torch.export.export(Module(), (joints,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    more = posed_hands(9, seed=3).float()
    torch.testing.assert_close(exported.module()(more), Module()(more))


@implementations
def test_same_bits_wherever_a_hand_stands(runs):
    joints = torch.cat([random_hands(301), straight_hands(100)]).float()
    order = torch.randperm(401, generator=generator(1))
    with use(runs.name):
        first = [t.cpu() for t in results(hand_frames, joints.to(runs.device))]
        assert all(map(torch.equal, first, [t.cpu() for t in results(hand_frames, joints.to(runs.device))]))
        with torch.no_grad():
            shuffled = [t.cpu() for t in hand_frames(joints[order].to(runs.device))]
            for k in (0, 150, 400):
                alone = [t.cpu() for t in hand_frames(joints[k : k + 1].to(runs.device))]
                assert all(torch.equal(a[0], b[k]) for a, b in zip(alone, first))
    assert all(torch.equal(a, b[order]) for a, b in zip(shuffled, first))


@native
def test_same_bits_for_any_number_of_threads():
    joints = random_hands(700).float()
    many = results(hand_frames, joints)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = results(hand_frames, joints)
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, many, one))


@implementations
@dtypes
def test_strided_and_expanded_inputs(runs, dtype):
    joints = posed_hands(6).to(runs.device, dtype)
    views = {
        "transposed": joints.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        "sliced": torch.cat([joints, joints], dim=2)[..., 3:],
        "every second": joints.repeat_interleave(2, dim=0)[::2],
    }
    with use(runs.name):
        expected = results(hand_frames, joints)
        for view in views.values():
            assert not view.is_contiguous()
            assert all(map(torch.equal, results(hand_frames, view), expected))
        one = joints[:1].expand(6, -1, -1)
        assert all(torch.equal(a[0], b[5]) for a, b in zip(hand_frames(joints[:1]), hand_frames(one)))
        # an expanded gradient: what .sum() sends back
        j = joints.clone().requires_grad_()
        (ours,) = torch.autograd.grad(sum(t.sum() for t in hand_frames(j)), j)
    (truth,) = torch.autograd.grad(sum(t.sum() for t in reference.hand_frames(j)), j)
    torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-4)


@implementations
def test_empty_batch(runs):
    with use(runs.name):
        joints = torch.empty(0, 21, 3, device=runs.device, requires_grad=True)
        origins, r = hand_frames(joints)
        assert origins.shape == (0, 22, 3)
        assert r.shape == (0, 22, 3, 3)
        (gradient,) = torch.autograd.grad(r.sum(), joints)
    assert gradient.shape == (0, 21, 3)


@native
def test_every_number_is_written():
    """Memory that the allocator hands out again held NaN: what the kernel leaves out would show."""
    for batch in (1, 3, 16, 21, 64):
        joints = random_hands(batch).float()
        for _ in range(3):
            freed = [torch.full((batch, *s), float("nan")) for s in ((22, 3), (22, 3, 3), (21, 3))]
            del freed
            assert all(t.isfinite().all() for t in results(hand_frames, joints))


@implementations
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_degenerate_hands_of_any_size(runs, scale):
    joints = (torch.cat(list(degenerate_hands().values())) * scale).float()
    with use(runs.name):
        origins, r, gradient = (t.cpu() for t in results(hand_frames, joints.to(runs.device)))
    assert gradient.isfinite().all()
    expected = reference.hand_frames(joints.double())
    torch.testing.assert_close(origins.double() / scale, expected[0] / scale, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(r.double(), expected[1], rtol=0, atol=2e-5)


@implementations
def test_nan_stays_in_its_hand(runs):
    joints = random_hands(20).float().to(runs.device)
    with use(runs.name):
        clean = results(hand_frames, joints)
        joints[7, 6] = float("nan")
        dirty = results(hand_frames, joints)
    others = torch.arange(20) != 7
    for a, b in zip(clean, dirty):
        assert torch.equal(a[others], b[others])
        assert not b[7].isfinite().all()


@interpreted
def test_the_triton_op_passes_pytorchs_checks():
    joints = posed_hands(2).float().requires_grad_()
    with use("triton"):
        hand_frames(joints)  # registers the op
    torch.library.opcheck(torch.ops.amt.hand_frames_triton.default, (joints,))


def test_wrong_arguments_are_named():
    good = torch.zeros(2, 21, 3)
    with pytest.raises(TypeError, match="joints must be a tensor, got list"):
        hand_frames([1])
    with pytest.raises(TypeError, match=r"joints must be a dense tensor, got layout torch\.sparse_coo; call to_dense"):
        hand_frames(good.to_sparse())
    with pytest.raises(TypeError, match=r"joints must be a dense tensor, got a nested one; call torch\.nested"):
        hand_frames(torch.nested.nested_tensor([good[0], good[0]]))
    with pytest.raises(TypeError, match=r"joints must be torch\.float32 or torch\.float64, got torch\.float16"):
        hand_frames(good.half())
    with pytest.raises(ValueError, match=r"joints must have the shape \[B, 21, 3\], got \[2, 20, 3\]"):
        hand_frames(good[:, 1:])
    with pytest.raises(ValueError, match=r"got \[21, 3\]"):
        hand_frames(good[0])
