"""Parts that can be checked against arithmetic done by hand."""

import warnings

import pytest
import torch

from amt.hand.camera import project
from amt.hand.objects import box_corners
from amt.model import ConfigError, ModelConfig
from amt.model.camera import CropCamera
from amt.model.distances import nearest_distances, vertex_distances
from amt.model.keypoints import MIRRORED, KeypointHead, num_keypoints
from amt.model.latent import Gaussian, Latent
from amt.model.orientation import OrientationSolver
from amt.model.wrist import Seen, WristSolver

K = torch.tensor([[[300.0, 0, -40], [0, 310, 150], [0, 0, 1]], [[80.0, 0, 55], [0, 80, 55], [0, 0, 1]]])


def test_a_placement_is_on_its_pixel_and_comes_back():
    placement = torch.tensor([[0.3, -0.5, 0.2], [-0.9, 0.1, -1.0]])
    camera = CropCamera.of(K, 112)
    points = camera.unproject(placement)
    pixels = project(points[:, None], K)[:, 0]
    torch.testing.assert_close(pixels, 55.5 + placement[:, :2] * 56, atol=1e-3, rtol=0)
    torch.testing.assert_close(camera.placement(points), placement, atol=1e-4, rtol=0)


def test_positions_and_rays_of_points_in_the_crop():
    camera = CropCamera.of(K, 112)
    points = torch.tensor([[[0.1, -0.2, 0.9], [0.0, 0.1, 0.4]]]).expand(2, 2, 3)
    positions = camera.project(points)
    torch.testing.assert_close(55.5 + positions * 56, project(points, K), atol=1e-3, rtol=0)
    torch.testing.assert_close(camera.rays(positions), points[..., :2] / points[..., 2:], atol=1e-5, rtol=0)


def test_depth_grows_with_the_focal_length_over_the_crop():
    k = torch.eye(3).expand(2, 3, 3) * torch.tensor([[[100.0, 100, 1]], [[200.0, 200, 1]]]).mT
    depth = CropCamera.of(k, 112).unproject(torch.zeros(2, 3))[:, 2]
    assert depth[1] / depth[0] == pytest.approx(2.0)


def test_the_view_rotates_the_optical_axis_to_the_crop_s_centre():
    view = CropCamera.of(K, 112).view
    centre = torch.full((2, 1, 2), 55.5)
    torch.testing.assert_close(project(view[:, None, :, 2], K), centre, atol=1e-3, rtol=0)
    torch.testing.assert_close(view @ view.mT, torch.eye(3).expand(2, 3, 3), atol=1e-6, rtol=0)
    on_axis = torch.tensor([[[300.0, 0, 55.5], [0, 300, 55.5], [0, 0, 1]]])
    torch.testing.assert_close(CropCamera.of(on_axis, 112).view, torch.eye(3)[None])


def test_camera_features_know_only_angles():
    """The same view with a sensor of twice the pixels has the same features."""
    double = K.clone()
    double[:, :2, :2] *= 2
    double[:, :2, 2] = (K[:, :2, 2] + 0.5) * 2 - 0.5
    features = [camera.features() for camera in (CropCamera.of(K, 112), CropCamera.of(double, 224))]
    torch.testing.assert_close(*features, atol=1e-5, rtol=0)


def test_keypoints_stand_on_the_peak_of_their_map():
    torch.manual_seed(0)
    config = ModelConfig(map_size=14)
    head = KeypointHead(config)
    fine = torch.zeros(1, 14, 14, config.map_channels)
    fine[0, 3, 10] = head.score_and_depth.weight[4].detach() * 500  # only keypoint 4 is sure to answer
    keypoints, _ = head(fine)
    torch.testing.assert_close(keypoints.position[0, 4], torch.tensor([10.5, 3.5]) * 2 / 14 - 1, atol=1e-3, rtol=0)
    torch.testing.assert_close(keypoints.log_maps.exp().sum(dim=(2, 3)), torch.ones(1, num_keypoints(config)))


def test_corners_of_the_box_around_the_points():
    points = torch.tensor([[[0.0, 0, 0], [1, 2, 3], [0.5, 1, 1]], [[-1.0, 5, 0], [-2, 4, 1], [-2, 5, 0]]])
    corners = box_corners(points)
    torch.testing.assert_close(corners[0, 0], torch.zeros(3))
    torch.testing.assert_close(corners[0, 7], torch.tensor([1.0, 2, 3]))
    torch.testing.assert_close(corners[1, 4], torch.tensor([-1.0, 4, 0]))
    mirrored = box_corners(points * torch.tensor([-1.0, 1, 1]))
    order = [i - 22 for i in MIRRORED[22:]]
    torch.testing.assert_close(mirrored, corners[:, order] * torch.tensor([-1.0, 1, 1]))


def test_orientation_is_procrustes():
    roma = pytest.importorskip("roma")

    torch.manual_seed(0)
    shape = torch.randn(50, 21, 3) * 0.06
    rotation = roma.random_rotmat(50)
    seen = shape @ rotation.mT
    solver, trust = OrientationSolver(), torch.ones(50, 21)
    with torch.no_grad():
        solver.log_prior.fill_(-20)
        torch.testing.assert_close(solver(shape, seen, trust), rotation, atol=1e-5, rtol=0)
        noisy = seen + torch.randn_like(seen) * 0.02
        torch.testing.assert_close(
            solver(shape, noisy, trust), roma.special_procrustes(noisy.mT @ shape), atol=1e-5, rtol=0
        )
        wrong = noisy.clone()
        wrong[:, 5:] += 1.0
        trust[:, 5:] = 0  # and what is not trusted does not count
        torch.testing.assert_close(
            solver(shape, wrong, trust), solver(shape[:, :5], noisy[:, :5], trust[:, :5]), atol=1e-5, rtol=0
        )


def test_orientation_keeps_the_guess_where_nothing_was_seen():
    solver, eye = OrientationSolver(), torch.eye(3).expand(2, 3, 3)
    shape = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0)) * 0.1
    torch.testing.assert_close(solver(shape, shape.flip(2), torch.zeros(2, 8)), eye)
    torch.testing.assert_close(solver(shape * 0, shape * 0, torch.ones(2, 8)), eye)


def test_orientation_has_the_gradient_of_finite_differences():
    torch.manual_seed(1)
    solver = OrientationSolver().double()
    shape, seen = torch.randn(2, 3, 6, 3, dtype=torch.float64).mul(0.1).unbind(0)
    trust = torch.rand(3, 6, dtype=torch.float64)
    arguments = [x.requires_grad_() for x in (shape, seen, trust)]
    assert torch.autograd.gradcheck(solver, arguments)
    flat = torch.randn(1, 21, 3, dtype=torch.float64) * torch.tensor(
        [0.1, 0.1, 0]
    )  # a flat hand: two equal singular values
    trust = torch.ones(1, 21, dtype=torch.float64)
    assert torch.autograd.gradcheck(solver, (flat.requires_grad_(), flat.detach() + 0.001, trust))


def test_the_wrist_is_found_where_the_hand_fits_its_keypoints():
    """A hand of known size at a known place, a guess 20 % too far and 5 degrees aside: exact rays pull it back."""
    torch.manual_seed(0)
    relative = torch.randn(4, 21, 3) * 0.05
    relative[:, 0] = 0
    wrist = torch.tensor([0.1, -0.05, 0.7]).expand(4, 3)
    joints = relative + wrist[:, None]
    rays = joints[..., :2] / joints[..., 2:]
    guess = wrist * 1.2 + torch.tensor([0.08, 0, 0])
    solver = WristSolver()
    assert (solver(guess, Seen(relative, rays, torch.ones(4, 21))) - wrist).norm(dim=1).max() < 0.25 * (
        guess - wrist
    ).norm(dim=1).min()
    with torch.no_grad():
        solver.log_sigmas.copy_(torch.tensor([1e-3, 1.0, 10.0, 1.0]).log())  # trust the keypoints alone
        torch.testing.assert_close(solver(guess, Seen(relative, rays, torch.ones(4, 21))), wrist, atol=1e-4, rtol=0)
        rays[:, 5:] += 0.3  # and of these only the ones that are trusted
        trust = torch.ones(4, 21)
        trust[:, 5:] = 0
        torch.testing.assert_close(solver(guess, Seen(relative, rays, trust)), wrist, atol=1e-4, rtol=0)
        solver.log_sigmas.copy_(torch.tensor([1.0, 1e-3, 1e-3, 1.0]).log())  # trust the guess alone
        torch.testing.assert_close(solver(guess, Seen(relative, rays, torch.ones(4, 21))), guess, atol=2e-3, rtol=0)


def test_the_object_s_size_says_how_far_it_is_wherever_the_hand_holds_it():
    """Joints in one place say nothing of the depth; a box seen at its true depth does, whatever its offset from the hand."""
    torch.manual_seed(0)
    wrist = torch.tensor([[0.1, -0.05, 0.7]])
    box = box_corners(torch.randn(1, 50, 3) * 0.03) + torch.tensor([0.05, 0.02, 0.03])
    seen = box + wrist
    joints = Seen(torch.zeros(1, 21, 3), (wrist[:, :2] / wrist[:, 2:]).expand(1, 21, 2), torch.ones(1, 21))
    corners = Seen(box, seen[..., :2] / seen[..., 2:], torch.ones(1, 8))
    solver, guess = WristSolver(), wrist * 1.2
    with torch.no_grad():
        solver.log_sigmas.copy_(torch.tensor([1e-2, 1.0, 10.0, 1e-2]).log())
        torch.testing.assert_close(solver(guess, joints)[0, 2], guess[0, 2], atol=1e-3, rtol=0)
        torch.testing.assert_close(solver(guess, joints, corners), wrist, atol=1e-3, rtol=0)
        # an offset across the view is no matter of depth
        aside = corners._replace(points=box + torch.tensor([0.02, 0, 0]))
        torch.testing.assert_close(solver(guess, joints, aside), wrist, atol=1e-3, rtol=0)


def test_keypoints_all_in_one_place_leave_the_guessed_depth():
    relative = torch.randn(1, 21, 3, generator=torch.Generator().manual_seed(0)) * 0.05
    guess = torch.tensor([[0.0, 0, 0.6]])
    centred = relative - relative.mean(dim=1, keepdim=True)
    wrist = WristSolver()(guess, Seen(centred, torch.zeros(1, 21, 2), torch.ones(1, 21)))
    assert wrist[0, 2].item() == pytest.approx(0.6, rel=1e-3)


def test_distances_are_exact_far_from_the_origin():
    torch.manual_seed(0)
    a, b = torch.rand(2, 50, 3) * 0.1 + 0.7, torch.rand(2, 40, 3) * 0.1 + 0.7
    true = torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")
    from_a, from_b, index = nearest_distances(a, b)
    assert (from_a - true.amin(dim=2)).abs().max() < 2e-5
    assert (from_b - true.amin(dim=1)).abs().max() < 2e-5
    assert torch.equal(index, true.argmin(dim=1))
    torch.testing.assert_close(vertex_distances(a, b), from_a)


def test_the_latent_is_its_mean_in_evaluation_and_kl_is_zero_at_the_prior():
    torch.manual_seed(0)
    latent, x = Latent(8, 4, sample=True), torch.randn(1000, 8)
    latent.eval()
    value, distribution = latent(x)
    assert torch.equal(value, distribution.mean)
    latent.train()
    value, distribution = latent(x)
    measured = (value - distribution.mean).square().mean().item()
    expected = distribution.log_variance.exp().mean().item()
    assert measured == pytest.approx(expected, rel=0.1)
    assert Gaussian(torch.zeros(1, 4), torch.zeros(1, 4)).kl() == 0
    assert Gaussian(torch.ones(1, 4), torch.zeros(1, 4)).kl() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": "huge"}, "model.size must be one of tiny, small, base, large; got 'huge'"),
        ({"hidden": 100}, "model.hidden must be a multiple of 64; got 100"),
        ({"crop_size": 100}, "model.crop_size must be a multiple of 16 .* take 96"),
        ({"size": "small", "crop_size": 230}, "model.crop_size must be a multiple of 14 .* take 224"),
        ({"refine_steps": -1}, "model.refine_steps must be at least 0; got -1"),
        ({"refine_steps": 1.5}, "model.refine_steps must be a whole number; got 1.5"),
        ({"refine_step_size_m": 0}, "model.refine_step_size_m must be above 0 and finite; got 0"),
        ({"hand_frames": "no"}, "model.hand_frames must be true or false; got 'no'"),
        ({"contact_tokens": 0}, "model.contact_tokens must be true or false; got 0"),
        ({"map_size": 15}, "model.map_size must be even; got 15"),
        ({"backbone": {"depth": 0}}, "model.backbone.depth must be at least 1; got 0"),
        ({"backbone": {"name": "resnet"}}, "model.backbone.name must be one of hybrid, dinov2-small"),
        ({"backbone": {"nane": "hybrid"}}, "model.backbone: unknown nane"),
        ({"backbone": {"residuals": [1, 2]}}, "model.backbone.residuals must be 4 whole numbers"),
        ({"backbone": {"residuals": [0, 1, -1, 1]}}, "model.backbone.residuals must be 4 whole numbers"),
        ({"backbone": {"frozen_layers": 9}}, "model.backbone.frozen_layers must be 0 to 1; got 9"),
    ],
)
def test_a_wrong_configuration_is_named(values, message):
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(values)


def test_a_size_fills_what_is_not_given_and_survives_json():
    config = ModelConfig(size="base", hidden=512)
    assert (config.hidden, config.map_size, config.backbone.name) == (512, 56, "dinov2-base")
    assert ModelConfig.from_dict(config.as_dict()) == config


def test_a_missing_hand_model_is_named(tmp_path):
    from amt.model import AMT

    with pytest.raises(ConfigError, match=r"model\.hand: .*MANO_RIGHT\.pkl"):
        AMT(ModelConfig(hand=str(tmp_path / "MANO_RIGHT.pkl")))


def test_dinov2_s_interface_and_its_saved_weights(tmp_path):
    pytest.importorskip("transformers")
    from amt.model.dinov2 import DinoV2Backbone

    config = ModelConfig(size="small", crop_size=56, backbone={"depth": 3, "frozen_layers": 1})
    with pytest.warns(UserWarning, match="starts at random"):
        backbone = DinoV2Backbone(config)
    image = torch.randn(1, 3, 56, 56)
    features = backbone(image)
    assert [tuple(m.shape) for m in features.maps] == [(1, 384, 4, 4)] * 3
    assert features.tokens.shape[0] == 1
    assert features.tokens.shape[2] == 384
    features.tokens.sum().backward()
    layers = backbone.model.encoder.layer
    assert all(p.grad is None for p in layers[0].parameters())
    assert all(p.grad is not None for p in layers[2].attention.parameters())

    backbone.model.save_pretrained(tmp_path)
    config.backbone.weights, config.backbone.require_pretrained = str(tmp_path), True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = DinoV2Backbone(config)
    torch.testing.assert_close(again(image).tokens, features.tokens)
    config.backbone.weights = str(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="require_pretrained is set"):
        DinoV2Backbone(config)
