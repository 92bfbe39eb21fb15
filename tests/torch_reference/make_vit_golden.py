"""Writes the golden numbers of vision transformers and heads that `tests/models` reads.

Run, where torch and torchvision are installed: python -m tests.torch_reference.make_vit_golden

The nets are torchvision's, their head replaced by an average over its input to the length of the
features, and by the head that the name says. Weights follow the rule in `tests/models/weights.py`
from name and shape, images are those of `forward_inputs.npz`; everything is computed in float64.
"""

import itertools
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import VisionTransformer, vit_b_16, vit_b_32

from tests.models import weights

GOLDEN = Path(__file__).parents[1] / "golden"
FEATURE_DIM, NUM_CLASSES = 512, 10

BASES = {
    "tiny_vit": lambda: VisionTransformer(32, 4, 4, 4, 64, 128),
    "vit_b_16+768": lambda: vit_b_16(image_size=32),
    "vit_b_32+768": lambda: vit_b_32(image_size=32),
}
HEADS = {"relu": (nn.ReLU, (24, 7)), "tanh": (nn.Tanh, (24,))}


def head(feature_dim: int, widths: tuple[int, ...], activation: type[nn.Module]) -> nn.Module:
    """Hidden layers of such widths and a linear one, or that alone."""
    sizes, layers = [feature_dim, *widths], []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    last = nn.Linear(sizes[-1], NUM_CLASSES)
    return nn.Sequential(*layers, last) if layers else last


class Net(nn.Module):
    """A vision transformer of torchvision and a head of our own."""

    def __init__(self, name: str) -> None:
        super().__init__()
        _, *widths = name.split("+")
        self.base = BASES[name]()
        self.base.heads = nn.AdaptiveAvgPool1d(FEATURE_DIM)
        self.head = head(FEATURE_DIM, tuple(map(int, widths)), nn.Tanh)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps `[B, 3, 32, 32]` to features and logits."""
        features = self.base(images)
        return features, self.head(features)


def ready(net: nn.Module) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """The net in float64 with the weights of the rule; what its state dict has, to be written."""
    net = net.double()
    shapes = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    chosen = weights.state_dict(shapes)
    net.load_state_dict({key: torch.as_tensor(value) for key, value in chosen.items()})
    described = [str(list(shape)) for shape in shapes.values()]
    return net, {"names": np.array(list(shapes)), "shapes": np.array(described)}


def norms(net: nn.Module) -> np.ndarray:
    """Of the gradients, in the order of `names`."""
    return np.array([float(parameter.grad.norm()) for parameter in net.parameters()])


def numbers(name: str) -> dict[str, np.ndarray]:
    """What is written for a net, which is the same net in training."""
    net, described = ready(Net(name))
    inputs = np.load(GOLDEN / "forward_inputs.npz")
    images, labels = torch.from_numpy(inputs["x"]).double(), torch.from_numpy(inputs["y"])
    targets = 80.0 * torch.from_numpy(inputs["prototypes"]).double()[labels]
    features, logits = net(images)
    cross_entropy = functional.cross_entropy(logits, labels)
    distance = functional.mse_loss(features, targets)
    (cross_entropy + 10 * distance).backward()
    return {
        **described,
        "eval_features": features.detach().numpy(),
        "eval_logits": logits.detach().numpy(),
        "train_ce": cross_entropy.item(),
        "train_mse": distance.item(),
        "grad_norms": norms(net),
    }


def head_numbers() -> dict[str, np.ndarray]:
    """What is written for heads alone: logits, and gradients of the cross-entropy."""
    features = 3 * np.random.default_rng(0).standard_normal((8, 20))
    labels = np.arange(8) % NUM_CLASSES
    written = {"features": features, "labels": labels}
    for name, (activation, widths) in HEADS.items():
        layers = nn.ModuleDict({"head": head(20, widths, activation)})
        layers, described = ready(layers)
        x = torch.from_numpy(features).requires_grad_()
        logits = layers["head"](x)
        functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
        numbers = {**described, "logits": logits.detach().numpy(), "grad_norms": norms(layers)}
        numbers |= {"widths": np.array(widths), "features_grad": x.grad.numpy()}
        written |= {f"{name}/{key}": value for key, value in numbers.items()}
    return written


def main() -> None:
    """Runs the command."""
    for name in BASES:
        np.savez_compressed(GOLDEN / f"forward_{name}.npz", **numbers(name))
    np.savez_compressed(GOLDEN / "heads.npz", **head_numbers())


if __name__ == "__main__":
    main()
