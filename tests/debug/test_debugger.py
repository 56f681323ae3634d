"""On a model with a planted fault the debugger names it; on a sound one it names none; and it changes nothing."""

from dataclasses import replace

import pytest
import torch
from fixed_loader import SMALL

from amt.debug import ModelDebugger
from amt.debug.diversity import judge_diversity
from amt.debug.gradients import default_loss
from amt.debug.page import page
from amt.model import AMT, ModelConfig

NAN = float("nan")
STEPS = 60


@pytest.fixture(scope="module")
def batch(make_batch):
    return make_batch(16, crop=32, points=32, left=True)


@pytest.fixture(scope="module")
def weights(batch):
    """Of a small model that has learned its sixteen images."""
    torch.manual_seed(0)
    model = AMT(ModelConfig(**SMALL))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        default_loss(model(batch.inputs), batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def sound(weights):
    model = AMT(ModelConfig(**SMALL))
    model.load_state_dict(weights)
    return model.eval()


@pytest.fixture
def loader(batch):
    return [batch[:8], batch[8:]]


def everything(model):
    """State, gradients, modes, hooks and random numbers."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [None if p.grad is None else (id(p.grad), p.grad.clone()) for p in model.parameters()],
        [module.training for module in model.modules()],
        [len(getattr(module, name)) for module in model.modules() for name in hooks],
        torch.get_rng_state(),
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return a == b


@pytest.mark.parametrize("training", [False, True])
def test_no_look_changes_anything(sound, batch, loader, training):
    sound.train(training)
    sound.backbone.eval()  # modes differ from module to module
    default_loss(sound(batch.inputs), batch).backward()
    outputs = None if training else sound(batch.inputs)
    before, debugger = everything(sound), ModelDebugger(sound)
    debugger.analyze_model(batch)
    assert same(everything(sound), before)
    debugger.debug_prediction_diversity(loader)
    assert same(everything(sound), before)
    debugger.find_nonfinite(batch)
    assert same(everything(sound), before)
    broken = replace(batch, inputs=replace(batch.inputs, image=torch.full_like(batch.inputs.image.float(), NAN)))
    debugger.find_nonfinite(broken)
    assert same(everything(sound), before)
    if outputs is not None:
        after = dict(sound(batch.inputs).named_tensors())
        assert all(torch.equal(value, after[name]) for name, value in outputs.named_tensors())


def test_what_raises_inside_leaves_no_hook(sound, batch):
    def fails(*_):
        raise RuntimeError("a loss that fails")

    before, debugger = everything(sound), ModelDebugger(sound, loss=fails)
    for look in (debugger.analyze_model, debugger.find_nonfinite):
        with pytest.raises(RuntimeError, match="a loss that fails"):
            look(batch)
        assert same(everything(sound), before)


def test_a_sound_model_has_no_fault(sound, batch, loader):
    debugger = ModelDebugger(sound)
    report = debugger.analyze_model(batch)
    assert report.faults == ()
    assert str(report).startswith("no fault was found")
    units = {a.name: a.units for a in report.activations}
    assert units["normalize"] == 3  # colours, not columns
    assert report.entropy
    assert all(value > 0 for value in report.entropy.values())
    assert debugger.find_nonfinite(batch) is None
    diversity = debugger.debug_prediction_diversity(loader)
    assert diversity.faults == ()
    assert diversity.error_mm < diversity.constant_error_mm
    assert "predictions differ as the pictures do" in diversity.verdict


def test_a_fresh_model_has_no_fault_but_that_it_knows_nothing(batch):
    torch.manual_seed(1)
    assert ModelDebugger(AMT(ModelConfig(**SMALL))).analyze_model(batch).faults == ()


def test_a_collapsed_model_is_named(sound, loader):
    with torch.no_grad():
        for p in sound.keypoints.parameters():
            p.zero_()
        for p in [*sound.coarse_decoder.parameters(), *sound.hand_decoder.parameters(), *sound.refinement.parameters()]:
            p.mul_(1e-3)
    verdict = ModelDebugger(sound).debug_prediction_diversity(loader).verdict
    assert "blind" in verdict or "collapsed" in verdict


def test_the_diversity_tests_on_made_up_answers():
    torch.manual_seed(0)
    true = torch.randn(64, 21, 3) * 0.03
    mean = true.mean(dim=0).expand_as(true)
    good = true + torch.randn_like(true) * 0.005
    assert judge_diversity(good, true, good.roll(1, 0)).faults == ()
    (collapsed, blind) = judge_diversity(mean + 1e-4 * torch.randn_like(true), true, mean).faults
    assert collapsed.startswith("collapsed: predictions vary 0.00")
    assert blind.startswith("blind: ")
    (fault,) = judge_diversity(good, true, good).faults  # another picture changes nothing: the box alone decides
    assert fault.startswith("blind: ")
    (fault,) = judge_diversity(good.roll(7, 0), true, good).faults
    assert fault.startswith("unrelated: ")
    (fault,) = judge_diversity(torch.full_like(good, NAN), true, good).faults
    assert fault.startswith("predictions are not finite")
    exact = judge_diversity(true, true, true.roll(1, 0))
    assert exact.mean_spread == pytest.approx(1)
    assert exact.rank == 0
    assert exact.neighbour == pytest.approx(1)
    assert exact.image == pytest.approx(1, abs=0.1)
    assert judge_diversity(mean, true, mean).rank == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match="at least 8 labelled hands, got 3"):
        judge_diversity(true[:3], true[:3], true[:3])


def test_dead_units_are_named(sound, batch):
    mlp = sound.fusion.blocks[0].mlp
    with torch.no_grad():
        mlp.fc1.bias[: len(mlp.fc1.bias) * 3 // 4] = -1e3  # GELU gives 0 for every image
    (fault,) = ModelDebugger(sound).analyze_model(batch).faults
    units = len(mlp.fc1.bias)
    assert fault == f"dead units: fusion.blocks.0.mlp (hidden) ({units * 3 // 4} of {units})"


def test_exploding_gradients_are_named(sound, batch):
    hook = sound.neck.register_forward_hook(
        lambda module, inputs, maps: type(maps)(*(m * 1.0 for m in maps)) if not _amplify(maps) else maps
    )
    report = ModelDebugger(sound).analyze_model(batch)
    hook.remove()
    (fault,) = report.faults
    assert fault.startswith("gradients explode: ")
    assert "neck." in fault or "backbone." in fault
    assert "fusion" not in fault
    assert report.gradient_picture().startswith(b"\x89PNG")


def _amplify(maps):
    for m in maps:
        m.register_hook(lambda grad: grad * 1e6)
    return True


def sharpen(attention):
    """Each query looks at one token."""
    with torch.no_grad():
        attention.q.weight.mul_(300)
        attention.k.weight.mul_(300)


def test_collapsed_attention_is_named(sound, batch):
    sharpen(sound.fusion.blocks[0].attention)
    faults = ModelDebugger(sound).analyze_model(batch).faults
    assert any("attention has collapsed to one token a query: fusion.blocks.0" in fault for fault in faults)


def test_nan_in_the_batch_is_named_with_its_sample(sound, batch):
    image = batch.inputs.image.float()
    image[5, 0, 3, 3] = NAN
    found = ModelDebugger(sound).find_nonfinite(replace(batch, inputs=replace(batch.inputs, image=image)))
    assert found.batch == ("the batch's inputs.image",)
    assert found.module == "normalize"
    assert found.op is None
    assert found.samples == (5,)
    assert str(found) == "not finite: the batch's inputs.image; the first module is normalize; samples 5"


def test_the_first_module_and_op_are_named(sound, batch):
    mlp = sound.fusion.blocks[0].mlp
    with torch.no_grad():
        mlp.fc1.weight.fill_(1e30)
        mlp.fc2.weight.fill_(1e30)
    found = ModelDebugger(sound).find_nonfinite(batch)
    assert (found.batch, found.module, found.op) == ((), "fusion.blocks.0.mlp.fc2", "aten.addmm.default")
    assert "activations are not finite, first in fusion.blocks.0.mlp.fc2" in " ".join(
        ModelDebugger(sound).analyze_model(batch).faults
    )


def test_an_op_outside_of_any_layer_is_named_by_the_module_around_it(sound, batch, monkeypatch):
    right = type(sound.fusion).forward

    def divided(self, tokens):
        return right(self, tokens._replace(hand=tokens.hand / (tokens.hand * 0 + 0.0)))

    monkeypatch.setattr(type(sound.fusion), "forward", divided)
    found = ModelDebugger(sound).find_nonfinite(batch)
    assert (found.module, found.op) == ("fusion", "aten.div.Tensor")


def test_a_backward_pass_that_overflows_is_named(sound, batch):
    hook = sound.neck.low.register_forward_hook(
        lambda module, inputs, y: y.register_hook(lambda grad: grad * 1e39) and None
    )
    found = ModelDebugger(sound).find_nonfinite(batch)
    hook.remove()
    assert (found.module, found.backward) == (None, "neck.low")


@pytest.mark.parametrize("name", ["weight", "running_var"])
def test_a_weight_that_is_not_finite_is_named(sound, batch, name):
    norm = next(m for m in sound.modules() if isinstance(m, torch.nn.BatchNorm2d))
    where = next(key for key, m in sound.named_modules() if m is norm)
    with torch.no_grad():
        getattr(norm, name)[0] = NAN
    found = ModelDebugger(sound).find_nonfinite(batch)
    assert (found.module, found.own) == (where, (name,))
    assert str(found).startswith(f"not finite: the first module is {where}, whose {name} is not finite; samples ")
    assert "nan" not in str(ModelDebugger(sound).analyze_model(batch)).splitlines()[-2]


def test_a_label_that_is_not_finite_is_no_sound_model(sound, batch):
    joints = batch.targets.joints.clone()
    joints[1, 3, 0] = float("inf")
    broken = replace(batch, targets=replace(batch.targets, joints=joints))
    (fault,) = ModelDebugger(sound).analyze_model(broken).faults
    assert fault == "the loss is not finite (inf): find_nonfinite(batch) names where that comes from"


def test_a_frozen_model_is_looked_at_without_gradients(sound, batch):
    sound.requires_grad_(False)
    debugger = ModelDebugger(sound)
    report = debugger.analyze_model(batch)
    assert (report.faults, report.gradients) == ((), ())
    assert report.gradient_picture().startswith(b"\x89PNG")
    assert debugger.find_nonfinite(batch) is None


def test_a_single_image_is_refused(sound, batch):
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        ModelDebugger(sound).analyze_model(batch[:1])


def test_the_page_holds_all_and_needs_no_other_file(sound, batch, loader):
    debugger = ModelDebugger(sound)
    html = page("a <model>", debugger.analyze_model(batch), debugger.debug_prediction_diversity(loader), None)
    assert "a &lt;model&gt;" in html
    assert html.count("data:image/png;base64,") == 3
    assert "no fault was found" in html
    assert "http" not in html.replace("http-equiv", "")
    image = torch.full_like(batch.inputs.image.float(), NAN)
    broken = replace(batch, inputs=replace(batch.inputs, image=image))
    html = page("broken", debugger.analyze_model(broken), None, debugger.find_nonfinite(broken))
    assert 'class="fault">not finite: the batch&#x27;s inputs.image' in html


def test_few_queries_may_choose_a_token_each(sound, batch):
    """Three queries of the coarse decoder, not a layer of tokens."""
    sharpen(sound.coarse_decoder.blocks[0].attention)
    report = ModelDebugger(sound).analyze_model(batch)
    assert report.entropy["coarse_decoder.blocks.0"] < 0.02
    assert not any("attention has collapsed" in fault for fault in report.faults)
