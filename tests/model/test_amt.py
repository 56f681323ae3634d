"""The whole model: what it may see, what it must hold to, and the mistakes that sank an earlier system of this kind."""

import dataclasses

import pytest
import torch

from amt.hand.batch import Targets
from amt.hand.camera import crop_camera, project
from amt.hand.fit import fit_joints
from amt.hand.mirror import mirror_inputs
from amt.hand.shipped import shipped_hand
from amt.kernels import hand_frames
from amt.model import AMT, ModelConfig
from amt.model.camera import CropCamera
from amt.model.features import Maps
from amt.model.frames import JOINT_FRAMES
from amt.model.mesh import follow_weights, rest_hand
from amt.train.losses import LossConfig, compute_loss

NUM_VERTICES = shipped_hand().num_vertices


def test_everything_is_there_finite_and_float32(model, make_batch):
    batch = make_batch(3, left=True)
    with torch.no_grad():
        p = model(batch.inputs)
    steps = model.config.refine_steps
    assert p.steps.shape == (3, steps, 21, 3)
    assert p.vertices.shape == p.coarse.vertices.shape == (3, NUM_VERTICES, 3)
    assert p.object_contact.shape == (3, 64)
    for name, value in p.named_tensors():
        assert value.dtype == torch.float32, name
        assert value.isfinite().all(), name
    assert torch.equal(p.joints, p.steps[:, -1])
    identity = torch.eye(3).expand(3, 16, 3, 3)
    torch.testing.assert_close(p.pose @ p.pose.mT, identity, atol=1e-5, rtol=0)
    assert (torch.linalg.det(p.object_rotation) - 1).abs().max() < 1e-5


def test_every_parameter_gets_a_finite_gradient(model, make_batch):
    batch = make_batch(4, left=True)
    model = AMT(ModelConfig())
    compute_loss(model(batch.inputs), batch, LossConfig()).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_under_bf16_autocast_coordinates_stay_float32(model, make_batch):
    batch = make_batch(2)
    with torch.no_grad():
        exact = model(batch.inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            p = model(batch.inputs)
    assert all(tensor.dtype == torch.float32 for _, tensor in p.named_tensors())
    # a network in bf16 moves the hand a little; metres that went through bf16 would stand on a grid of 2-4 mm
    assert (p.joints - exact.joints).norm(dim=-1).max() < 0.05
    assert not torch.equal(p.joints.bfloat16().float(), p.joints)
    mesh = model.mano(p.pose, p.betas, p.translation)
    assert mesh.vertices.dtype == torch.float32


def test_labels_do_not_enter(model, make_batch):
    """Mistake 1, the outside: other labels, the same answer. The forward cannot even name them."""
    batch = make_batch(2)
    with torch.no_grad():
        before = model(batch.inputs)
        for _, tensor in batch.targets.named_tensors():
            tensor.zero_()
        after = model(batch.inputs)
    assert torch.equal(before.joints, after.joints)
    with pytest.raises(AttributeError):
        model(batch.targets)
    assert not {f.name for f in dataclasses.fields(batch.inputs)} & {f.name for f in dataclasses.fields(Targets)}


def test_shuffled_labels_change_the_loss_and_nothing_else(make_batch):
    """In training, through the loss: every prediction is the same bit by bit, so no label reached the forward pass."""
    torch.manual_seed(0)
    model, batch = AMT(ModelConfig()).train(), make_batch(4, left=True)
    answers, losses = [], []
    for order in (torch.arange(4), torch.tensor([2, 3, 0, 1])):
        shuffled = dataclasses.replace(batch, targets=batch.targets[order])
        torch.manual_seed(1)  # the latents' samples
        prediction = model(shuffled.inputs)
        loss = compute_loss(prediction, shuffled, LossConfig()).total
        model.zero_grad()
        loss.backward()
        answers.append(prediction)
        losses.append(float(loss.detach()))
    assert abs(losses[0] - losses[1]) > 0.1
    for (name, first), (_, second) in zip(*(answer.named_tensors() for answer in answers), strict=True):
        assert torch.equal(first, second), name


def test_frames_and_tokens_come_from_the_model_s_own_coarse_mesh(model, make_batch):
    """Mistake 1, the inside: the encoders see exactly the coarse hand, in training too, and follow it when it changes."""
    inputs = make_batch(2).inputs
    seen = {}

    def record(module, args, output):
        seen["vertices"], seen["frames"], seen["tokens"] = *args[:2], output

    handle = model.hand_encoder.register_forward_hook(record)
    bias = model.coarse_decoder.hand_head[-1].bias
    try:
        for training in (False, True):
            model.train(training)
            with torch.no_grad():
                p = model(inputs)
            origins, rotations = hand_frames(p.coarse.joints)
            assert torch.equal(seen["vertices"], p.coarse.vertices)
            torch.testing.assert_close(seen["frames"].origins, origins)
            torch.testing.assert_close(seen["frames"].rotations, rotations)
        before = seen["tokens"]
        with torch.no_grad():
            saved = bias.clone()
            bias[6:60] += 0.5  # bends the coarse fingers, changes nothing else
            model(inputs)
            bias.copy_(saved)
        assert (seen["tokens"] - before).abs().max() > 1e-2
    finally:
        handle.remove()
        model.eval()


def test_refinement_reads_the_map_where_the_joint_projects(model, make_batch):
    """Mistake 2: pixels belong to the crop, not to a map's grid. One bright cell must be seen by the joint over it only."""
    inputs = make_batch(1).inputs
    size, grid = model.config.crop_size, model.config.map_size
    row, column, joint = 5, 20, 8
    centre = torch.tensor([[(column + 0.5) * size / grid - 0.5, (row + 0.5) * size / grid - 0.5]])
    far = torch.tensor([[10.0, 100.0]])
    pixels = far.repeat(21, 1)
    pixels[joint] = centre
    depth = torch.full((21,), 0.7)
    k = inputs.intrinsics[0]
    rays = (pixels - k[:2, 2]) / torch.stack((k[0, 0], k[1, 1]))
    joints = torch.cat((rays * depth[:, None], depth[:, None]), dim=1)[None]
    torch.testing.assert_close(project(joints, inputs.intrinsics)[0], pixels, atol=1e-3, rtol=0)

    channels = model.config.map_channels
    dark = Maps(torch.zeros(1, grid, grid, channels), torch.zeros(1, grid // 2, grid // 2, channels))
    bright = Maps(dark.fine.clone(), dark.coarse)
    bright.fine[0, row, column] = 5.0
    camera = CropCamera.of(inputs.intrinsics, size)
    latent = torch.zeros(1, model.config.latent)
    with torch.no_grad():
        plain = model.refinement(joints, camera, dark, latent)
        moved = model.refinement(joints, camera, bright, latent)
    difference = (moved - plain)[0, 0].norm(dim=-1)  # the first step: all joints still stand where they were put
    assert difference[joint] > 1e-4
    others = torch.arange(21) != joint
    assert difference[others].max() == 0


def test_a_mirrored_frame_with_the_other_side_gives_the_mirrored_scene(model, make_batch):
    inputs = make_batch(4).inputs
    which = torch.tensor([True, True, False, True])
    with torch.no_grad():
        p, q = model(inputs), model(mirror_inputs(inputs, which))
    q = q.mirrored(which)
    for (name, value), (_, other) in zip(p.named_tensors(), q.named_tensors(), strict=True):
        if name.endswith(("joints", "vertices", "translation", "steps")):
            assert (value - other).abs().max() < 1e-4, name  # m
        else:
            torch.testing.assert_close(
                value, other, atol=1e-3, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_a_left_hand_s_pose_makes_its_mesh_with_the_left_model(model, make_batch):
    from amt.hand.mano import ManoLayer

    batch = make_batch(2, left=True)
    with torch.no_grad():
        p = model(batch.inputs)
        assert not batch.inputs.right[1]
        mesh = ManoLayer(shipped_hand("left"))(p.pose[1:], p.betas[1:], p.translation[1:])
    torch.testing.assert_close(mesh.joints, p.decoded.joints[1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(mesh.vertices, p.decoded.vertices[1:], atol=1e-5, rtol=0)
    assert torch.equal(p.unrefined.joints[1:, 0], p.decoded.joints[1:, 0])  # the wrist has no residual of its own


def test_a_frame_scaled_together_with_its_camera_gives_the_same_metric_hand(model, make_batch):
    """The same picture taken with another sensor: the frame's pixels change their size, what the crop shows does not.

    Pixel x of the frame becomes (x + 0.5) s - 0.5: its centre lies half a pixel inside its edge.
    """
    inputs, size = make_batch(3, left=True).inputs, model.config.crop_size
    with torch.no_grad():
        before = model(inputs)
        for scale in (0.5, 2.25):
            resize = torch.tensor([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2], [0, 0, 1]])
            frame = resize @ inputs.frame_intrinsics
            box = torch.cat(((inputs.box[:, :2] + 0.5) * scale - 0.5, inputs.box[:, 2:] * scale), dim=1)
            cropped = crop_camera(frame, box, size)[0]
            scaled = dataclasses.replace(
                inputs, intrinsics=cropped, frame_intrinsics=frame, frame_size=inputs.frame_size * scale, box=box
            )
            features = [CropCamera.of(k, size).features() for k in (cropped, inputs.intrinsics)]
            torch.testing.assert_close(*features, atol=1e-5, rtol=0)
            after = model(scaled)
            for name in ("joints", "vertices", "object_translation"):
                assert (getattr(before, name) - getattr(after, name)).abs().max() < 1e-4, name  # m
            # scaled without half a pixel's care, the crop looks elsewhere: this is what the test would notice
            wrong = crop_camera(frame, inputs.box * scale, size)[0]
            assert (wrong - cropped).abs().max() > 0.1


def test_twice_the_focal_length_is_about_twice_the_distance(model, make_batch):
    inputs = make_batch(2).inputs
    k = inputs.intrinsics.clone()
    centre = (model.config.crop_size - 1) / 2
    k[:, 0, 2] = k[:, 1, 2] = centre
    longer = k.clone()
    longer[:, 0, 0] *= 2
    longer[:, 1, 1] *= 2
    with torch.no_grad():
        near = model(dataclasses.replace(inputs, intrinsics=k)).coarse.joints[:, 0, 2]
        far = model(dataclasses.replace(inputs, intrinsics=longer)).coarse.joints[:, 0, 2]
    assert ((far / near) / 2 - 1).abs().max() < 0.5  # exactly 2 but for what the network makes of the camera's features


def test_crops_of_another_size_are_refused(model, make_batch):
    with pytest.raises(ValueError, match=r"inputs\.image must be \[B, 3, 112, 112\], got \[1, 3, 96, 96\]"):
        model(make_batch(1, crop=96).inputs)


def test_an_unknown_object_takes_the_class_that_the_image_suggests(model, make_batch):
    inputs = make_batch(2).inputs
    unknown = dataclasses.replace(inputs, object_class=torch.zeros(2, dtype=torch.long))
    with torch.no_grad():
        p, q = model(inputs), model(unknown)
    assert torch.equal(p.object_class, q.object_class)
    assert q.object_translation.isfinite().all()


def test_sampling_only_in_training(model, make_batch):
    inputs = make_batch(2).inputs
    with torch.no_grad():
        assert torch.equal(model(inputs).joints, model(inputs).joints)
        model.train()
        a, b = model(inputs), model(inputs)
        model.eval()
    assert not torch.equal(a.pose, b.pose)


def test_each_joint_s_frame_sits_at_the_joint(model):
    _, joints = rest_hand(model.mano)
    origins, _ = hand_frames(joints[None])
    torch.testing.assert_close(origins[0, list(JOINT_FRAMES)], joints)


def test_the_mesh_follows_its_joints(model):
    weights = follow_weights(model.mano)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(NUM_VERTICES))
    shift = torch.tensor([0.01, -0.02, 0.03]).expand(1, 21, 3)
    vertices, _ = rest_hand(model.mano)
    moved = model.refinement.follow_joints(vertices[None], shift)
    torch.testing.assert_close(moved, vertices[None] + shift[:, :1])
    tip = torch.zeros(1, 21, 3)
    tip[0, 8, 1] = 0.01  # the index's tip alone
    displaced = (model.refinement.follow_joints(vertices[None], tip) - vertices)[0, :, 1]
    index_tip = int(model.mano.tip_vertices[1])
    assert displaced[index_tip] == pytest.approx(0.01)
    assert (displaced[vertices.sub(vertices[index_tip]).norm(dim=1) > 0.06]).abs().max() < 2e-3


def test_a_dinov2_size_goes_through_the_same_walls(make_batch):
    pytest.importorskip("transformers")
    config = ModelConfig(
        size="small", crop_size=56, fusion_depth=2, decoder_depth=1, backbone={"depth": 3, "frozen_layers": 1}
    )
    with pytest.warns(UserWarning, match="dinov2-small starts at random"):
        model = AMT(config)
    batch = make_batch(2, crop=56, left=True)
    loss = compute_loss(model(batch.inputs), batch, LossConfig())
    loss.total.backward()
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(name.startswith(("backbone.model.embeddings", "backbone.model.encoder.layer.0.")) for name in frozen)
    missing = [
        n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.isfinite().all())
    ]
    assert not missing


def test_parameters_of_the_refined_joints(model, make_batch):
    """The decoded parameters give the decoded hand to the last bit of float32; fitted ones are nearer to the final joints."""
    batch = make_batch(3)
    with torch.no_grad():
        p = model(batch.inputs)
    mesh = model.mano(p.pose, p.betas, p.translation)
    torch.testing.assert_close(mesh.joints, p.decoded.joints, atol=1e-6, rtol=0)
    torch.testing.assert_close(mesh.vertices, p.decoded.vertices, atol=1e-6, rtol=0)
    fit = fit_joints(model.mano, p.joints, p.pose, p.betas, p.translation)
    before, after = ((joints - p.joints).norm(dim=-1).mean() for joints in (p.decoded.joints, fit.joints))
    assert before > 1e-3
    assert after < 0.6 * before
