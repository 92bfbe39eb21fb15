"""Writes the golden numbers of torchvision's nets that `tests/models/test_models.py` reads.

Run, where torch and torchvision are installed: python -m tests.torch_reference.make_golden [NAME]

The last layer of a net is replaced by an average over its input to the length of the features, and
a linear head follows. Weights follow the rule in `tests/models/weights.py` from name and shape,
images are those of `forward_inputs.npz`; everything is computed in float64, without dropout.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, ResNet

from tests.models import weights

GOLDEN = Path(__file__).parents[1] / "golden"
FEATURE_DIM, NUM_CLASSES = 512, 10


def short_resnet(stages: int) -> nn.Module:
    """A residual net of one basic block a stage, of the first stages alone."""
    net = ResNet(BasicBlock, [1, 1, 1, 1])
    for stage in range(stages, 4):
        setattr(net, f"layer{stage + 1}", nn.Identity())
    return net


BASES = {
    "resnet4": lambda: short_resnet(1),
    "resnet6": lambda: short_resnet(2),
    "resnet50": torchvision.models.resnet50,
    "resnet101": torchvision.models.resnet101,
    "resnet152": torchvision.models.resnet152,
    "googlenet": lambda: torchvision.models.googlenet(aux_logits=False, init_weights=False),
}


class Net(nn.Module):
    """A net of torchvision with `fc` for its last layer, replaced, and a head."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        base.fc = nn.AdaptiveAvgPool1d(FEATURE_DIM)
        self.base = base
        self.head = nn.Linear(FEATURE_DIM, NUM_CLASSES)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps `[B, channels, H, W]` to features and logits."""
        features = self.base(images)
        return features, self.head(features)


def numbers(name: str) -> dict[str, np.ndarray]:
    """What is written for a net; norms are in the order of `names`."""
    net = Net(BASES[name]()).double()
    shapes = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    chosen = weights.state_dict(shapes)
    net.load_state_dict({key: torch.as_tensor(value) for key, value in chosen.items()})
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    inputs = np.load(GOLDEN / "forward_inputs.npz")
    images, labels = torch.from_numpy(inputs["x"]).double(), torch.from_numpy(inputs["y"])
    targets = torch.from_numpy(80.0 * inputs["prototypes"]).double()[labels]

    net.eval()
    with torch.no_grad():
        eval_features, eval_logits = net(images)
    net.train()
    features, logits = net(images)
    cross_entropy = functional.cross_entropy(logits, labels)
    distance = functional.mse_loss(features, targets)
    (cross_entropy + 10 * distance).backward()
    buffers = [buffer for key, buffer in net.named_buffers() if "running" in key]
    return {
        "names": np.array(list(shapes)),
        "shapes": np.array([str(list(shape)) for shape in shapes.values()]),
        "eval_features": eval_features.numpy(),
        "eval_logits": eval_logits.numpy(),
        "train_ce": cross_entropy.item(),
        "train_mse": distance.item(),
        "grad_norms": np.array([float(parameter.grad.norm()) for parameter in net.parameters()]),
        "bn_after_norms": np.array([float(buffer.norm()) for buffer in buffers]),
    }


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", default=list(BASES))
    for name in parser.parse_args().names:
        np.savez_compressed(GOLDEN / f"forward_{name}.npz", **numbers(name))


if __name__ == "__main__":
    main()
