"""Convolutions with batch norm, of which the hybrid backbone, the neck and the locator's two networks are made."""

from torch import Tensor, nn


def convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1, padding: int | None = None) -> nn.Sequential:
    """Convolution, batch norm, ReLU; the size is kept at stride 1."""
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2 if padding is None else padding, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """``x + convolution(x)``."""

    def __init__(self, channels: int):
        super().__init__()
        self.convolution = convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolution(x)
