"""The public code's loops in plain PyTorch: training, alignment and a whole round.

A round takes one client after the other, with all threads for each: train on all batches with
cross-entropy + lambda * MSE(features, s * prototype), then pass over the training samples in
evaluation mode and average the features of each class. The server averages the clients' means and
spreads them, and every client's test samples are classified by head and by nearest prototype.

With models on disk, as in the public code, a model is loaded for training, again for the prototypes
(so that they are those of the model before this round's training), and for evaluation; the trained
one is saved, and uploads are files, too. In memory, prototypes are those of the trained model.

Both are spared what the public code does beyond that: batches are made beforehand instead of from
files and lists each round, and predictions are made by whole batches.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

NUM_CLASSES = 10
LEARNING_RATE = 0.01
PROXIMITY = 10.0  # lambda
SCALE = 80.0  # s

Batch = tuple[torch.Tensor, torch.Tensor]
"""`[B, 3, H, W]` float32 images and `[B]` int64 labels."""


class Federation(NamedTuple):
    """All clients.

    Attributes:
      nets: of every client, where they are kept in memory; empty if they are on disk.
      folder: where they are if not.
      training: batches of every client to train on.
      collecting: the same samples in batches for the prototypes.
      testing: batches of every client to test on.
    """

    nets: list[nn.Module]
    folder: Path
    training: list[list[Batch]]
    collecting: list[list[Batch]]
    testing: list[list[Batch]]

    def load(self, client: int) -> nn.Module:
        """The client's net."""
        if self.nets:
            return self.nets[client]
        # A file of our own, which holds a whole module.
        return torch.load(model_file(self.folder, client), weights_only=False)


def model_file(folder: Path, client: int) -> Path:
    """Where a client's net is on disk."""
    return folder / f"model_{client}.pt"


def batches(
    images: np.ndarray, labels: np.ndarray, size: int, layout: torch.memory_format
) -> list[Batch]:
    """Cuts `[N, H, W, 3]` uint8 images and `[N]` labels into batches of that size."""
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
    parts = [part.contiguous(memory_format=layout) for part in inputs.split(size)]
    return list(zip(parts, torch.from_numpy(labels).to(torch.int64).split(size), strict=True))


def run_round(
    federation: Federation, prototypes: torch.Tensor | None
) -> tuple[torch.Tensor, int, int]:
    """Runs a round.

    Args:
      federation: its nets are changed.
      prototypes: `[C, D]` of length 1; None in the first round.

    Returns:
      The new prototypes, and how many test samples head and prototypes classify right.
    """
    clients = range(len(federation.training))
    uploads = [_update(federation, client, prototypes) for client in clients]
    if not federation.nets:
        files = [federation.folder / f"prototypes_{client}.pt" for client in clients]
        for upload, file in zip(uploads, files, strict=True):
            torch.save(upload, file)
        uploads = [torch.load(file) for file in files]
    prototypes = _aggregate(uploads)
    by_head = by_prototype = 0
    for client in clients:
        for features, logits, labels in _outputs(
            federation.load(client), federation.testing[client]
        ):
            nearest = torch.cdist(features, SCALE * prototypes).argmin(1)
            by_head += int((logits.argmax(1) == labels).sum())
            by_prototype += int((nearest == labels).sum())
    return prototypes, by_head, by_prototype


def train(net: nn.Module, batches: Sequence[Batch], prototypes: torch.Tensor | None) -> None:
    """Takes a step of SGD on each batch."""
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE)
    for images, labels in batches:
        features, logits = net(images)
        loss = functional.cross_entropy(logits, labels)
        if prototypes is not None:
            targets = SCALE * prototypes[labels]
            loss = loss + PROXIMITY * functional.mse_loss(features, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def align(vectors: np.ndarray) -> tuple[np.ndarray, int]:
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


def _update(
    federation: Federation, client: int, prototypes: torch.Tensor | None
) -> dict[int, torch.Tensor]:
    """Trains a client and returns the mean feature, `[D]`, of each of its classes."""
    net = federation.load(client)
    train(net, federation.training[client], prototypes)
    members: dict[int, list[torch.Tensor]] = {}
    # On disk this is still the model from before the training.
    for features, _, labels in _outputs(federation.load(client), federation.collecting[client]):
        for feature, label in zip(features, labels.tolist(), strict=True):
            members.setdefault(label, []).append(feature)
    if not federation.nets:
        torch.save(net, model_file(federation.folder, client))
    return {label: torch.stack(rows).mean(0) for label, rows in members.items()}


def _aggregate(uploads: Sequence[dict[int, torch.Tensor]]) -> torch.Tensor:
    """Averages the clients' prototypes, each client alike, and spreads them: `[C, D]`."""
    means = [
        torch.stack([upload[label] for upload in uploads if label in upload]).mean(0)
        for label in range(NUM_CLASSES)
    ]
    points, _ = align(torch.stack(means).numpy())
    return torch.from_numpy(points)


def _outputs(
    net: nn.Module, batches: Sequence[Batch]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Features, logits and labels of each batch, in evaluation mode."""
    net.eval()
    for images, labels in batches:
        with torch.no_grad():
            features, logits = net(images)
        yield features, logits, labels
