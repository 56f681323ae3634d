"""Inference: ``load(folder)`` gives a predictor, ``python -m amt.infer`` draws and exports what it sees."""

from amt.infer.inputs import InputError
from amt.infer.predictor import Predictor, Request, load
from amt.infer.result import HandObject, Result, errors

__all__ = ["HandObject", "InputError", "Predictor", "Request", "Result", "errors", "load"]
