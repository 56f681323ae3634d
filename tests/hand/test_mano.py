"""The MANO-format layer against a plain loop in float64, and what it promises besides."""

import numpy as np
import pytest
import torch

from amt.hand.limits import articulate, grasp_angles
from amt.hand.mano import HandModel, ManoLayer
from amt.hand.mirror import mirror_points, mirror_pose
from amt.hand.shipped import shipped_hand
from amt.hand.skeleton import MANO_TO_SKELETON


def random_arguments(batch, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pose = torch.randn(batch, 48, generator=generator, dtype=torch.float64) * 0.5
    betas = torch.randn(batch, 10, generator=generator, dtype=torch.float64)
    translation = torch.randn(batch, 3, generator=generator, dtype=torch.float64)
    return pose.to(dtype), betas.to(dtype), translation.to(dtype)


def rodrigues(vector):
    angle = np.linalg.norm(vector)
    if angle == 0:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array(((0, -z, y), (z, 0, -x), (-y, x, 0)))
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def skin_by_hand(model, pose, betas, translation):
    """Linear blend skinning as MANO's paper writes it: 4x4 matrices, one joint and one vertex at a time."""
    rotations = [rodrigues(pose[3 * j : 3 * j + 3]) for j in range(16)]
    shaped = model.v_template.astype(np.float64).copy()
    for k in range(10):
        shaped += model.shapedirs[:, :, k] * betas[k]
    joints = model.J_regressor @ shaped
    feature = np.concatenate([(rotations[j] - np.eye(3)).ravel() for j in range(1, 16)])
    posed = shaped + np.einsum("vck,k->vc", model.posedirs.astype(np.float64), feature)

    globals_ = []
    for j, parent in enumerate(model.parents):
        local = np.eye(4)
        local[:3, :3] = rotations[j]
        local[:3, 3] = joints[j] - (joints[parent] if parent >= 0 else 0)
        globals_.append(local if parent < 0 else globals_[parent] @ local)
    vertices = np.zeros((model.num_vertices, 3))
    for v in range(model.num_vertices):
        for j in np.flatnonzero(model.weights[v]):
            carried = globals_[j][:3, :3] @ (posed[v] - joints[j]) + globals_[j][:3, 3]
            vertices[v] += model.weights[v, j] * carried
    vertices += translation
    sixteen = np.array([g[:3, 3] for g in globals_]) + translation
    all_joints = np.concatenate((sixteen, vertices[model.tip_vertices]))
    return vertices, all_joints[list(MANO_TO_SKELETON)]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-6)])
def test_layer_is_the_hand_written_loop(side, dtype, tolerance):
    model = shipped_hand(side)
    layer = ManoLayer(model).to(dtype)
    mesh = layer(*random_arguments(2, dtype))
    assert mesh.vertices.dtype == dtype
    for i, arguments in enumerate(zip(*random_arguments(2), strict=True)):
        vertices, joints = skin_by_hand(model, *(argument.numpy() for argument in arguments))
        assert np.abs(mesh.vertices[i].double().numpy() - vertices).max() < tolerance
        assert np.abs(mesh.joints[i].double().numpy() - joints).max() < tolerance


def test_joints_at_rest_are_the_regressor_s():
    model = shipped_hand()
    layer = ManoLayer(model).double()
    _, betas, _ = random_arguments(3)
    mesh = layer(torch.zeros(3, 48).double(), betas, torch.zeros(3, 3).double())
    regressed = torch.einsum("jv,bvc->bjc", torch.tensor(model.J_regressor), mesh.vertices)
    # The layer holds its arrays in float32 before .double().
    torch.testing.assert_close(mesh.joints[:, :4], regressed[:, [0, 13, 14, 15]], atol=1e-7, rtol=0)
    torch.testing.assert_close(layer.rest_joints(betas), regressed, atol=1e-7, rtol=0)


def test_the_hand_rotates_about_its_root_at_rest():
    layer = ManoLayer(shipped_hand()).double()
    pose, betas, translation = random_arguments(4)
    wrist = layer(pose, betas, translation).joints[:, 0]
    torch.testing.assert_close(wrist, layer.rest_joints(betas)[:, 0] + translation)
    rotated = pose.clone()
    rotated[:, :3] += 1.0
    torch.testing.assert_close(layer(rotated, betas, translation).joints[:, 0], wrist)


def test_matrices_and_axis_angle_give_the_same_hand():
    layer = ManoLayer(shipped_hand()).double()
    pose, betas, translation = random_arguments(3)
    matrices = torch.tensor(np.array([[rodrigues(v) for v in p.reshape(16, 3)] for p in pose.numpy()]))
    a, b = layer(pose, betas, translation), layer(matrices, betas, translation)
    torch.testing.assert_close(a.vertices, b.vertices, atol=1e-12, rtol=0)


def test_pca_form_is_the_stated_matrix_product_and_inverts():
    model = shipped_hand()
    layer = ManoLayer(model).double()
    coefficients = torch.randn(5, 45, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pose = layer.pca_to_pose(coefficients)
    np.testing.assert_allclose(
        pose.numpy(), coefficients.numpy() @ model.hands_components.astype(np.float64) + model.hands_mean, atol=1e-6
    )
    torch.testing.assert_close(layer.pose_to_pca(pose), coefficients, atol=1e-6, rtol=0)
    few = torch.cat((coefficients[:, :6], torch.zeros(5, 39)), dim=1)
    torch.testing.assert_close(layer.pca_to_pose(coefficients[:, :6]), layer.pca_to_pose(few))


def test_left_hand_is_the_right_hand_in_the_mirror():
    right, left = (ManoLayer(shipped_hand(side)) for side in ("right", "left"))
    pose, betas, translation = random_arguments(4, torch.float32)
    a = right(pose, betas, translation)
    b = left(mirror_pose(pose), betas, mirror_points(translation))
    torch.testing.assert_close(mirror_points(b.joints), a.joints, atol=1e-6, rtol=0)
    torch.testing.assert_close(mirror_points(b.vertices), a.vertices, atol=1e-6, rtol=0)
    coefficients = torch.randn(3, 45)
    torch.testing.assert_close(mirror_pose(right.pca_to_pose(coefficients)), left.pca_to_pose(coefficients))


def test_gradients_are_right_and_finite_at_zero_pose():
    layer = ManoLayer(shipped_hand()).double()
    arguments = [x[:1].clone().requires_grad_() for x in random_arguments(1)]
    weights = torch.randn(21, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert torch.autograd.gradcheck(lambda *x: (layer(*x).joints * weights).sum(), arguments)
    at_zero = [torch.zeros_like(x).requires_grad_() for x in arguments]
    layer(*at_zero).vertices.square().sum().backward()
    for x in at_zero:
        assert torch.isfinite(x.grad).all()
        assert x.grad.abs().max() > 0


def test_autocast_does_not_reach_the_layer():
    layer = ManoLayer(shipped_hand())
    arguments = random_arguments(2, torch.float32)
    plain = layer(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        cast = layer(*arguments)
    assert cast.vertices.dtype == torch.float32
    assert torch.equal(plain.vertices, cast.vertices)
    assert torch.equal(plain.joints, cast.joints)


def test_an_empty_batch_gives_an_empty_mesh():
    mesh = ManoLayer(shipped_hand())(torch.zeros(0, 48), torch.zeros(0, 10), torch.zeros(0, 3))
    assert mesh.vertices.shape == (0, shipped_hand().num_vertices, 3)
    assert mesh.joints.shape == (0, 21, 3)


def test_no_checkpoint_carries_the_hand():
    assert ManoLayer(shipped_hand()).state_dict() == {}


def test_export_keeps_the_values_and_the_batch_free():
    layer = ManoLayer(shipped_hand())
    arguments = random_arguments(2, torch.float32)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(layer, arguments, dynamic_shapes=({0: batch},) * 3)
    others = random_arguments(5, torch.float32, seed=3)
    torch.testing.assert_close(program.module()(*others).vertices, layer(*others).vertices, atol=1e-6, rtol=0)


def test_compiles_without_a_break():
    layer = ManoLayer(shipped_hand())
    arguments = random_arguments(2, torch.float32)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments).vertices, layer(*arguments).vertices, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("pose", "betas", "translation", "name"),
    [((2, 45), (2, 10), (2, 3), "pose"), ((2, 48), (2, 9), (2, 3), "betas"), ((2, 48), (2, 10), (2, 4), "translation")],
)
def test_wrong_shapes_are_named(pose, betas, translation, name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        ManoLayer(shipped_hand())(torch.zeros(pose), torch.zeros(betas), torch.zeros(translation))


def test_wrong_model_arrays_are_named():
    arrays = shipped_hand().arrays()
    with pytest.raises(ValueError, match=rf"weights: expected shape \({len(arrays['weights'])}, 16\), got"):
        HandModel(**{**arrays, "weights": arrays["weights"][:-1]}, side="right")
    with pytest.raises(ValueError, match="f: vertex indices"):
        HandModel(**{**arrays, "f": arrays["f"] + 1}, side="right")
    with pytest.raises(ValueError, match="side: expected"):
        HandModel(**arrays, side="both")


def test_agrees_with_smplx_where_it_is_installed():
    smplx = pytest.importorskip("smplx", reason="smplx is not a dependency; the comparison runs where it is installed")
    from smplx.lbs import lbs

    model = shipped_hand()
    pose, betas, translation = random_arguments(2)
    vertices, joints = lbs(
        betas,
        pose,
        torch.tensor(model.v_template).double(),
        torch.tensor(model.shapedirs).double(),
        torch.tensor(model.posedirs).double().reshape(-1, 135).T,
        torch.tensor(model.J_regressor).double(),
        torch.tensor(model.parents),
        torch.tensor(model.weights).double(),
        pose2rot=True,
    )
    mesh = ManoLayer(model).double()(pose, betas, translation)
    assert smplx is not None
    torch.testing.assert_close(mesh.vertices, vertices + translation[:, None], atol=1e-6, rtol=0)
    torch.testing.assert_close(mesh.joints[:, 0], joints[:, 0] + translation, atol=1e-6, rtol=0)


def test_pinch_brings_thumb_and_index_together_and_a_fist_closes():
    layer = ManoLayer(shipped_hand())
    poses = torch.stack(
        [
            articulate(*grasp_angles(torch.tensor(curl), opposition=opposition))
            for curl, opposition in (([0.0] * 5, 0.0), ([0.3, 0.55, 0.4, 0.35, 0.3], 1.0), ([1.0] * 5, 0.7))
        ]
    )
    joints = layer(torch.cat((torch.zeros(3, 3), poses), dim=1), torch.zeros(3, 10), torch.zeros(3, 3)).joints
    apart = (joints[:, 4] - joints[:, 8]).norm(dim=-1)
    assert apart[0] > 0.06
    assert apart[1] < 0.015
    reach = (joints[:, [8, 12, 16, 20]] - joints[:, :1]).norm(dim=-1)
    assert (reach[2] < 0.6 * reach[0]).all()


def test_the_same_angles_mirror_on_a_left_hand():
    angles = grasp_angles(torch.rand(4, 5, generator=torch.Generator().manual_seed(4)), 0.5, 0.7)
    right = articulate(*angles)
    left = articulate(*angles, model=shipped_hand("left"))
    torch.testing.assert_close(mirror_pose(right), left, atol=1e-5, rtol=0)
