"""The page of an evaluation: whole in one file, safe with any name, and true to the figures."""

import base64
import dataclasses
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_samples import SMALL, SYMMETRIES, reader_with_pictures, with_visibility

from amt.evaluate.__main__ import main
from amt.evaluate.collect import collect
from amt.evaluate.report import charts, look, page
from amt.evaluate.report.looks import FACTORS, at, extremes
from amt.evaluate.score import score
from amt.hand.skeleton import JOINT_NAMES
from amt.metrics import wrist_aligned_error_mm
from amt.model import AMT, ModelConfig, save_checkpoint
from amt.model.mean_pose import MeanPose

VOID = {"meta", "link", "img", "input", "br"}
HOSTILE = '</script><script>alert(1)</script>"><img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """What is in a page: balanced tags, texts, and everything that could be fetched."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.fetched, self.scripts, self.text = [], [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.fetched += [v for k, v in attributes if k in ("src", "href", "data", "action", "poster")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        self.text += data


@pytest.fixture(scope="module")
def evaluated(make_batch):
    torch.manual_seed(0)
    model = AMT(ModelConfig(**SMALL)).eval()
    batches = [with_visibility(make_batch(6, seed=1, left=True)), with_visibility(make_batch(6, seed=2))]
    samples, beliefs = collect(model, batches, MeanPose.of(batches), symmetries=SYMMETRIES)
    return model, batches, samples, beliefs


@pytest.fixture(scope="module")
def looked(evaluated):
    model, batches, samples, _ = evaluated
    return look(model, batches, samples, reader_with_pictures(), [HOSTILE] * len(samples))


def written(evaluated, looks, name="mug", checkpoint="demo/checkpoint"):
    _, _, samples, beliefs = evaluated
    names = [name] * len(samples)
    figures = {
        "checkpoint": checkpoint, "data": "synthetic", "split": "s1", "subset": "test", "protocol": "V", "box": "true",
        **score(samples, beliefs, {"object": names}),
    }  # fmt: skip
    return page(figures, samples, beliefs, looks), figures


def test_the_page_is_whole_and_fetches_nothing(evaluated, looked):
    text, figures = written(evaluated, looked)
    found = Page(text)
    assert all(source.startswith("data:") for source in found.fetched)
    policy = next(a["content"] for tag, a in found.tags if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"https?://", text)
    for title in (
        "Accuracy",
        "Calibration",
        "What every stage gains",
        "By joint",
        "where hidden, mm",
        "By object",
        "Best, median and worst",
        "In three dimensions",
    ):
        assert title in found.text
    assert f"{figures['absolute_mpjpe_mm']:.1f}" in found.text
    assert sum(tag == "img" for tag, _ in found.tags) == len(looked.pictures) == 9
    scenes = json.loads(found.scripts[0])
    assert len(scenes["scenes"]) == 9
    faces = np.frombuffer(base64.b64decode(scenes["faces"]), "<u2").reshape(-1, 3)
    points = np.frombuffer(base64.b64decode(scenes["scenes"][0]["truth"]), "<i2").reshape(-1, 3)
    assert faces.max() < len(points)
    assert 500 < np.ptp(points, axis=0).max() < 3000  # a hand is 5 to 30 cm long, in tenths of a millimetre


def test_names_cannot_become_code(evaluated, looked):
    text, _ = written(evaluated, looked, name=HOSTILE, checkpoint=HOSTILE)
    found = Page(text)
    assert len(found.scripts) == 2
    assert "alert(1)" not in found.scripts[1]
    assert not any("onerror" in a for _, a in found.tags)
    assert HOSTILE in found.text


def test_a_page_without_a_labelled_hand(evaluated):
    model, batches, samples, beliefs = evaluated
    nothing = dataclasses.replace(samples, hand_valid=torch.zeros_like(samples.hand_valid))
    looks = look(model, batches, nothing, reader_with_pictures(), ["mug"] * len(samples))
    assert (looks.pictures, looks.wrong_k) == ([], {})
    figures = {"checkpoint": "c", "data": "synthetic", "split": "s1", "subset": "test", "protocol": "V", "box": "true"}
    text = page(figures | score(nothing, beliefs), nothing, beliefs, looks)
    assert "Accuracy" not in Page(text).text


def test_a_single_hand_has_no_spread(evaluated):
    """0 would look like a model that has collapsed."""
    *_, samples, beliefs = evaluated
    one, two = (score(samples[places], beliefs) for places in ([0], [0, 1]))
    assert "spread_ratio" not in one
    assert "spread_ratio" not in one["baseline"]
    assert two["spread_ratio"] > 0


def test_best_median_and_worst(evaluated):
    _, batches, samples, _ = evaluated
    chosen = extremes(samples)
    error = samples.model.aligned_mm.mean(dim=1)
    order = error.argsort().tolist()
    assert [place for kind, place in chosen if kind == "best"] == order[:3]
    assert [place for kind, place in chosen if kind == "worst"] == order[::-1][:3]
    assert [place for kind, place in chosen if kind == "median"] == order[5:8]
    assert len(extremes(samples[[0, 1]])) == 2
    for place, one in zip((7, 2), at(batches, [7, 2])):
        torch.testing.assert_close(one.targets.joints[0], samples.true_joints[place])


def test_a_wrong_k_is_tried_on_the_same_samples(evaluated, looked):
    model, batches, samples, _ = evaluated
    right = FACTORS.index(1.0)
    assert looked.wrong_k["wrist-aligned"][right] == pytest.approx(float(samples.model.aligned_mm.mean()), rel=1e-4)
    assert looked.wrong_k["absolute"][right] == pytest.approx(float(samples.model.absolute_mm.mean()), rel=1e-4)
    longer = batches[0].inputs
    k = longer.intrinsics * torch.tensor([[1.1, 1.1, 1], [1.1, 1.1, 1], [1, 1, 1]])
    with torch.no_grad():
        joints = model(dataclasses.replace(longer, intrinsics=k, frame_intrinsics=longer.frame_intrinsics)).joints
    assert float(wrist_aligned_error_mm(joints, batches[0].targets.joints).mean()) != pytest.approx(
        float(samples.model.aligned_mm[:6].mean())
    )  # K matters to the model
    assert len(set(looked.wrong_k["absolute"])) == len(FACTORS)


def test_charts_show_their_values():
    chart = charts.bars(["a<b", "c"], [2.0, 4.0], "mm", [3, 5])
    found = Page(chart)
    bars = [a for tag, a in found.tags if tag == "rect"]
    assert float(bars[1]["height"]) == pytest.approx(2 * float(bars[0]["height"]), abs=0.2)
    assert "a<b: 2.00, 3 samples" in found.text
    curve = Page(charts.lines([("x", [0, 1, 2], [0, 1, 0])], "a", "b", (0, 1)))
    points = next(a["points"] for tag, a in curve.tags if tag == "polyline").split()
    xs, ys = zip(*(map(float, point.split(",")) for point in points))
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    assert ys[0] == ys[2] > ys[1]  # up is less
    hand = Page(charts.hand([(i % 5, i // 5) for i in range(21)], list(range(21)), "mm"))
    radii = [float(a["r"]) for tag, a in hand.tags if tag == "circle"]
    assert radii == sorted(radii)
    assert len(radii) == len(JOINT_NAMES)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 50, [0, 10, 20, 30, 40, 50]),
        (-10, 10, [-10, -5, 0, 5, 10]),
        (0.07, 0.93, [0.2, 0.4, 0.6, 0.8]),
        (0, 34.9, [0, 10, 20, 30]),
        (0, 0.0031, [0, 0.001, 0.002, 0.003]),
    ],
)
def test_axes_have_round_numbers(low, high, expected):
    assert charts.ticks(low, high) == expected


def test_calibrated_beliefs_lie_on_the_dashed_line():
    levels = [0.1, 0.5, 0.9]
    found = Page(charts.lines([("x", levels, levels)], "said", "true", diagonal=True))
    (line,) = [a for tag, a in found.tags if tag == "line" and a["class"] == "dash"]
    x1, y1, x2, y2 = (float(line[name]) for name in ("x1", "y1", "x2", "y2"))
    for circle in (a for tag, a in found.tags if tag == "circle"):
        share = (float(circle["cx"]) - x1) / (x2 - x1)
        assert float(circle["cy"]) == pytest.approx(y1 + share * (y2 - y1), abs=0.1)


@pytest.mark.parametrize("box", ["truth", "located"])
def test_the_command_writes_the_page(evaluated, monkeypatch, tmp_path, box):
    model, batches, *_ = evaluated
    folder = save_checkpoint(tmp_path / "checkpoint", model, MeanPose.of(batches))
    monkeypatch.setattr("amt.evaluate.report.looks.FEW", 1)  # pictures take most of the time
    monkeypatch.setattr("amt.evaluate.run.make_loader", lambda *_, **__: batches)
    monkeypatch.setattr("amt.evaluate.run.open_reader", lambda *_: reader_with_pictures())
    squares = torch.cat([batch.inputs.box for batch in batches]).double().numpy()
    hands = [SimpleNamespace(box=square, side="right", odds=9.0) for square in squares]
    locator = SimpleNamespace(locate=lambda image: hands)
    monkeypatch.setattr("amt.evaluate.run.find_locator", lambda *_: locator)
    words = [str(folder), "evaluate.device=cpu", f"evaluate.box={box}"]
    assert main([*words, f"evaluate.report={tmp_path}/deep/page.html"]) == 0
    assert "In three dimensions" in (tmp_path / "deep" / "page.html").read_text()
    assert (
        main([str(folder), "evaluate.device=cpu", f"evaluate.output={tmp_path}/x/m.json", "evaluate.report=off"]) == 0
    )
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["m.json", "samples.csv"]
