"""What is said about each joint beside its place: whether it is seen, and how far the answer may be off."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amt.hand.skeleton import NUM_JOINTS
from amt.model.config import ModelConfig
from amt.model.frames import JOINT_FRAMES
from amt.model.layers import small_output

HIDDEN = 64
SCALE_UNIT = 0.01  # m: the scale at first
MAX_LOG_SCALE = 4.0  # scales stay between 0.18 and 546 mm


class JointStates(nn.Module):
    """A small network on each joint's fused token and the image's features where the keypoint head saw it.

    It reads them and does not shape them: no gradient goes back, so that neither term costs accuracy of the joints.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.visibility, self.scale = config.visibility, config.joint_scale
        outputs = self.visibility + self.scale
        features = config.hidden + config.map_channels
        self.head = nn.Sequential(nn.Linear(features, HIDDEN), nn.GELU(), small_output(nn.Linear(HIDDEN, outputs)))
        self.register_buffer("joint_frames", torch.tensor(JOINT_FRAMES), persistent=False)

    def forward(self, hand: Tensor, features: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Logits that joints are visible [B, 21] and scales of their errors [B, 21] (m); None where the model has none.

        Args:
            hand: fused hand tokens [B, 22, hidden].
            features: of the keypoints, [B, 30, map_channels]; joints come first.
        """
        seen = torch.cat((hand[:, self.joint_frames], features[:, :NUM_JOINTS].to(hand.dtype)), dim=-1).detach()
        states = self.head(seen).float()
        visible = states[..., 0] if self.visibility else None
        if not self.scale:
            return visible, None
        return visible, states[..., -1].clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).exp() * SCALE_UNIT
