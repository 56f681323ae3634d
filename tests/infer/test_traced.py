"""The traced network answers as the network does, for every size of batch, both sides and any object."""

from __future__ import annotations

import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from amt.infer.engine import Engine
from amt.infer.objects import HeldObject
from amt.infer.predictor import Predictor
from amt.infer.traced import MOST_KINDS, Tracer

K = np.array([[310.0, 0, 158.0], [0, 305.0, 121.0], [0, 0, 1]])
BOXES = [(120.0, 110, 100), (180.0, 120, 130)]


@pytest.fixture(scope="module")
def traced(predictor) -> Predictor:
    return Predictor(predictor.model, predictor.record, "cpu", max_spread=1, engine="trace")


def same(ours, theirs) -> None:
    for name in (
        "joints",
        "vertices",
        "pose",
        "betas",
        "translation",
        "hand_contact",
        "steps",
        "sigma_mm",
        "visibility",
    ):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-4, err_msg=name)
    np.testing.assert_allclose(ours.joints, theirs.joints, atol=1e-5)


def test_nothing_of_the_first_crops_is_frozen_in(predictor, traced, photo):
    """Traced with one crop, then asked about other pictures, boxes, sides, cameras and objects."""
    traced(photo, K, BOXES[0])
    assert isinstance(traced.engine._forward._traces[1, True], type(lambda: None))
    other = np.ascontiguousarray(photo[::-1, ::-1])
    for side in ("right", "left"):
        for held in (None, "006_mustard_bottle", (0.1, 0.05, 0.2)):
            for k in (K, K * (2, 2, 1)):
                arguments = (other, k, BOXES[1], side, held)
                same(traced(*arguments), predictor(*arguments))


def test_an_object_whose_look_is_known_has_a_trace_with_the_pose_search(predictor, photo, monkeypatch):
    assert predictor.model.pose_search is not None
    searched, search = [], predictor.model.pose_search.forward
    monkeypatch.setattr(predictor.model.pose_search, "forward", lambda *a: searched.append(1) or search(*a))
    own = Predictor(predictor.model, predictor.record, "cpu", max_spread=1, engine="trace")
    points = np.random.default_rng(0).normal(0, 0.03, (predictor.num_points, 3)).astype(np.float32)
    normals = points / np.linalg.norm(points, axis=1, keepdims=True)
    look = np.concatenate((normals, np.full((len(points), 4), 0.5)), 1).astype(np.float32)
    held = HeldObject(0, "made", points, look)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        own(photo, K, BOXES[0])
        assert not searched
        own(photo, K, BOXES[0], "right", held)
    assert searched
    assert set(own.engine._forward._traces) == {(1, True), (1, False)}
    arguments = (photo, K, BOXES[1], "left", held)
    same(own(*arguments), predictor(*arguments))


def test_each_size_of_batch_has_its_trace(predictor, traced, photo):
    for boxes in (BOXES, BOXES[:1], BOXES[::-1]):
        for ours, theirs in zip(traced(photo, K, boxes), predictor(photo, K, boxes)):
            same(ours, theirs)
    assert set(traced.engine._forward._traces) == {(1, True), (2, True)}


class Model:
    """A network whose answer is the mean of its pictures; counts its calls."""

    def __init__(self, wrong_when_traced: bool = False):
        self.calls, self.wrong = 0, wrong_when_traced

    def __call__(self, inputs):
        self.calls += 1
        image = inputs.image.float()
        return inputs.map(lambda tensor: tensor.float() + image.mean() + float(self.wrong and torch.jit.is_tracing()))


@pytest.fixture
def stand_in(monkeypatch):
    class Module(torch.nn.Module):
        def __init__(self, wrong=False):
            super().__init__()
            self.inner = Model(wrong)

        def forward(self, inputs):
            return self.inner(inputs)

    return Module


def test_tracing_begins_when_it_pays(stand_in, make_batch):
    tracer = Tracer(stand_in(), patience=3)
    with torch.inference_mode():
        for k in range(6):
            tracer(make_batch(2, seed=k).inputs)
            assert ((2, False) in tracer._traces) == (k >= 3)
    before = tracer.model.inner.calls
    with torch.inference_mode():
        tracer(make_batch(2).inputs)
    assert tracer.model.inner.calls == before


def test_there_are_few_traces_and_rare_sizes_have_none(stand_in, make_batch):
    """Each keeps the weights a second time."""
    eager, patient = Tracer(stand_in()), Tracer(stand_in(), patience=3)
    with torch.inference_mode():
        for size in range(1, 3 + MOST_KINDS):
            eager(make_batch(size).inputs)
        for k in range(60):
            patient(make_batch(1 if k % 6 == 5 else 2).inputs)
    assert len(eager._traces) == MOST_KINDS
    assert set(patient._traces) == {(2, False)}


def test_a_trace_that_answers_otherwise_is_not_used(stand_in, make_batch):
    tracer, inputs = Tracer(stand_in(wrong=True)), make_batch(1).inputs
    with torch.inference_mode():
        with pytest.warns(UserWarning, match="the trace of the network differs in image; it goes on without"):
            tracer(inputs)
        expected = tracer.model(inputs)
        assert torch.equal(tracer(inputs).image, expected.image)
    assert tracer._traces == {(1, False): None}


def test_a_network_that_cannot_be_traced_goes_on_without(make_batch):
    class Module(torch.nn.Module):
        def forward(self, inputs):
            return inputs.map(lambda tensor: tensor.float() + torch.jit.is_tracing())  # TorchScript adds no bool

    tracer, inputs = Tracer(Module()), make_batch(1).inputs
    with torch.inference_mode():
        with pytest.warns(UserWarning, match="the network cannot be traced .*; it goes on without"):
            tracer(inputs)
        assert torch.equal(tracer(inputs).box, inputs.box)


def test_threads_share_a_trace(predictor, photo):
    shared = Predictor(predictor.model, predictor.record, "cpu", max_spread=1, engine="trace")
    expected, found = predictor(photo, K, BOXES[0]).joints, []
    threads = [
        threading.Thread(target=lambda: [found.append(shared(photo, K, BOXES[0]).joints) for _ in range(4)])
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    for joints in found:
        np.testing.assert_allclose(joints, expected, atol=1e-5)
    assert len(shared.engine._forward._traces) == 1


def test_auto_traces_small_models_in_float32_on_a_cpu(predictor):
    cpu, large = torch.device("cpu"), SimpleNamespace(parameters=lambda: [torch.empty(30_000_000, device="meta")])
    assert isinstance(Engine(predictor.model, cpu, "auto")._forward, Tracer)
    assert Engine(predictor.model, cpu, "auto", bfloat16=True)._forward is predictor.model
    assert Engine(predictor.model, torch.device("cuda"), "auto")._forward is predictor.model
    assert Engine(large, cpu, "auto")._forward is large
