"""One round as a loop over clients in plain PyTorch, which is how the public code runs one.

One client after the other, with all threads for each: train on all batches with cross-entropy +
lambda * MSE(features, s * prototype), then pass over the training samples in evaluation mode and
average the features of each class. The server averages the clients' means and spreads them, and
every client's test samples are classified by head and by nearest prototype.

In the variant `NCHW` all models and prototypes live on disk, as in the public code: a model is
loaded for training, again for the prototypes (so that they are those of the model before this
round's training), and for evaluation; the trained one is saved. The variant `channels_last` keeps
everything in memory, in the layout in which convolutions are faster on a CPU.

Both are spared what the public code does beyond that: batches are made beforehand instead of from
files and lists each round, and predictions are made by whole batches.

Runs in a process of its own, which keeps what is prepared by the variant's name.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from . import timing, torch_models, torch_side

BATCH_SIZE = 32
EVALUATION_BATCH_SIZE = 64
LEARNING_RATE = 0.01
PROXIMITY = 10.0  # lambda
SCALE = 80.0  # s
ON_DISK = {"NCHW": True, "channels_last": False}

Batch = tuple[torch.Tensor, torch.Tensor]
"""`[B, 3, H, W]` float32 images and `[B]` int64 labels."""


class Federation(NamedTuple):
    """All clients of one variant.

    Attributes:
      nets: of every client, where they are kept in memory; empty if they are on disk.
      folder: where they are if not.
      training: batches of every client to train on.
      collecting: the same samples in batches for the prototypes.
      testing: batches of every client to test on.
    """

    nets: list[torch_models.Net]
    folder: Path
    training: list[list[Batch]]
    collecting: list[list[Batch]]
    testing: list[list[Batch]]


_federations: dict[str, Federation] = {}
_prototypes: dict[str, torch.Tensor] = {}  # `[C, D]`, unit length.


def prepare(
    variant: str,
    architectures: Sequence[str],
    images: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    num_threads: int,
    folder: str,
) -> None:
    """Makes all clients and their batches, and runs a round to warm up.

    Args:
      variant: a key of `ON_DISK`.
      architectures: `[M]` keys of `torch_models.BASES`.
      images: `[N, H, W, 3]` uint8.
      labels: `[N]` int32 in [0, 10).
      train: `[M, n]` rows to train on.
      test: `[M, m]` rows to test on.
      num_threads: for each operation.
      folder: for the models, if this variant keeps them on disk; exists.
    """
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    layout = torch_side.MEMORY_FORMATS[variant]
    inputs = torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
    classes = torch.from_numpy(labels).to(torch.int64)

    def batches(rows: np.ndarray, size: int) -> list[Batch]:
        parts = torch.from_numpy(rows).to(torch.int64).split(size)
        return [(inputs[part].contiguous(memory_format=layout), classes[part]) for part in parts]

    nets = []
    for client, architecture in enumerate(architectures):
        net = torch_models.build(architecture, num_classes=10, feature_dim=512)
        net = net.to(memory_format=layout)
        if ON_DISK[variant]:
            torch.save(net, _model_file(Path(folder), client))
        else:
            nets.append(net)
    _federations[variant] = Federation(
        nets,
        Path(folder),
        training=[batches(rows, BATCH_SIZE) for rows in train],
        collecting=[batches(rows, EVALUATION_BATCH_SIZE) for rows in train],
        testing=[batches(rows, EVALUATION_BATCH_SIZE) for rows in test],
    )
    _prototypes.pop(variant, None)
    _round(variant)


def time_round(variant: str) -> timing.Times:
    """The times of one round of what was prepared.

    Raises:
      FloatingPointError: the training has diverged.
    """
    times = timing.clock(lambda: _round(variant))
    if not _prototypes[variant].isfinite().all():
        raise FloatingPointError(f"torch {variant} diverged")
    return times


def _round(variant: str) -> tuple[int, int]:
    """Runs a round; returns how many test samples head and prototypes classify right."""
    federation = _federations[variant]
    clients = range(len(federation.training))
    uploads = [_update(federation, client, _prototypes.get(variant)) for client in clients]
    if not federation.nets:
        files = [_upload_file(federation.folder, client) for client in clients]
        for upload, file in zip(uploads, files, strict=True):
            torch.save(upload, file)
        uploads = [torch.load(file) for file in files]
    _prototypes[variant] = _aggregate(uploads)
    pairs = [_evaluate(federation, client, _prototypes[variant]) for client in clients]
    by_head, by_prototype = zip(*pairs, strict=True)
    return sum(by_head), sum(by_prototype)


def _update(
    federation: Federation, client: int, prototypes: torch.Tensor | None
) -> dict[int, torch.Tensor]:
    """Trains a client and returns the mean feature, `[D]`, of each of its classes."""
    net = _load(federation, client).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE)
    for images, labels in federation.training[client]:
        features, logits = net(images)
        loss = functional.cross_entropy(logits, labels)
        if prototypes is not None:
            targets = SCALE * prototypes[labels]
            loss = loss + PROXIMITY * functional.mse_loss(features, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # On disk this is still the model from before the training.
    means = _class_means(_load(federation, client), federation.collecting[client])
    if not federation.nets:
        torch.save(net, _model_file(federation.folder, client))
    return means


def _class_means(net: torch_models.Net, batches: list[Batch]) -> dict[int, torch.Tensor]:
    """The mean feature of each class, of a list of its samples' features."""
    members: dict[int, list[torch.Tensor]] = {}
    for features, _, labels in _outputs(net, batches):
        for feature, label in zip(features, labels.tolist(), strict=True):
            members.setdefault(label, []).append(feature)
    return {label: torch.stack(rows).mean(0) for label, rows in members.items()}


def _aggregate(uploads: Sequence[dict[int, torch.Tensor]]) -> torch.Tensor:
    """Averages the clients' prototypes, each client alike, and spreads them: `[10, D]`."""
    means = [
        torch.stack([upload[label] for upload in uploads if label in upload]).mean(0)
        for label in range(10)
    ]
    points, _ = torch_side.reference_align(torch.stack(means).numpy())
    return torch.from_numpy(points)


def _evaluate(federation: Federation, client: int, prototypes: torch.Tensor) -> tuple[int, int]:
    """How many test samples of a client the head and the nearest prototype classify right."""
    by_head = by_prototype = 0
    for features, logits, labels in _outputs(_load(federation, client), federation.testing[client]):
        nearest = torch.cdist(features, SCALE * prototypes).argmin(1)
        by_head += int((logits.argmax(1) == labels).sum())
        by_prototype += int((nearest == labels).sum())
    return by_head, by_prototype


def _outputs(
    net: torch_models.Net, batches: list[Batch]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Features, logits and labels of each batch, in evaluation mode."""
    net.eval()
    for images, labels in batches:
        with torch.no_grad():
            features, logits = net(images)
        yield features, logits, labels


def _load(federation: Federation, client: int) -> torch_models.Net:
    if federation.nets:
        return federation.nets[client]
    # A file of our own, which holds a whole module.
    return torch.load(_model_file(federation.folder, client), weights_only=False)


def _model_file(folder: Path, client: int) -> Path:
    return folder / f"model_{client}.pt"


def _upload_file(folder: Path, client: int) -> Path:
    return folder / f"prototypes_{client}.pt"
