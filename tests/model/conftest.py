import pytest
import torch

from amt.model import AMT, ModelConfig

EVERY_PART = {
    "hand_frames": True,
    "contact_tokens": True,
    "refine_steps": 3,
    "corners": True,
}  # some are off by default


@pytest.fixture(scope="session")
def model():
    """Size tiny with every part and random weights, its heads no longer at zero, in evaluation mode. Do not train it."""
    torch.manual_seed(0)
    model = AMT(ModelConfig(**EVERY_PART))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "head" in name and parameter.dim() > 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model.eval()
