"""The command `protonorm predict`: what kept models make of a data set."""

import argparse
from pathlib import Path

import numpy as np

from protonorm_jax import config, report
from protonorm_jax.command import flags
from protonorm_jax.command.console import Console
from protonorm_jax.command.paths import path
from protonorm_jax.config import Config
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import devices, samples
from protonorm_jax.running import conditions
from protonorm_jax.running.files import replacing, writing
from protonorm_jax.trained import TrainedClient, files, load_models
from protonorm_jax.types import Dataset, Part

DATA_SETTINGS = ("inexact_pixels", "image_size", "group_labels", "classes", "num_samples")
"""The settings that say which samples of the data there are, and not who holds them."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command but for `--debug`."""
    parser.add_argument(
        "directory", type=path, metavar="DIR", help="of a run with kept models (--keep-models)"
    )
    parser.add_argument(
        "--data",
        default=argparse.SUPPRESS,
        metavar="DATA",
        help="what to classify, as run takes it (the data of the run)",
    )
    parser.add_argument("--client", type=int, metavar="I", help="one of the clients, from 0 (all)")
    parser.add_argument(
        "--by",
        metavar="NAME",
        help="head, prototype or what else the method predicts by (as the method's paper does)",
    )
    parser.add_argument(
        "--out",
        type=path,
        metavar="FILE.png",
        help="also draw here which classes are taken for which (or .pdf, .svg, ...)",
    )
    flags.add_settings(parser, sections=(), names=DATA_SETTINGS)
    flags.add_methods(parser)
    parser.set_defaults(config=None)


def command(parsed: argparse.Namespace) -> int:
    """Predicts, and prints each client's accuracy beside the yardstick; returns the exit code.

    Args:
      parsed: the command line.

    Raises:
      UsageError: there are no models, no such client or predictor, data that they are not for, or
        a place that cannot be written.
    """
    form = report.format_of(Path(parsed.out)) if parsed.out else ""
    clients = _wanted(load_models(parsed.directory), parsed.client)
    by = clients[0].predictor if parsed.by is None else parsed.by
    if by not in clients[0].predictors:
        raise UsageError(
            f"--by must be one of {', '.join(clients[0].predictors)} for method "
            f"{clients[0].method}, got {by!r}"
        )
    console = Console()
    devices.cache_programs()
    if "data" not in parsed:
        given = {name: getattr(parsed, name) for name in DATA_SETTINGS if name in parsed}
        chosen = _recorded(parsed.directory).replace(**given)
    else:
        chosen = flags.chosen(parsed)
    dataset = samples.DataSets().of(chosen).dataset
    _check(dataset, clients[0], chosen.data)
    rows, which = _rows_of(dataset, clients, parsed.directory)
    found = []
    for one, own in zip(clients, rows, strict=True):
        scores = one.predict(dataset.images[own], by)
        found.append(
            report.Predicted(
                one.client, one.architecture, dataset.labels[own], scores, one.train_by_class
            )
        )
    console.print(report.predictions_table(found, by))
    console.say(f"Models of round {clients[0].round}, {which}")
    if parsed.out:
        out = Path(parsed.out)
        with writing(out), replacing(out, parents=True) as file:
            report.draw_confusion(found, by, file, form)
        console.say(f"Drawn in {out}")
    return 0


def _wanted(clients: list[TrainedClient], number: int | None) -> list[TrainedClient]:
    if number is None:
        return clients
    if not 0 <= number < len(clients):
        raise UsageError(f"--client must be in [0, {len(clients)}), got {number}")
    return [clients[number]]


def _recorded(directory: str) -> Config:
    """The settings of the run."""
    return config.from_recorded(files.find(directory).described["config"])


def _check(dataset: Dataset, client: TrainedClient, spec: str) -> None:
    """Refuses data that the models are not for."""
    shape = tuple(dataset.images.shape[1:])
    for what, ours, theirs in (
        ("images of shape", client.image_shape, shape),
        ("a number of classes of", client.num_classes, dataset.num_classes),
    ):
        if ours != theirs:
            raise UsageError(
                f"--data must have {what} {ours}, as the models, got {theirs} in {spec}"
            )


def _rows_of(
    dataset: Dataset, clients: list[TrainedClient], directory: str
) -> tuple[list[np.ndarray], str]:
    """Of each client the samples that it is scored on, and which these are, in words."""
    if conditions.data_digest(dataset) == clients[0].data_digest:
        own = _recorded(directory)
        parts = samples.share(own, samples.DataSets(dataset).of(own)).partition
        rows = [parts.test[one.client][: parts.test_count[one.client]] for one in clients]
        return rows, "on the data of their run: each on its own test samples"
    part = None if dataset.parts is None else np.flatnonzero(dataset.parts == Part.TEST)
    if part is not None and len(part):
        return [part] * len(clients), f"on the {len(part):,} samples of the test part"
    return [np.arange(len(dataset.labels))] * len(clients), f"on {len(dataset.labels):,} samples"
