"""What the servers of the public codes do, in plain PyTorch: their training and decompositions.

One batch after the other, as there; spared are the files and lists that the public codes go through
to make batches. Settings are those that the methods have by default.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional


def fedtgp(
    vectors: torch.Tensor, labels: torch.Tensor, *, num_classes: int, epochs: int, batch_size: int
) -> Callable[[], float]:
    """FedTGP's training of prototypes: returns what runs a round of it and returns a loss.

    Args:
      vectors: `[N, D]`, class means of all clients.
      labels: `[N]` int64.
      num_classes: C.
      epochs: over all of them.
      batch_size: of a step.
    """
    dim = vectors.shape[1]
    embedding = nn.Embedding(num_classes, dim)
    layers = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
    classes = torch.arange(num_classes)
    margin = 1.0

    def run() -> float:
        parameters = [*embedding.parameters(), *layers.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=0.01)
        for _ in range(epochs):
            for rows in torch.randperm(len(labels)).split(batch_size):
                means, wanted = vectors[rows], labels[rows]
                prototypes = layers(embedding(classes))
                squares = means.square().sum(1, keepdim=True) + prototypes.square().sum(1)
                squares = squares - 2 * means @ prototypes.T
                away = squares.clamp(min=1e-12).sqrt()
                away = away + margin * functional.one_hot(wanted, num_classes)
                loss = functional.cross_entropy(-away, wanted)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return loss.item()

    return run


def fedgh(
    vectors: torch.Tensor, labels: torch.Tensor, *, num_classes: int, epochs: int, batch_size: int
) -> Callable[[], float]:
    """FedGH's training of the common head; arguments and result as of `fedtgp`."""
    head = nn.Linear(vectors.shape[1], num_classes)

    def run() -> float:
        optimizer = torch.optim.SGD(head.parameters(), lr=0.01)
        for _ in range(epochs):
            for rows in torch.randperm(len(labels)).split(batch_size):
                loss = functional.cross_entropy(head(vectors[rows]), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return loss.item()

    return run


def fedgen(
    *,
    num_clients: int,
    num_classes: int,
    feature_dim: int,
    noise_dim: int,
    hidden_dim: int,
    steps: int,
    batch_size: int,
) -> Callable[[], float]:
    """FedGen's training of the generator against the heads of all clients, one after the other."""
    heads = [nn.Linear(feature_dim, num_classes) for _ in range(num_clients)]
    first = nn.Linear(noise_dim + num_classes, hidden_dim)
    layers = nn.Sequential(
        first, nn.BatchNorm1d(hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, feature_dim)
    )

    def run() -> float:
        optimizer = torch.optim.Adam(layers.parameters(), lr=0.1)
        for _ in range(steps):
            labels = torch.randint(num_classes, (batch_size,))
            noise = torch.rand(batch_size, noise_dim)
            features = layers(torch.cat((noise, functional.one_hot(labels, num_classes)), dim=1))
            logits = sum(head(features) / num_clients for head in heads)
            loss = functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    return run


def fedkd(matrices: list[torch.Tensor], *, energy: float) -> Callable[[], float]:
    """FedKD's compression of a net: each matrix by its singular vectors, and back again.

    Args:
      matrices: `[O, K]` each.
      energy: share of the squared singular values to keep.
    """

    def run() -> float:
        total = 0.0
        for matrix in matrices:
            left, values, right = torch.linalg.svd(matrix, full_matrices=False)
            shares = values.square().cumsum(0) / values.square().sum()
            rank = int((shares <= energy).sum()) + 1
            total += float(((left[:, :rank] * values[:rank]) @ right[:rank]).sum())
        return total

    return run
