"""DINOv2 with weights of one's own, with registers and without; frozen blocks; attention. No network is used."""

import json
import warnings

import pytest
import torch

from amt.model import AMT, BackboneConfig, ConfigError, ModelConfig, load_checkpoint, save_checkpoint

transformers = pytest.importorskip("transformers")

from amt.model.dinov2 import DinoV2Backbone  # noqa: E402

DEPTH, CROP = 2, 56
KINDS = {"dinov2": "Dinov2", "dinov2_with_registers": "Dinov2WithRegisters"}


def config_for(**backbone) -> ModelConfig:
    return ModelConfig(
        size="small", crop_size=CROP, fusion_depth=1, decoder_depth=1, backbone={"depth": DEPTH, **backbone}
    )


def published(kind: str, part: str = "Backbone", **changes):
    """A model of transformers' own with random weights, as the published small ones are but for the depth."""
    torch.manual_seed(0)
    settings = dict(hidden_size=384, num_hidden_layers=DEPTH, num_attention_heads=6, patch_size=14, image_size=518)
    config = getattr(transformers, KINDS[kind] + "Config")(**settings | changes)
    return getattr(transformers, KINDS[kind] + part)(config).eval()


@pytest.mark.parametrize("part", ["Backbone", "Model"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_folder_is_read_by_its_own_class(kind, part, tmp_path, recwarn):
    saved = published(kind, part)
    saved.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == kind
    config = config_for(weights=str(tmp_path), require_pretrained=True)
    backbone = DinoV2Backbone(config).eval()
    assert not [w for w in recwarn if "starts at random" in str(w.message)]
    registers = 4 if kind == "dinov2_with_registers" else 0
    assert config.backbone.registers == registers
    image = torch.randn(2, 3, CROP, CROP)
    with torch.no_grad():
        ours, theirs = backbone(image), saved(image)
    if part == "Model":
        torch.testing.assert_close(ours.tokens, theirs.last_hidden_state, atol=1e-5, rtol=1e-4)
    else:
        torch.testing.assert_close(ours.maps[-1], theirs.feature_maps[-1], atol=1e-5, rtol=1e-4)
    assert ours.tokens.shape == (2, 1 + registers + 16, 384)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_needs_the_folder_no_more(kind, tmp_path, make_batch):
    published(kind).save_pretrained(tmp_path / "weights")
    model = AMT(config_for(weights=str(tmp_path / "weights"), require_pretrained=True)).eval()
    save_checkpoint(tmp_path / "checkpoint", model)
    for file in (tmp_path / "weights").iterdir():
        file.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the checkpoint holds all weights: nothing starts at random
        again, _ = load_checkpoint(tmp_path / "checkpoint")
    inputs = make_batch(1, crop=CROP).inputs
    with torch.no_grad():
        assert torch.equal(model(inputs).joints, again(inputs).joints)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 192, "num_attention_heads": 3}, "channels: 384 expected, 192 found"),
        ({"num_hidden_layers": 3}, "blocks: 2 expected, 3 found"),
        ({"patch_size": 16, "image_size": 512}, "patches, px: 14 expected, 16 found"),
    ],
)
def test_weights_of_another_size_are_refused(changes, message, tmp_path):
    published("dinov2", **changes).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=f"is no dinov2-small .*{message}"):
        DinoV2Backbone(config_for(weights=str(tmp_path)))


@pytest.mark.parametrize(
    "name", ["auto", "facebook/dinov2-with-registers-small", "facebook/dinov2-small", "somebody/no-such-model"]
)
def test_a_name_that_cannot_be_had_offline(name, monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.warns(UserWarning, match=rf"weights={name} could not be loaded .*starts at random.*save_pretrained"):
        DinoV2Backbone(config_for(weights=name))
    with pytest.raises(
        ConfigError, match=rf"weights={name} could not be loaded .*require_pretrained is set: set model"
    ):
        DinoV2Backbone(config_for(weights=name, require_pretrained=True))


def test_broken_folders_are_named(tmp_path):
    published("dinov2").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()

    def reason():
        with pytest.raises(ConfigError, match="could not be loaded") as error:
            DinoV2Backbone(config_for(weights=str(tmp_path), require_pretrained=True))
        assert "\n" not in str(error.value)
        return str(error.value)

    weights.write_bytes(whole[:5000])
    reason()
    from safetensors.torch import load, save

    weights.write_bytes(
        save({n: t for n, t in load(whole).items() if "layer.1." not in n}, {"format": "pt"}),
    )
    assert "weights are missing" in reason()
    weights.unlink()
    reason()
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert "it is a vit, not one of dinov2, dinov2_with_registers" in reason()
    assert BackboneConfig().registers == 4


def test_frozen_blocks_keep_no_graph_and_stay_as_they_are():
    with pytest.warns(UserWarning, match="starts at random"):
        backbone = DinoV2Backbone(config_for(frozen_layers=1)).train()
    embeddings, (first, second) = backbone.model.embeddings, backbone.model.encoder.layer
    assert not any(module.training for part in (embeddings, first) for module in part.modules())
    assert all(module.training for module in second.modules())
    graphs = {}
    for name, part in (("embeddings", embeddings), ("first", first), ("second", second)):
        part.register_forward_hook(lambda _, args, output, name=name: graphs.update({name: output}))
    backbone(torch.randn(1, 3, CROP, CROP, requires_grad=False)).tokens.sum().backward()
    for name in ("embeddings", "first"):
        assert not graphs[name].requires_grad
        assert graphs[name].grad_fn is None
    assert graphs["second"].requires_grad
    assert all(p.grad is None and not p.requires_grad for part in (embeddings, first) for p in part.parameters())
    assert all(p.grad is not None for p in second.parameters())


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("theirs", ["sdpa", "eager"])
def test_our_attention_is_transformers_own(theirs, registers):
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="starts at random"):
        backbone = DinoV2Backbone(config_for(registers=registers)).eval()
    image = torch.randn(2, 3, CROP, CROP)
    called = []
    hook = backbone.model.encoder.layer[0].attention.register_forward_hook(lambda *_: called.append(True))
    with torch.no_grad():
        for parameter in backbone.parameters():  # scores that tell tokens apart
            if parameter.dim() == 2:
                parameter.mul_(3)
        assert backbone.model.config._attn_implementation == "amt"
        ours = backbone(image).tokens
        backbone.model.set_attn_implementation(theirs)
        assert backbone.model.config._attn_implementation == theirs
        torch.testing.assert_close(ours, backbone(image).tokens, atol=1e-4, rtol=1e-4)
    hook.remove()
    assert len(called) == 2
