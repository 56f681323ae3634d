"""The locator's network: what its maps mean, which hands it names, and its place in a checkpoint."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from amt.data.letterbox import GREY, boxes_in_picture, letterbox
from amt.model import AMT, ModelConfig, save_checkpoint
from amt.model.checkpoint import CheckpointError, add_locator, load_locator
from amt.model.loading import load_checkpoint
from amt.model.locator import STRIDE, Locator, LocatorConfig, LocatorMaps

SMALL = LocatorConfig(width=64, height=32, channels=(8, 8, 8), threshold=0.4)


def maps_of(*hands, height=18, width=24):
    """Maps in which hands (cell x, cell y, logit, logit of right, box px) stand; nothing is likely elsewhere."""
    objectness, side = torch.full((1, height, width), -9.0), torch.zeros(1, height, width)
    offset, size = torch.zeros(1, 2, height, width), torch.zeros(1, 2, height, width)
    for x, y, logit, right, (left, top, far, bottom) in hands:
        objectness[0, y, x], side[0, y, x] = logit, right
        middle = torch.tensor((left + far + 1, top + bottom + 1)) / 2 / STRIDE
        offset[0, :, y, x] = middle - torch.tensor((x + 0.5, y + 0.5))
        size[0, :, y, x] = torch.tensor(((far - left) / STRIDE, (bottom - top) / STRIDE)).log()
    return LocatorMaps(objectness, side, offset, size, objectness)


def found(maps, threshold=0.5):
    locator = Locator(LocatorConfig())
    locator.forward = lambda images: maps
    return locator.find(torch.zeros(1, 3, 144, 192), threshold)[0]


def test_a_hand_is_where_its_cell_says():
    (hand,) = found(maps_of((3, 5, 2.0, -3.0, (10.0, 30.0, 50.0, 55.0))))
    np.testing.assert_allclose(hand.box, (10, 30, 50, 55), atol=1e-3)
    assert hand.score == pytest.approx(torch.tensor(2.0).sigmoid().item())
    assert hand.right == pytest.approx(torch.tensor(-3.0).sigmoid().item())


def test_several_hands_come_surest_first_and_the_unlikely_not_at_all():
    boxes = [(10.0, 30.0, 50.0, 55.0), (150.0, 30.0, 190.0, 70.0), (150.0, 100.0, 190.0, 140.0)]
    hands = found(maps_of((3, 5, 1.0, 3, boxes[0]), (21, 6, 3.0, -3, boxes[1]), (21, 15, -1.0, 3, boxes[2])))
    np.testing.assert_allclose([hand.box for hand in hands], [boxes[1], boxes[0]], atol=1e-3)


def test_two_cells_that_mean_one_hand_are_one_hand():
    box, nearly = (40.0, 40.0, 90.0, 90.0), (42.0, 44.0, 90.0, 92.0)
    hands = found(maps_of((7, 7, 2.0, 3, box), (9, 9, 1.0, 3, nearly)))
    np.testing.assert_allclose([hand.box for hand in hands], [box], atol=1e-3)


def test_no_hand_is_an_answer():
    assert found(maps_of()) == []


def test_an_untrained_locator_finds_nothing():
    """Its bias begins at "hardly anywhere"."""
    pictures = torch.randint(0, 256, (2, 3, 144, 192), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    assert Locator().eval().find(pictures) == [[], []]


def test_a_letterbox_keeps_the_shape_and_its_boxes_lead_back():
    image = np.zeros((480, 640, 3), np.uint8)
    image[240:288, 320:400] = 255
    small, scale = letterbox(image, 256, 192)
    assert (small.shape, scale) == ((192, 256, 3), 0.4)
    y, x = np.nonzero(small[..., 0] > 127)
    edges = np.array([x.min() - 0.5, y.min() - 0.5, x.max() + 0.5, y.max() + 0.5])
    np.testing.assert_allclose(boxes_in_picture(edges, scale)[0], (319.5, 239.5, 399.5, 287.5), atol=2)


def test_a_letterbox_of_another_shape_is_grey_beside_the_picture():
    small, scale = letterbox(np.full((640, 320, 3), 7, np.uint8), 256, 192)
    assert scale == pytest.approx(0.3)
    assert (small[:, :96] == 7).all()
    assert (small[:, 97:] == GREY).all()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"width": 100}, "multiple of 16"),
        ({"channels": (8, 8)}, "three multiples of 8"),
        ({"threshold": 1.0}, "between 0 and 1"),
    ],
)
def test_a_configuration_that_cannot_be_is_named(values, words):
    with pytest.raises(ValueError, match=words):
        LocatorConfig(**values)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return AMT(ModelConfig(decoder_depth=1, fusion_depth=1, backbone={"depth": 1}))


@pytest.fixture
def locator():
    torch.manual_seed(1)
    locator = Locator(SMALL).eval()
    for buffer in locator.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return locator


def test_a_checkpoint_holds_the_locator_beside_the_model(tmp_path, model, locator):
    folder = save_checkpoint(tmp_path / "checkpoint", model, None, None, None, locator, locator={"ap50": 0.9}, steps=3)
    record = json.loads((folder / "config.json").read_text())
    assert record["locator"] == {
        "ap50": 0.9,
        "width": 64,
        "height": 32,
        "channels": [8, 8, 8],
        "threshold": 0.4,
        "verifier": [],
    }
    again = load_locator(folder)
    assert again.config == SMALL
    pictures = torch.randint(0, 256, (2, 3, 32, 64), dtype=torch.uint8)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(again(pictures), locator(pictures)))
    loaded, _ = load_checkpoint(folder)
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values()))


def test_a_checkpoint_of_old_has_none_until_one_is_added(tmp_path, model, locator):
    folder = save_checkpoint(tmp_path / "checkpoint", model, None, {"metrics.json": "{}"}, steps=3)
    assert load_locator(folder) is None
    add_locator(folder, locator, {"recall": 0.8})
    add_locator(folder, locator, {"recall": 0.9})
    record = json.loads((folder / "config.json").read_text())
    assert (record["steps"], record["locator"]["recall"], (folder / "metrics.json").read_text()) == (3, 0.9, "{}")
    assert load_locator(folder).config == SMALL
    load_checkpoint(folder)


def test_the_hub_keeps_the_locator(tmp_path, model, locator):
    folder = save_checkpoint(tmp_path / "checkpoint", model, None, None, None, locator)
    AMT.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert load_locator(tmp_path / "again").config == SMALL


def test_a_run_that_begins_with_a_checkpoint_leaves_its_locator(tmp_path, model, locator):
    from amt.model.transfer import begin_from

    folder = save_checkpoint(tmp_path / "checkpoint", model, None, None, None, locator)
    again = begin_from(model.config, folder)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values()))


@pytest.mark.parametrize("damage", ["shape", "config", "nan"])
def test_a_broken_locator_is_one_line_that_names_the_remedy(tmp_path, model, locator, damage):
    folder = save_checkpoint(tmp_path / "checkpoint", model, None, None, None, locator)
    record, state = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    if damage == "config":
        record["locator"]["channels"] = "many"
    elif damage == "shape":
        state["locator.head.bias"] = torch.zeros(2)
    else:
        state["locator.head.bias"][0] = float("nan")
    (folder / "config.json").write_text(json.dumps(record))
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"locator.*python -m amt\.train\.locator") as error:
        load_locator(folder)
    assert "\n" not in str(error.value)
