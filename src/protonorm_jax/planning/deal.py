"""Who has what: data, samples and architectures, dealt to the clients of a program's runs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from protonorm_jax import methods, metrics, models, settings
from protonorm_jax.config import PARTITIONS, Config
from protonorm_jax.engine import client
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import samples
from protonorm_jax.planning.samples import naming as naming
from protonorm_jax.types import Dataset, Partition, Scored

_VARIED = (
    "seed",
    "partition",
    "alpha",
    "classes_per_client",
    "min_samples",
    "train_fraction",
    "sizes",
    "pooled_clients",
    "learning_rate",
    "schedule",
    "participation",
    "dropout",
    "straggler_work",
)

# Runs may differ in these as well, but not in whether they are zero: what is off is left out of
# the program.
_SWITCHED = (
    *("validation_fraction", "momentum", "weight_decay", "clip_norm", "failures", "stragglers"),
)


def varied(method: str) -> tuple[str, ...]:
    """The settings in which runs may differ that share a program.

    What deals the samples, and what is traced, among it settings of the method. All others are
    fixed when the program is compiled.
    """
    return _VARIED + _SWITCHED + settings.traced(settings.groups()[method])


def common(config: Config) -> Config:
    """The config with all that runs of a program may differ in at its default, or switched on."""
    plain = Config(method=config.method, fidelity=config.fidelity)
    # A file or the data themselves say how many clients there are.
    asked = config.partition in PARTITIONS
    names = [name for name in _VARIED if asked or name != "partition"]
    defaults = {name: getattr(plain, name) for name in names}
    defaults |= {name: 0.5 if getattr(config, name) else 0.0 for name in _SWITCHED}
    traced = settings.traced(settings.groups()[config.method])
    return config.replace(**defaults, **{name: plain.method_settings[name] for name in traced})


class Dealt(NamedTuple):
    """Who has what, before it is known on which devices.

    Attributes:
      shares: of each run.
      dataset: all samples.
      setup: the sizes that the method was made for.
      method: the federated method.
      architectures: `[num_clients]` names of models.
      step_cost: by name of a model, expected time of a step.
      steps: of each run, `[num_clients]` training steps a round.
    """

    shares: list[samples.Share]
    dataset: Dataset
    setup: methods.Setup
    method: methods.Method
    architectures: tuple[str, ...]
    step_cost: dict[str, float]
    steps: list[np.ndarray]

    @property
    def config(self) -> Config:
        """The settings of the first run, which are those of all but for what may vary."""
        return self.shares[0].config

    @property
    def partitions(self) -> list[Partition]:
        """Of each run."""
        return [one.partition for one in self.shares]

    @property
    def scored(self) -> list[Scored]:
        """Of each run."""
        return [one.scored for one in self.shares]


def deal(configs: Sequence[Config], dataset: Dataset | samples.DataSets | None = None) -> Dealt:
    """Loads the data, and deals samples and architectures to the clients of all runs.

    Args:
      configs: one for each run.
      dataset: used instead of loading `Config.data`; or where to get that from.

    Raises:
      UsageError: runs that cannot share a program, or a setting, file or data set that cannot be
        used.
    """
    _check_common(configs)
    sets = dataset if isinstance(dataset, samples.DataSets) else samples.DataSets(dataset)
    selected = sets.of(configs[0])
    shares = [samples.share(one, selected) for one in configs]
    configs = [one.config for one in shares]
    _check_common(configs)
    config, dataset = configs[0], selected.dataset
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
    partitions = [one.partition for one in shares]
    counts = [one.train_count for one in partitions]
    steps = [client.num_steps(one, config, method.reserve) for one in counts]
    _check_someone_trains(config, partitions, steps)
    return Dealt(shares, dataset, setup, method, architectures, costs, steps)


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


def _check_someone_trains(
    config: Config, partitions: Sequence[Partition], steps: Sequence[np.ndarray]
) -> None:
    """Refuses runs in which no client has a whole batch, and incomplete ones are dropped."""
    for parts, of_clients in zip(partitions, steps, strict=True):
        most = parts.train_count.max()
        if config.last_batch == "drop" and not of_clients.any():
            raise UsageError(
                f"Config.batch_size must be <= {most}, the most training samples of a client, with "
                f"last_batch drop, got {config.batch_size}"
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
