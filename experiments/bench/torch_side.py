"""What torch does beside us: the same client step, and the reference's alignment loop.

Runs in a process of its own. What is prepared stays in this module until the next of its name.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from . import processes, timing, torch_models

MEMORY_FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


class Trainer(NamedTuple):
    """A net in training, and its batches: images, labels and targets of the features."""

    net: torch_models.Net
    optimizer: torch.optim.Optimizer
    batches: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


_trainers: dict[str, Trainer] = {}


def prepare_steps(
    architecture: str, memory_format: str, images: np.ndarray, labels: np.ndarray, batch_size: int
) -> int:
    """Makes a net and its batches, takes a step of each to warm up; returns its parameters.

    Batches are made of float32 images beforehand; our own step cuts and scales its batch itself.

    Args:
      architecture: a key of `torch_models.BASES`.
      memory_format: a key of `MEMORY_FORMATS`.
      images: `[N, H, W, 3]` uint8.
      labels: `[N]` int32 in [0, 10).
      batch_size: divides N.
    """
    torch.set_num_threads(processes.num_cores())
    torch.manual_seed(0)
    layout = MEMORY_FORMATS[memory_format]
    net = torch_models.build(architecture, num_classes=10, feature_dim=512)
    net = net.to(memory_format=layout).train()
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
    inputs = inputs.contiguous(memory_format=layout)
    classes = torch.from_numpy(labels).to(torch.int64)
    prototypes = 80 * functional.normalize(torch.randn(10, 512))
    batches = [
        (inputs[rows], classes[rows], prototypes[classes[rows]])
        for rows in torch.arange(len(labels)).split(batch_size)
    ]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    _trainers[memory_format] = Trainer(net, optimizer, batches)
    _train(memory_format)
    return sum(parameter.numel() for parameter in net.parameters())


def time_steps(memory_format: str) -> timing.Times:
    """Trains on all batches once; the times of one step."""
    steps = len(_trainers[memory_format].batches)
    return timing.Times(*(time / steps for time in timing.clock(lambda: _train(memory_format))))


def _train(memory_format: str) -> None:
    net, optimizer, batches = _trainers[memory_format]
    for images, labels, targets in batches:
        features, logits = net(images)
        loss = functional.cross_entropy(logits, labels) + 10 * functional.mse_loss(
            features, targets
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def reference_align(vectors: np.ndarray) -> tuple[np.ndarray, int]:
    """The reference's update rule with its early stop; see `thomson.reference_align`.

    The differences of all pairs are one `[C, C, D]` tensor, as in the reference.

    Args:
      vectors: `[C, D]` float32.

    Returns:
      The points, `[C, D]`, and the number of steps.
    """
    points = functional.normalize(torch.from_numpy(vectors))
    velocity = torch.zeros_like(points)
    rate, last, equal = 0.1, None, 0
    for step in range(500):
        differences = points[:, None] - points[None]
        squares = differences.square().sum(-1, keepdim=True)
        force = (differences / (squares + 1e-10)).sum(1)
        velocity = 0.9 * velocity + rate * force
        points = functional.normalize(points + velocity)
        if step % 10 == 0:
            rate *= 0.95
        size = round(force.norm(dim=1).mean().item(), 4)
        equal = equal + 1 if step > 10 and size == last else 0
        last = size
        if equal == 10:
            break
    return points.numpy(), step + 1


def time_alignment(vectors: np.ndarray) -> timing.Times:
    """The times of `reference_align`."""
    torch.set_num_threads(processes.num_cores())
    return timing.clock(lambda: reference_align(vectors))
