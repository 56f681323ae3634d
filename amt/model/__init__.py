"""The network: one image with its camera in, hand, object and contact in metric camera space out.

``AMT(ModelConfig(size="tiny"))(inputs)`` returns a :class:`Prediction`. ``amt.py`` is the whole data flow in one file.
"""

from amt.model.amt import AMT
from amt.model.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from amt.model.config import BackboneConfig, ConfigError, ModelConfig
from amt.model.outputs import Prediction

__all__ = [
    "AMT",
    "BackboneConfig",
    "CheckpointError",
    "ConfigError",
    "ModelConfig",
    "Prediction",
    "load_checkpoint",
    "save_checkpoint",
]
