"""The configuration of a training run, and what makes it the same run when it continues. Imports no PyTorch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from amt.config import PATHS, START_FROM, KernelsConfig, Program, check_crop_size
from amt.data.config import DataConfig
from amt.hand.skeleton import SHIPPED_HAND
from amt.model.config import AUTO, BLOCKS, HYBRID_PATCH, PRECISIONS, ConfigError, ModelConfig
from amt.train.locator_config import LocatorTraining

MAY_DIFFER = {  # between a run and its continuation, because it does not change what is learned
    "train.output": "a folder may have been moved",
    "train.checkpoint": "where the result goes",
    "train.resume": "how a run continues",
    "train.device": "where it is computed: rounding differs",
    "train.threads": "how many threads compute it: rounding differs",
    "train.parallel": "how many processes compute it: rounding differs",
    "kernels.use": "what computes the ops: rounding differs",
    "train.save_every": "how often it is saved",
    "train.keep": "how many states stay",
    "train.bad_steps": "when a run gives up",
    "train.collapse_checks": "when a run gives up",
    "train.checkpointing": "what is computed again: gradients are the same",
    "train.compile": "what computes the blocks: rounding differs",
    "train.blocks": "what computes the blocks: rounding differs",
    "train.log_every": "how often it is written down",
    "train.logger": "where it is written down",
    "train.validate_every": "how often it is scored",
    "train.validate_images": "by which frames it is scored",
    "train.pictures_every": "how often it is drawn",
    "train.profile": "which steps are recorded",
    **{f"train.locator.{entry.name}": "a phase after the model's" for entry in fields(LocatorTraining)},
    "data.cache": "where crops lie",
    "data.most_broken": "when a run stops, not what it learns",
    "data.workers": "batches are the same for any number",
    "data.on_device": "where crops lie",
    "data.render_workers": "sets are the same for any number",
}


LOGGERS = ("auto", "none", "tensorboard", "wandb", "trackio")
SEEDS = 2**43  # a step's seed, a million times as large, still fits 64 bits
ROTATIONS = ("geodesic", "matrix")
CONTACT_FORMS = ("balanced", "focal")
LossSchedule = dict[str, list[list[float]]]  # weights over the steps by term: [[step, weight], ...]


@dataclass
class LossConfig:
    """The weight of each term, and how some are computed. A weight of 0 leaves a term out."""

    keypoints: float = (
        4.0  # joints, object's origin and box corners, if any, in the crop, and their depths from the wrist
    )
    keypoint_maps: float = 8.0  # cross-entropy of the maps with the four cells around each of them
    joints: float = 4.0  # wrist-relative: coarse, decoded and every refinement step
    vertices: float = 1.0  # wrist-relative: coarse and decoded
    pose: float = 1.0  # rotation matrices: coarse and decoded
    betas: float = 0.05
    projection: float = 2.0  # joints in the crop: coarse and every refinement step
    depth: float = 4.0  # relative error of the wrist's depth
    object_translation: float = 2.0  # from the wrist: coarse and final
    object_points: float = 1.0  # symmetric chamfer distance of the points under the two rotations
    object_rotation: float = 0.3  # the same points compared one by one: wrong for symmetric objects, so weak
    object_pose: float = 0.0  # geodesic distance of the pose from the wrist on SE(3); ADD-S for symmetric objects
    outline: float = 2.0  # Laplace's negative log-likelihood of how far the object reaches in the crop
    pose_search: float = 2.0  # cross-entropy of the scores of the object's poses with their nearness to the true one
    contact: float = 0.5  # cross-entropy and overlap (soft Dice) on hand vertices and object points
    diversity: float = 0.0  # how far the batch's joints spread less than its labels
    joint_limits: float = 0.0  # rad that joints are outside their anatomic range: coarse and decoded
    penetration: float = 0.0  # mean depth of the object's points inside the hand
    smoothness: float = 0.0  # acceleration of joints over three frames of a window, against the labels'
    visibility: float = 0.1  # cross-entropy of the joints' visibility, where it is labelled
    variance: float = (
        0.0  # Laplace's negative log-likelihood of each joint's error; model.joint_scale=true gives the scales
    )
    object_class: float = 0.1
    kl: float = 1e-3
    contact_form: str = "balanced"  # of contact's cross-entropy: balanced (rare positives weigh more) or focal
    adaptive: bool = False  # joints weigh by their running error, fingertips more; else all the same
    rotation: str = "geodesic"  # how poses are compared: geodesic (the angle between them) or matrix (entries)
    uncertainty: bool = False  # each term is divided by a learned variance (Kendall et al., 2018)

    def __post_init__(self):
        for name in TERMS:
            _check_weight(f"train.loss.{name}", getattr(self, name))
        for name, choices in (("rotation", ROTATIONS), ("contact_form", CONTACT_FORMS)):
            if getattr(self, name) not in choices:
                raise ConfigError(f"train.loss.{name} must be {' or '.join(choices)}; got {getattr(self, name)!r}")


TERMS = tuple(entry.name for entry in fields(LossConfig) if entry.type == "float")


def _check_weight(key: str, weight: Any) -> None:
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise ConfigError(f"{key} must be a number; got {weight!r}")
    if not 0 <= weight < float("inf"):
        what = "must not be negative" if weight < 0 else "must be finite"
        raise ConfigError(f"{key} {what}; got {weight}")


def _check_schedule(schedule: dict[str, Any]) -> None:
    """Raises ConfigError unless each entry is a list of [step, weight] with growing steps."""
    for name, points in schedule.items():
        key = f"train.loss_schedule.{name}"
        if name not in TERMS:
            raise ConfigError(f"{key}: no such term; there are {', '.join(TERMS)}")
        _check_points(key, points, "[step, weight], such as [[0,0],[1000,0.5]]")
        for _, weight in points:
            _check_weight(key, weight)


def _check_points(key: str, points: Any, form: str) -> None:
    if not (isinstance(points, list) and points and all(isinstance(p, list) and len(p) == 2 for p in points)):
        raise ConfigError(f"{key} must be a list of {form}; got {points!r}")
    steps = [step for step, _ in points]
    for step in steps:
        if not _is_count(step):
            raise ConfigError(f"{key}: a step must be a whole number, at least 0; got {step!r}")
    if sorted(set(steps)) != steps:
        raise ConfigError(f"{key}: steps must grow; got {', '.join(map(str, steps))}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def profiled_steps(text: str) -> tuple[int, int]:
    """The first step of ``train.profile`` and the one after the last. Raises ConfigError."""
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if not found or not int(found[1]) < int(found[2]):
        raise ConfigError(
            f"train.profile must be FIRST:END, the first step and one above it, such as 10:20; got {text!r}"
        )
    return int(found[1]), int(found[2])


@dataclass
class TrainConfig:
    """The optimisation."""

    output: str = "runs/train"  # folder of the logs, the resumable states and the loss curves
    checkpoint: str | None = None  # folder of the result; None: ``output``/checkpoint
    steps: int = 20_000  # of the optimizer
    minutes: float | None = None  # the run ends after this time at the latest; the learning rate decays to fit
    batch_size: int | str = 32  # images a step of the optimizer, of all GPUs together; auto: as many as fit, found once
    parallel: str = "none"  # ddp: each GPU holds the model; fsdp: its share of it; started by torchrun
    accumulate: int = 1  # micro-batches that a batch is divided into; batch norms see one at a time
    optimizer: str = "muon"  # muon for convolutions and new transformer blocks and AdamW for the rest; or adamw for all
    lr: float = 1e-3  # AdamW's peak
    muon_lr: float = 4e-3  # Muon's peak; the same schedule
    pretrained_lr: float = 1e-4  # AdamW's peak for the last block of a backbone with loaded weights
    layer_decay: float = 0.9  # each block of that backbone learns at this share of the rate of the block above it
    head_lr: float | None = None  # AdamW's peak for the heads; None: ``lr``
    schedule: str = "cosine"  # of all rates after the warm-up: cosine, or constant
    min_lr: float = 1e-6  # AdamW's at the last step
    warmup_steps: int = 100  # the learning rate rises from 0 over these
    finetune: str | None = None  # a checkpoint to begin with: a folder, or a name on the Hugging Face Hub
    freeze: list[Any] = field(
        default_factory=list
    )  # [[step, blocks], ...]: DINOv2's first blocks that stand still from there
    weight_decay: float = 0.02  # of weights that multiply features; never of biases, norms, embeddings
    clip_norm: float = 5.0  # largest norm of the whole gradient
    agc: float = 0.0  # adaptive clipping: largest norm of a unit's gradient over its weights', such as 0.01; 0: off
    centralize: bool = False  # take its mean from the gradient of every output unit
    ema: float = 0.999  # decay of the average of the weights, which is evaluated and exported; 0: off
    bad_steps: int = 20  # a run ends after so many steps in a row without a finite loss and gradient
    collapse_checks: int = (
        100  # or after so many looks (every ``log_every`` steps) at nearly constant predictions; 0: never
    )
    # auto: bf16 where the device computes in it, else float32; bf16: autocast; fp8: and the blocks' QKV and MLPs in FP8, te and
    # torchao: by these packages; coordinates stay float32
    precision: str = "float32"
    blocks: str = "auto"  # of a block: stock, fused, fused_gelu, fused_tanh, fused_cutlass; auto: by the card's table
    checkpointing: str = (
        "none"  # selective or full: transformer blocks compute activations again instead of keeping them
    )
    compile: bool = False  # each transformer block by torch.compile; needs a C++ compiler on a CPU
    seed: int = 0  # of weights, data order, augmentation and sampled latents
    threads: int = 0  # CPU threads; 0 leaves PyTorch's choice
    device: str = "auto"  # auto (CUDA where there is one), cpu, cuda or cuda:N
    save_every: int = 500  # steps between resumable states
    keep: int = 2  # newest resumable states that are not removed
    log_every: int = 10  # steps between lines of the log; only then the losses are read from the device
    logger: Any = "auto"  # auto (TensorBoard), none, tensorboard, wandb, trackio, or several: [tensorboard,wandb]
    validate_every: int = 500  # steps between validations on the set's val subset, whose best state stays; 0: never
    validate_images: int = 1024  # frames of it, spread evenly; 0: all
    pictures_every: int = 500  # steps between pictures of four frames of it; 0: never
    profile: str | None = None  # 10:20 records what steps 10 to 19 spend their time on
    resume: str = "same"  # only the same run continues in its folder; force: a run with another configuration, too
    locator: LocatorTraining = field(default_factory=LocatorTraining)
    loss: LossConfig = field(default_factory=LossConfig)
    # weights that change: {contact: [[0, 0.0], [1000, 0.5]]} is linear between these steps and constant outside
    loss_schedule: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.batch_size != AUTO and not (_is_count(self.batch_size) and self.batch_size):
            raise ConfigError(f"train.batch_size must be a whole number, at least 1, or auto; got {self.batch_size!r}")
        for name in ("steps", "accumulate", "bad_steps", "save_every", "keep", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"train.{name} must be at least 1; got {getattr(self, name)}")
        for name in ("lr", "muon_lr", "pretrained_lr", "head_lr", "clip_norm"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ConfigError(f"train.{name} must be above 0; got {getattr(self, name)}")
        for name in ("lr", "muon_lr", "pretrained_lr", "head_lr", "min_lr", "weight_decay", "agc"):
            if getattr(self, name) == float("inf"):
                raise ConfigError(f"train.{name} must be finite; got {getattr(self, name)}")
        if self.seed >= SEEDS:
            raise ConfigError(f"train.seed must be below {SEEDS}; got {self.seed}")
        for name in (
            "min_lr",
            "warmup_steps",
            "weight_decay",
            "agc",
            "collapse_checks",
            "threads",
            "seed",
            "validate_every",
            "validate_images",
            "pictures_every",
        ):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"train.{name} must not be negative; got {getattr(self, name)}")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"train.layer_decay must be above 0 and at most 1; got {self.layer_decay}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"train.ema must be at least 0 and below 1; got {self.ema}")
        if self.batch_size != AUTO and self.batch_size % self.accumulate:
            raise ConfigError(
                f"train.accumulate={self.accumulate} must divide train.batch_size={self.batch_size}: micro-batches are alike"
            )
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError(f"train.minutes must be above 0; got {self.minutes}")
        if self.schedule not in ("cosine", "constant"):
            raise ConfigError(f"train.schedule must be cosine or constant; got {self.schedule!r}")
        if self.optimizer not in ("muon", "adamw"):
            raise ConfigError(f"train.optimizer must be muon or adamw; got {self.optimizer!r}")
        if self.precision not in (AUTO, *PRECISIONS):
            raise ConfigError(
                f"train.precision must be one of {', '.join((AUTO, *PRECISIONS))}; got {self.precision!r}"
            )
        if self.blocks not in BLOCKS:
            raise ConfigError(f"train.blocks must be one of {', '.join(BLOCKS)}; got {self.blocks!r}")
        if self.checkpointing not in ("none", "selective", "full"):
            raise ConfigError(f"train.checkpointing must be none, selective or full; got {self.checkpointing!r}")
        for name in self.logger if isinstance(self.logger, list) else [self.logger]:
            if name not in LOGGERS:
                raise ConfigError(f"train.logger must be of {', '.join(LOGGERS)}, or a list of them; got {name!r}")
        if self.profile is not None and profiled_steps(self.profile)[0] >= self.steps:
            raise ConfigError(f"train.profile={self.profile} begins after the last of train.steps={self.steps}")
        if self.parallel not in ("none", "ddp", "fsdp"):
            raise ConfigError(f"train.parallel must be none, ddp or fsdp; got {self.parallel!r}")
        if self.resume not in ("same", "force"):
            raise ConfigError(f"train.resume must be same or force; got {self.resume!r}")
        _check_schedule(self.loss_schedule)
        if self.freeze:
            _check_points("train.freeze", self.freeze, "[step, blocks], such as [[0,12],[2000,0]]")
        if not any(getattr(self.loss, name) > 0 or name in self.loss_schedule for name in TERMS):
            raise ConfigError("train.loss: all weights are 0; give one term a weight")


@dataclass
class Config:
    """Everything about a run. Raises ConfigError where its parts contradict each other."""

    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    kernels: KernelsConfig

    def __post_init__(self):
        check_crop_size(self.model, self.data.crop.size)
        self._check_freeze()
        self._check_batch_norm()
        if self._weighs("smoothness") and self.data.window < 3:
            raise ConfigError("train.loss.smoothness needs windows of three frames or more: data.window=3")
        if self.train.batch_size != AUTO and self.train.batch_size // self.train.accumulate % self.data.window:
            raise ConfigError(
                f"train.accumulate={self.train.accumulate} cuts windows of data.window={self.data.window} frames: "
                f"train.batch_size={self.train.batch_size} must be a multiple of both together"
            )
        if self._weighs("variance") and not self.model.joint_scale:
            raise ConfigError("train.loss.variance needs a model that gives scales: model.joint_scale=true")

    def _weighs(self, term: str) -> bool:
        """Whether a term has a weight at some step."""
        scheduled = any(weight > 0 for _, weight in self.train.loss_schedule.get(term, []))
        return getattr(self.train.loss, term) > 0 or scheduled

    def _check_batch_norm(self) -> None:
        train, cells = self.train, (self.model.crop_size // HYBRID_PATCH) ** 2
        if self.model.backbone.name != "hybrid" or train.batch_size == AUTO:
            return
        if cells * (train.batch_size // train.accumulate) < 2:
            raise ConfigError(
                f"train.batch_size={train.batch_size} with train.accumulate={train.accumulate} and model.crop_size="
                f"{self.model.crop_size} leave a batch norm one value a channel: take larger batches or crops"
            )

    def _check_freeze(self) -> None:
        backbone, key = self.model.backbone, "train.freeze"
        if self.train.freeze and backbone.name == "hybrid":
            raise ConfigError(
                f"{key} is for DINOv2; model.backbone.name=hybrid starts from nothing and is trained whole"
            )
        for _, blocks in self.train.freeze:
            if not (_is_count(blocks) and backbone.frozen_layers <= blocks <= backbone.depth):
                raise ConfigError(
                    f"{key}: blocks must be a whole number from {backbone.frozen_layers} (model.backbone.frozen_layers, which "
                    f"are never trained) to {backbone.depth}; got {blocks!r}"
                )

    def output_folder(self) -> Path:
        return Path(self.train.output).expanduser()

    def checkpoint_folder(self) -> Path:
        return Path(self.train.checkpoint or Path(self.train.output) / "checkpoint").expanduser()


def identity(values: dict[str, Any]) -> dict[str, Any]:
    """What makes a run another than any other: its configuration as plain values by key, without :data:`MAY_DIFFER`."""
    flat = {key: value for key, value in _flat(values).items() if key not in MAY_DIFFER}
    for key in (*PATHS, START_FROM):
        if key == START_FROM and not Path(flat.get(key) or "", "config.json").expanduser().is_file():
            continue  # a name of the package's or on the hub
        if flat.get(key) is not None and (key, flat[key]) != ("model.hand", SHIPPED_HAND):
            flat[key] = str(Path(flat[key]).expanduser().resolve())
    return flat


def differences(saved: dict[str, Any], now: dict[str, Any]) -> str:
    """How two identities differ, "train.lr is 0.01, was 0.001; ..."; "" where they do not."""
    keys = [key for key in {**saved, **now} if saved.get(key) != now.get(key)]
    return "; ".join(f"{key} is {now.get(key)}, was {saved.get(key)}" for key in keys)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


PROGRAM = Program("train", {"train": TrainConfig})


def leads() -> bool:
    """Whether this process speaks for those that torchrun started with it."""
    return os.environ.get("RANK", "0") == "0"


def check_ranks(config: Config, dry: bool = False) -> None:
    """Raises ConfigError where the processes that a launcher started do not fit ``train.parallel`` or divide the batch."""
    train, world = config.train, os.environ.get("WORLD_SIZE")
    if train.parallel == "none":
        if world not in (None, "1"):
            raise ConfigError(f"WORLD_SIZE={world}: several processes train one model with train.parallel=ddp or fsdp")
        return
    if dry:
        raise ConfigError("--dry-run is done by one process: leave torchrun and train.parallel out")
    if world is None:
        raise ConfigError(
            f"train.parallel={train.parallel} is started by torchrun --nproc-per-node=N -m amt.train, N the number of GPUs"
        )
    if train.parallel == "fsdp" and train.precision not in ("float32", "bf16", AUTO):
        raise ConfigError(
            f"train.precision={train.precision} is not sharded: take train.parallel=ddp, or train.precision=bf16"
        )
    if train.parallel == "fsdp" and train.blocks not in ("auto", "stock"):
        raise ConfigError(f"train.blocks={train.blocks} is not sharded: take train.parallel=ddp, or train.blocks=stock")
    if train.batch_size == AUTO:
        raise ConfigError("train.batch_size=auto is found by one process: give a number with train.parallel")
    parts = int(world) * train.accumulate * config.data.window
    if train.batch_size % parts:
        raise ConfigError(
            f"train.batch_size={train.batch_size} is the batch of all {world} processes and must be a multiple of {parts} "
            "(processes x train.accumulate x data.window)"
        )
