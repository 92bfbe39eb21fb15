"""Who has what: data, samples and architectures, dealt to the clients of a program's runs."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from protonorm_jax import data, methods, metrics, models, partition, settings
from protonorm_jax.config import Config
from protonorm_jax.data import checks
from protonorm_jax.engine import client
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset, Partition

_VARIED = (
    "seed",
    "partition",
    "alpha",
    "classes_per_client",
    "min_samples",
    "train_fraction",
    "learning_rate",
    "participation",
    "dropout",
)


def varied(method: str) -> tuple[str, ...]:
    """The settings in which runs may differ that share a program.

    What deals the samples, and what is traced, among it settings of the method. All others are
    fixed when the program is compiled.
    """
    return _VARIED + settings.traced(settings.GROUPS[method])


def common(config: Config) -> Config:
    """The config with all that runs of a program may differ in at its default."""
    plain = Config(method=config.method, fidelity=config.fidelity)
    defaults = {name: getattr(plain, name) for name in _VARIED}
    traced = settings.traced(settings.GROUPS[config.method])
    return config.replace(**defaults, **{name: plain.method_settings[name] for name in traced})


class Dealt(NamedTuple):
    """Who has what, before it is known on which devices.

    Attributes:
      configs: one for each run.
      dataset: all samples.
      setup: the sizes that the method was made for.
      method: the federated method.
      partitions: of each run.
      architectures: `[num_clients]` names of models.
      step_cost: by name of a model, expected time of a step.
      steps: of each run, `[num_clients]` training steps a round.
    """

    configs: Sequence[Config]
    dataset: Dataset
    setup: methods.Setup
    method: methods.Method
    partitions: list[Partition]
    architectures: tuple[str, ...]
    step_cost: dict[str, float]
    steps: list[np.ndarray]


def deal(configs: Sequence[Config], dataset: Dataset | None = None) -> Dealt:
    """Loads the data, and deals samples and architectures to the clients of all runs.

    Raises:
      UsageError: runs that cannot share a program, or a setting, file or data set that cannot be
        used.
    """
    config = configs[0]
    _check_common(configs)
    dataset = samples(config, dataset)
    with naming("Config.family"):
        family = models.family(config.family)
        costs = {name: models.step_cost(name) for name in family}
    setup = methods.Setup(
        dataset.num_classes,
        config.feature_dim,
        config.num_clients,
        config.rounds,
        config.batch_size,
    )
    method = methods.build(config.method, setup, config.method_settings)
    architectures = tuple(family[i % len(family)] for i in range(config.num_clients))
    shared = shared_name(config, method, family)
    if shared and shared != "private":
        costs = {name: cost + models.step_cost(shared) for name, cost in costs.items()}
    partitions = [_deal_samples(one.located(), dataset) for one in configs]
    steps = [client.num_steps(one.train_count, config, method.reserve) for one in partitions]
    return Dealt(configs, dataset, setup, method, partitions, architectures, costs, steps)


def samples(config: Config, dataset: Dataset | None = None) -> Dataset:
    """The samples that a run is of, checked.

    Args:
      config: of the run.
      dataset: used instead of loading `Config.data`.

    Raises:
      UsageError: data that cannot be used.
    """
    if dataset is None:
        dataset = data.load(config.located().data)
    return checks.dataset(
        dataset.images,
        dataset.labels,
        origin="dataset",
        name=dataset.name,
        num_classes=dataset.num_classes,
        parts=dataset.parts,
        dealt=dataset.dealt,
    )


def _check_common(configs: Sequence[Config]) -> None:
    """Refuses runs that cannot share a program."""

    def fixed(config: Config) -> dict[str, Any]:
        values = common(config).to_dict()
        return values | values.pop("method_settings")

    first = fixed(configs[0])
    for config in configs[1:]:
        other = fixed(config)
        for name, value in first.items():
            if other.get(name) != value:
                raise UsageError(
                    f"Config.{name} must be the same for all runs of a program, got {value!r} and "
                    f"{other.get(name)!r}"
                )


def _deal_samples(config: Config, dataset: Dataset) -> Partition:
    return partition.make(
        config.partition,
        dataset.labels,
        config.num_clients,
        alpha=config.alpha,
        classes_per_client=config.classes_per_client,
        min_samples=config.min_samples,
        train_fraction=config.train_fraction,
        seed=config.seed,
        num_classes=dataset.num_classes,
    )


def class_counts(
    config: Config, parts: Partition, labels: np.ndarray, num_classes: int
) -> np.ndarray:
    """`[num_clients, num_classes]` int32, samples of each class that are trained on."""
    used = parts._replace(train_count=client.usable(parts.train_count, config))
    return metrics.class_counts(used, labels, num_classes).astype(np.int32)


def shared_name(config: Config, method: methods.Method, family: Sequence[str]) -> str | None:
    """The name of the shared model, or `private`; None if the method has none.

    Raises:
      UsageError: the method needs one architecture for all, and the family has several; or a model
        is asked for that there is not, or for which the method has no place.
    """
    name = method.shared.architecture if method.shared else None
    if config.shared_model != "family":
        if name != "family":
            raise UsageError(
                f"Config.shared_model must be family for method {config.method}, which shares no "
                f"model that could be chosen, got {config.shared_model!r}"
            )
        with naming("Config.shared_model"):
            return models.resolve(config.shared_model)
    if name == "private" and len(set(family)) > 1:
        raise UsageError(
            f"--family must be one model for method {config.method}, which averages whole models, "
            f"got {config.family!r} with {', '.join(dict.fromkeys(family))}"
        )
    if name == "family":
        return models.shared_model(config.family)
    return name


@contextlib.contextmanager
def naming(field: str) -> Iterator[None]:
    """Puts the name of the setting in front of what a room that does not know it complains of."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{field}: {error}") from error
