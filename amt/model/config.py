"""What can be chosen about the model. A field left at ``None`` takes the value of the chosen size."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from amt.errors import UserError
from amt.hand.skeleton import SHIPPED_HAND

HEAD_DIM = 64  # what the attention kernels take
AUTO = "auto"  # a setting that is found when a program starts
PRECISIONS = ("float32", "bf16", "fp8", "te", "torchao")  # of training and inference
# how a block is computed: amt.kernels.block.choice
BLOCKS = ("auto", "stock", "fused", "fused_gelu", "fused_tanh", "fused_cutlass")
DINOV2_PATCH = 14
HYBRID_PATCH = 16
MAX_REFINE_STEPS = 62  # what the op refine takes
DINOV2_NAMES = {
    "dinov2-small": "facebook/dinov2-with-registers-small",
    "dinov2-base": "facebook/dinov2-with-registers-base",
    "dinov2-large": "facebook/dinov2-with-registers-large",
}

SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(
        hidden=192, crop_size=112, map_size=28, map_channels=64, decoder_depth=2, fusion_depth=1, mlp_ratio=2,
        point_hidden=32, point_features=64, refine_hidden=64, backbone="hybrid", backbone_depth=1,
    ),
    "small": dict(
        hidden=384, crop_size=224, map_size=28, map_channels=128, decoder_depth=3, fusion_depth=4, mlp_ratio=4,
        point_hidden=64, point_features=128, refine_hidden=128, backbone="dinov2-small", backbone_depth=12,
    ),
    "base": dict(
        hidden=768, crop_size=224, map_size=56, map_channels=192, decoder_depth=4, fusion_depth=4, mlp_ratio=4,
        point_hidden=64, point_features=256, refine_hidden=256, backbone="dinov2-base", backbone_depth=12,
    ),
    "large": dict(
        hidden=1024, crop_size=224, map_size=56, map_channels=256, decoder_depth=6, fusion_depth=6, mlp_ratio=4,
        point_hidden=64, point_features=256, refine_hidden=256, backbone="dinov2-large", backbone_depth=24,
    ),
}  # fmt: skip


RESIDUALS, EARLIER_RESIDUALS = (0, 1, 2, 1), (0, 0, 1, 1)
EARLIER = {
    "visibility": False,
    "pose_search": False,
    "corners": True,
    "outline": False,
    "hand_frames": True,
    "contact_tokens": True,
    "refine_steps": 3,
}  # defaults of earlier versions
_MAY_BE_ZERO = ("fusion_depth", "refine_steps", "frozen_layers", "registers")


class ConfigError(UserError, ValueError):
    """A configuration value that cannot be; the message names the key and the remedy."""


@dataclass
class BackboneConfig:
    """Which network reads the pixels."""

    name: str | None = (
        None  # "hybrid" (convolutions, then a transformer), "dinov2-small", "dinov2-base", "dinov2-large"
    )
    depth: int | None = None  # transformer blocks
    residuals: list[int] = field(default_factory=lambda: list(RESIDUALS))  # hybrid: convolutions of its 4 stages
    # DINOv2 only: "none", "auto" (the published ones with registers), a name on the Hugging Face Hub such as
    # "facebook/dinov2-small", or a folder made by save_pretrained of a DINOv2 model with registers or without
    weights: str = "none"
    registers: int = 4  # DINOv2 only: register tokens; taken from the weights where some are loaded
    require_pretrained: bool = False  # an error instead of a warning where weights cannot be loaded
    frozen_layers: int = 0  # DINOv2 only: the embeddings and this many first blocks are not trained


@dataclass
class ModelConfig:
    """The model. Sizes without a unit are channels or counts."""

    size: str = "tiny"
    hand: str = SHIPPED_HAND  # AMT's own, or the path of MANO_RIGHT.pkl
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    crop_size: int | None = None  # px, side of the crop that the model reads
    hidden: int | None = None
    map_size: int | None = None  # cells along a side of the finer of the two maps that the refinement samples
    map_channels: int | None = None
    decoder_depth: int | None = None
    fusion_depth: int | None = None
    mlp_ratio: int | None = None
    point_hidden: int | None = None
    point_features: int | None = None
    drop_path: float = 0.0  # training only: share of samples that skip a branch of the last block; less in earlier ones
    feature_noise: float = (
        0.0  # training only: deviation of the noise on the backbone's maps and tokens, over their own
    )
    latent: int = 128
    sigma: bool = True  # sample the hand's and the object's latent in training; False: always the mean
    pose_search: bool = True  # the object's pose by comparing its points' colours with the image
    outline: bool = True  # with pose_search: how far the object reaches in eight directions, which places it
    corners: bool = False  # of the object's box among the keypoints; they learn its centre alone (docs/log.md)
    # Three parts that gained nothing where it was measured (docs/log.md, 27 November), and are off for that:
    # hand_frames=false: the 22 places keep their positions but all take the view's axes, wherever a frame is used; a hand token
    # is a linear map of its place
    hand_frames: bool = False  # the hand's local frames with a PointNet over the mesh in each
    contact_tokens: bool = False  # the object's points in the frames of the hand, a token each
    refine_steps: int = 0  # of the joints by the maps where they are seen; 0: the decoded joints are the answer
    visibility: bool = True  # a logit a joint: is it seen
    joint_scale: bool = False  # a scale a joint: how far the answer may be off; train.loss.variance trains it
    refine_hidden: int | None = None
    refine_shared: bool = False  # one offset MLP for all steps
    refine_step_size_m: float = 0.1  # metres per unit of the first step's output

    def __post_init__(self):
        if self.size not in SIZES:
            raise ConfigError(f"model.size must be one of {', '.join(SIZES)}; got {self.size!r}")
        if isinstance(self.backbone, dict):
            self.backbone = BackboneConfig(**_known(BackboneConfig, self.backbone, "model.backbone"))
        if not isinstance(self.backbone, BackboneConfig):
            raise ConfigError(f"model.backbone must be a section; got {self.backbone!r}")
        if self.hand == "stand-in":
            raise ConfigError(
                "model.hand=stand-in: the procedural hand of earlier versions is gone, and its models with it; train anew "
                f"with model.hand={SHIPPED_HAND}"
            )
        preset = SIZES[self.size]
        for name in (f.name for f in fields(self) if f.name in preset and f.name != "backbone"):
            if getattr(self, name) is None:
                setattr(self, name, preset[name])
        if self.backbone.name is None:
            self.backbone.name = preset["backbone"]
        if self.backbone.depth is None:
            self.backbone.depth = preset["backbone_depth"]
        self._check()

    def _check(self):
        counts = self.backbone.residuals
        whole = isinstance(counts, (list, tuple)) and all(isinstance(n, int) and n >= 0 for n in counts)
        if not whole or len(counts) != len(RESIDUALS):
            raise ConfigError(
                f"model.backbone.residuals must be {len(RESIDUALS)} whole numbers, at least 0, such as {list(RESIDUALS)}; "
                f"got {counts}"
            )
        if self.backbone.name != "hybrid" and self.backbone.name not in DINOV2_NAMES:
            choices = ", ".join(["hybrid", *DINOV2_NAMES])
            raise ConfigError(f"model.backbone.name must be one of {choices}; got {self.backbone.name!r}")
        for owner, where in ((self, "model"), (self.backbone, "model.backbone")):
            for f in fields(owner):
                value = getattr(owner, f.name)
                if f.type == "bool" and not isinstance(value, bool):
                    raise ConfigError(f"{where}.{f.name} must be true or false; got {value!r}")
                if f.type in ("int", "int | None"):
                    _check_count(f"{where}.{f.name}", value, least=0 if f.name in _MAY_BE_ZERO else 1)
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"model.drop_path must be at least 0 and below 1; got {self.drop_path}")
        if not 0 <= self.feature_noise < float("inf"):
            raise ConfigError(f"model.feature_noise must be finite and not negative; got {self.feature_noise}")
        if not 0 < self.refine_step_size_m < float("inf"):
            raise ConfigError(f"model.refine_step_size_m must be above 0 and finite; got {self.refine_step_size_m}")
        if self.refine_steps > MAX_REFINE_STEPS:
            raise ConfigError(f"model.refine_steps must be at most {MAX_REFINE_STEPS}; got {self.refine_steps}")
        if not 0 <= self.backbone.frozen_layers <= self.backbone.depth:
            raise ConfigError(
                f"model.backbone.frozen_layers must be 0 to {self.backbone.depth}; got {self.backbone.frozen_layers}"
            )
        if self.hidden % HEAD_DIM:
            raise ConfigError(f"model.hidden must be a multiple of {HEAD_DIM}; got {self.hidden}")
        patch = HYBRID_PATCH if self.backbone.name == "hybrid" else DINOV2_PATCH
        if self.crop_size % patch:
            raise ConfigError(
                f"model.crop_size must be a multiple of {patch} for the backbone {self.backbone.name}; "
                f"got {self.crop_size}, take {self.crop_size // patch * patch or patch}"
            )
        if self.map_size % 2:
            raise ConfigError(f"model.map_size must be even; got {self.map_size}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they go into config.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of :meth:`as_dict`. Raises ConfigError for an unknown key.

        A key that is not there has the value that it had before it was a key, or before its default changed.
        """
        values = {**EARLIER, "backbone": {}, **values}
        if isinstance(values["backbone"], dict):
            values["backbone"] = {"residuals": list(EARLIER_RESIDUALS), **values["backbone"]}
        return cls(**_known(cls, values, "model"))


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} must be a whole number; got {value!r}")
    if value < least:
        raise ConfigError(f"{name} must be at least {least}; got {value}")


def _known(cls, values: dict[str, Any], where: str) -> dict[str, Any]:
    unknown = sorted(set(values) - {f.name for f in fields(cls)})
    if unknown:
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}; known are {', '.join(f.name for f in fields(cls))}")
    return values
