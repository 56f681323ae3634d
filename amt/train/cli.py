"""What a command line's words become: one typed configuration, or one clear line."""

from __future__ import annotations

from omegaconf import OmegaConf

from amt.train.config import Config, KernelsConfig, TrainConfig


def register_schema() -> None:
    """Tells Hydra the types and defaults of every key."""
    from hydra.core.config_store import ConfigStore

    from amt.data.loader import DataConfig
    from amt.model.config import ModelConfig

    sections = {"model": ModelConfig, "data": DataConfig, "train": TrainConfig, "kernels": KernelsConfig}
    ConfigStore.instance().store(name="train_schema", node=schema(sections))


def schema(sections: dict[str, type]):
    """A node of dataclasses by name; OmegaConf makes frozen ones read-only, which is undone: they are being composed."""
    node = OmegaConf.create({name: OmegaConf.structured(section) for name, section in sections.items()})
    _unlock(node)
    return node


def _unlock(node) -> None:
    OmegaConf.set_readonly(node, None)
    for key in node:
        if OmegaConf.is_dict(node._get_node(key)):
            _unlock(node._get_node(key))


def to_config(composed) -> Config:
    """Plain dataclasses of what Hydra composed; their own checks run here."""
    sections = {name: OmegaConf.to_object(composed[name]) for name in ("model", "data", "train", "kernels")}
    return Config(**sections)


def one_line(error: BaseException) -> str:
    """An error of Hydra, OmegaConf or a configuration's check, with its causes, as one line."""
    lines = []
    while error is not None:
        lines += [line.strip() for line in str(error).splitlines() if line.strip()]
        error = error.__cause__
    noise = (
        "full_key:",
        "object_type=",
        "reference_type=",
        "set the environment",
        "to append to",
        "config search path",
    )
    kept = [line for line in dict.fromkeys(lines) if not line.lower().startswith((*noise, "provider=", "see https"))]
    return " ".join(line if line.endswith((":", ";", ",")) else f"{line.rstrip('.')};" for line in kept).rstrip(";")
