"""DropPath and FeatureNoise: in training only, with the size that was asked for, and off unless asked for."""

import warnings

import pytest
import torch

from amt.model import AMT, ModelConfig
from amt.model.features import FeatureNoise, Features
from amt.model.layers import Block, DropPath, rising


def test_a_dropped_path_keeps_its_mean_and_whole_samples_go():
    torch.manual_seed(0)
    drop, branch = DropPath(0.4), torch.ones(20_000, 3, 2)
    out = drop(branch)
    per_sample = out.flatten(1)
    assert torch.equal(per_sample, per_sample[:, :1].expand_as(per_sample))
    assert per_sample[:, 0].unique().tolist() == pytest.approx([0.0, 1 / 0.6])
    assert out.mean().item() == pytest.approx(1, abs=0.02)
    assert drop.eval()(branch) is branch
    assert DropPath(0.0)(branch) is branch


def test_a_block_without_its_branches_is_the_identity():
    torch.manual_seed(0)
    block, x = Block(64, 2, cross=True, drop_path=0.9), torch.randn(64, 5, 64)
    out, whole = block(x, x), block.eval()(x, x)
    unchanged = (out == x).flatten(1).all(dim=1)
    assert 0.5 < unchanged.float().mean() < 0.95  # 0.9 to the third power skip all three
    assert not (whole == x).flatten(1).all(dim=1).any()


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_shares_rise_in_each_transformer(size):
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = AMT(ModelConfig(size=size, drop_path=0.2, fusion_depth=3))
    parts = {"backbone": model.backbone, "coarse_decoder": model.coarse_decoder, "fusion": model.fusion}
    for name, part in parts.items():
        shares = [m.share for m in part.modules() if isinstance(m, DropPath)]
        depth = {"backbone": model.config.backbone.depth, "coarse_decoder": model.config.decoder_depth, "fusion": 3}[
            name
        ]
        assert shares == pytest.approx(rising(0.2, depth)), name
    assert rising(0.2, 3) == pytest.approx([0, 0.1, 0.2])
    assert rising(0.2, 1) == [0.2]


def test_noise_has_the_deviation_that_was_asked_for():
    torch.manual_seed(0)
    features = Features(tuple(torch.randn(8, 4, 16, 16) * scale + 5 for scale in (1, 10, 0.1)), torch.randn(8, 50, 32))
    noise = FeatureNoise(0.3)
    noisy = noise(features)
    for before, after in zip((*features.maps, features.tokens), (*noisy.maps, noisy.tokens)):
        assert ((after - before).std() / before.std()).item() == pytest.approx(0.3, rel=0.05)
    assert noise.eval()(features) is features
    assert FeatureNoise(0.0)(features) is features


def test_both_act_in_the_model_in_training_only(make_batch):
    inputs = make_batch(2).inputs
    for option in ({"drop_path": 0.5}, {"feature_noise": 0.2}):
        torch.manual_seed(0)
        model = AMT(ModelConfig(sigma=False, pose_search=False, **option))
        model.train()
        assert not torch.equal(model(inputs).joints, model(inputs).joints), option
        model.eval()
        assert torch.equal(model(inputs).joints, model(inputs).joints)
        plain = AMT(ModelConfig(sigma=False, pose_search=False)).eval()  # which hides colours in training
        plain.load_state_dict(model.state_dict())
        assert torch.equal(plain(inputs).joints, model(inputs).joints)
        plain.train()
        assert torch.equal(plain(inputs).joints, plain(inputs).joints)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"drop_path": 1.0}, r"model\.drop_path must be at least 0 and below 1; got 1\.0"),
        ({"feature_noise": -0.1}, r"model\.feature_noise must be finite and not negative; got -0\.1"),
    ],
)
def test_impossible_shares_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**option)
