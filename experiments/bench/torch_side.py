"""What plain PyTorch does beside us: a client's steps, the alignment loop, a whole round.

Runs in processes of its own, which keep what is prepared until the next of its name.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from protonorm_jax.methods.table import checked_settings
from tests.torch_reference import loops, nets, servers

from . import processes, server_step, timing

# `NCHW` keeps models on disk between the parts of a round, as the public code does;
# `channels_last` in memory, in the layout in which convolutions are faster on a CPU.
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
FEATURE_DIM = 512

_trainers: dict[str, tuple[nets.Net, list[loops.Batch], torch.Tensor]] = {}
_federations: dict[str, loops.Federation] = {}
_prototypes: dict[str, torch.Tensor | None] = {}
_server: list[Callable[[], float]] = []  # At most one.


def prepare_steps(architecture: str, images: np.ndarray, labels: np.ndarray) -> int:
    """Makes a net in each layout and its batches, takes a step of each; returns its parameters.

    Batches are made of float32 images beforehand; our own step cuts and scales its batch itself.
    Images and labels are as in `prepare_round`.
    """
    torch.set_num_threads(processes.num_cores())
    for variant, layout in LAYOUTS.items():
        net = _net(architecture, variant)
        prototypes = functional.normalize(torch.randn(loops.NUM_CLASSES, FEATURE_DIM))
        _trainers[variant] = net, loops.batches(images, labels, 32, layout), prototypes
        loops.train(*_trainers[variant])
    return sum(parameter.numel() for parameter in net.parameters())


def time_steps(variant: str) -> timing.Times:
    """Trains on all batches once; the times of one step."""
    trainer = _trainers[variant]
    return timing.clock(lambda: loops.train(*trainer)).over(len(trainer[1]))


def time_alignment(vectors: np.ndarray) -> timing.Times:
    """The times of `loops.align`."""
    torch.set_num_threads(processes.num_cores())
    return timing.clock(lambda: loops.align(vectors))


def prepare_round(
    architectures: Sequence[str],
    images: np.ndarray,
    labels: np.ndarray,
    train_samples: int,
    num_threads: int,
    folder: str,
) -> None:
    """Makes all clients and their batches in each layout, and runs a round to warm up.

    Args:
      architectures: `[M]` keys of `nets.BASES`.
      images: `[N, H, W, 3]` uint8, equally many for each client.
      labels: `[N]` int32 in [0, 10).
      train_samples: how many of a client's to train on; the others are for testing.
      num_threads: for each operation.
      folder: for the models of the layout that keeps them on disk; exists.
    """
    torch.set_num_threads(num_threads)
    for variant, layout in LAYOUTS.items():
        clients = [_net(architecture, variant) for architecture in architectures]
        if variant == "NCHW":
            for client, net in enumerate(clients):
                torch.save(net, loops.model_file(Path(folder), client))
            clients = []
        federation = loops.Federation(clients, Path(folder), [], [], [])
        for rows in np.split(np.arange(len(labels)), len(architectures)):
            train, test = rows[:train_samples], rows[train_samples:]
            for part, size, batches in zip(
                (train, train, test), (32, 64, 64), federation[2:], strict=True
            ):
                batches.append(loops.batches(images[part], labels[part], size, layout))
        _federations[variant], _prototypes[variant] = federation, None
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


def prepare_server(case: server_step.Case) -> None:
    """Makes what the server of a method has, and runs a round to warm up."""
    torch.set_num_threads(processes.num_cores())
    settings = vars(checked_settings(case.method, dict(case.settings)))
    sizes = {"num_classes": case.num_classes, "batch_size": server_step.BATCH_SIZE}
    if case.method in ("fedtgp", "fedgh"):
        means = torch.from_numpy(server_step.class_means(case)).reshape(-1, FEATURE_DIM)
        labels = torch.arange(case.num_classes).repeat(server_step.NUM_CLIENTS)
        train = getattr(servers, case.method)
        run = train(means, labels, epochs=settings["server_epochs"], **sizes)
    elif case.method == "fedgen":
        run = servers.fedgen(
            num_clients=server_step.NUM_CLIENTS,
            feature_dim=FEATURE_DIM,
            noise_dim=settings["noise_dim"],
            hidden_dim=settings["hidden_dim"],
            steps=settings["server_epochs"],
            **sizes,
        )
    else:
        net = _net(case.shared, "NCHW")
        matrices = [one.detach().flatten(1) for one in net.parameters() if one.ndim > 1]
        run = servers.fedkd(matrices, energy=settings["energy_start"])
    run()
    _server[:] = [run]


def time_server() -> timing.Times:
    """The times of one round of what was prepared last."""
    return timing.clock(_server[0])


def _round(variant: str) -> None:
    _prototypes[variant], *_ = loops.run_round(_federations[variant], _prototypes[variant])


def _net(architecture: str, variant: str) -> nets.Net:
    """Always with the same weights."""
    torch.manual_seed(0)
    net = nets.build(architecture, num_classes=loops.NUM_CLASSES, feature_dim=FEATURE_DIM)
    return net.to(memory_format=LAYOUTS[variant])
