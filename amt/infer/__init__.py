"""Inference: ``load(folder)`` gives a predictor, ``python -m amt.infer`` draws and exports what it sees."""

from amt.infer.inputs import InputError
from amt.infer.predictor import Predictor, Request, load
from amt.infer.result import Result, Scene, errors

__all__ = ["InputError", "Predictor", "Request", "Result", "Scene", "errors", "load"]
