"""Everything that is settled before anything is compiled: data, clients, devices, memory."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax

from protonorm_jax import data, keys, methods, models, partition
from protonorm_jax.config import Config
from protonorm_jax.data import checks
from protonorm_jax.engine import client, simulate
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import devices, layout, memory
from protonorm_jax.types import Client, Dataset, Model, Partition

GIB = 2**30
VARIED = (
    "seed",
    "partition",
    "alpha",
    "classes_per_client",
    "min_samples",
    "train_fraction",
    "proximity",
    "scale",
    "learning_rate",
    "participation",
    "dropout",
)
"""The settings in which runs may differ that share a program: what deals the samples, and what is
traced. All others are fixed when the program is compiled."""


class Run(NamedTuple):
    """One run of a program.

    Attributes:
      config: its settings.
      partition: who holds which samples.
      layout: which client is where, on the devices of this run.
      hyperparameters: its traced scalars.
    """

    config: Config
    partition: Partition
    layout: layout.Layout
    hyperparameters: dict[str, float]


class Plan(NamedTuple):
    """Runs that share a compiled program.

    Attributes:
      program: the static part of the simulation.
      dataset: all samples.
      runs: in the order asked for; `runs_per_program` at a time.
      runs_per_program: how many runs one call of the program advances.
      architectures: `[num_clients]` names of models.
      devices: those to use.
      spread: of the runs over devices.
      efficiency: how well the devices are used.
      memory: expected need.
    """

    program: simulate.Program
    dataset: Dataset
    runs: tuple[Run, ...]
    runs_per_program: int
    architectures: tuple[str, ...]
    devices: list[jax.Device]
    spread: layout.Spread
    efficiency: layout.Efficiency
    memory: memory.Memory


def make(
    configs: Sequence[Config],
    dataset: Dataset | None = None,
    *,
    runs_per_program: int = 0,
    vmap_runs: int = 0,
) -> Plan:
    """Loads the data, deals it to the clients, and runs and clients to the devices.

    Args:
      configs: one for each run; they differ in settings of `VARIED` only.
      dataset: used instead of loading `Config.data`.
      runs_per_program: how many runs one call of the program advances. 0 chooses: on CPU as many
        as there are devices, on GPU and TPU all that are expected to fit into memory.
      vmap_runs: of these, how many a device trains in one vmapped program. 0 chooses: 1 on CPU,
        all that a device has on GPU and TPU.

    Raises:
      UsageError: a setting, file or data set that cannot be used, or too little memory.
    """
    config = configs[0]
    for other in configs:
        for name, value in config.to_dict().items():
            if name not in VARIED and getattr(other, name) != value:
                raise UsageError(
                    f"Config.{name} must be the same for all runs of a program, got {value!r} and "
                    f"{getattr(other, name)!r}"
                )
    if dataset is None:
        dataset = data.load(config.data)
    dataset = checks.dataset(
        dataset.images,
        dataset.labels,
        origin="dataset",
        name=dataset.name,
        num_classes=dataset.num_classes,
    )
    num_places = config.num_clients * len(configs)
    devices.prepare_cpu(config.devices or min(devices.num_cores(), num_places))
    chosen = devices.choose(config.devices)
    one_at_a_time = _by_turns(chosen)
    with _naming("Config.family"):
        family = models.family(config.family)
        costs = {name: models.step_cost(name) for name in family}
    architectures = tuple(family[i % len(family)] for i in range(config.num_clients))
    method = methods.build(
        config.method,
        num_classes=dataset.num_classes,
        feature_dim=config.feature_dim,
        align=config.align,
        weighting=config.weighting,
    )
    hyperparameters = [_hyperparameters(one, method) for one in configs]
    partitions = [_deal(one, dataset) for one in configs]
    steps = [client.num_steps(parts.train_count, config) for parts in partitions]

    def planned(count: int) -> Plan:
        """The plan with `count` runs in a program."""
        spread = layout.spread(count, len(chosen), vmap_runs or (1 if one_at_a_time else 0))
        layouts = [
            layout.arrange(
                architectures,
                one,
                [costs[name] for name in architectures],
                num_devices=spread.client_devices,
                vmap_clients=config.vmap_clients or (1 if one_at_a_time else 0),
            )
            for one in steps
        ]
        calls = range(0, len(configs), count)
        work = layout.work_of(
            [layouts[i : i + count] for i in calls], [steps[i : i + count] for i in calls], spread
        )
        widths = layout.choose_widths(work)
        groups = layouts[0].groups
        with _naming("Config.family"):
            built = tuple(
                models.build(
                    group.architecture,
                    num_classes=dataset.num_classes,
                    feature_dim=config.feature_dim,
                    image_shape=dataset.images.shape[1:],
                    convolution="canonical"
                    if one_at_a_time and group.chunk == spread.vmap_runs == 1
                    else "im2col",
                    precision=config.precision,
                )
                for group in groups
            )
        program = simulate.Program(
            config,
            method,
            tuple(
                simulate.Group(model, _client(method, model), group.chunk, narrowing)
                for model, group, narrowing in zip(built, groups, widths, strict=True)
            ),
            spread.client_devices,
            spread.vmap_runs,
        )
        runs = tuple(
            Run(*parts) for parts in zip(configs, partitions, layouts, hyperparameters, strict=True)
        )
        return Plan(
            program=program,
            dataset=dataset,
            runs=runs,
            runs_per_program=count,
            architectures=architectures,
            devices=chosen[: spread.run_devices * spread.client_devices],
            spread=spread,
            efficiency=layout.efficiency(work, widths, costs),
            memory=memory.expected(
                program,
                dataset,
                spread,
                slots=[group.client_ids.shape[1] for group in groups],
                lengths=layout.longest(layouts, partitions),
                hyperparameters=tuple(hyperparameters[0]),
            ),
        )

    wanted = runs_per_program or (len(chosen) if one_at_a_time else len(configs))
    result = planned(min(wanted, len(configs)))
    free = devices.free_bytes(chosen)
    while not runs_per_program and result.memory.total() > free and result.runs_per_program > 1:
        result = planned(max(result.runs_per_program // 2, 1))
    check_memory(result, result.memory.total(), "an expected")
    return result


def check_memory(plan: Plan, needed: int, how: str) -> None:
    """Compares a need with what is free.

    Args:
      plan: whose.
      needed: bytes on each device.
      how: the words before the amount, such as "an expected".

    Raises:
      UsageError: it does not fit.
    """
    free = devices.free_bytes(plan.devices)
    if needed > free:
        config = plan.program.config
        runs = f"runs_per_program = {plan.runs_per_program}, " if len(plan.runs) > 1 else ""
        raise UsageError(
            f"memory must be >= {how} {needed / GIB:.2f} GiB on each device for {runs}num_clients "
            f"= {config.num_clients}, family = {config.family} and batch_size = "
            f"{config.batch_size}, got {free / GIB:.2f} GiB free"
        )


def _by_turns(chosen: list[jax.Device]) -> bool:
    """Whether clients and runs train one after the other, which is faster than vmapped on CPU."""
    return chosen[0].platform == "cpu"


def _deal(config: Config, dataset: Dataset) -> Partition:
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


@contextlib.contextmanager
def _naming(field: str) -> Iterator[None]:
    """Puts the name of the setting in front of what a room that does not know it complains of."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{field}: {error}") from error


def _hyperparameters(config: Config, method: methods.Method) -> dict[str, float]:
    """The traced scalars of a run: the method's defaults, and what the config says otherwise.

    Raises:
      UsageError: the config sets one that the method does not have.
    """
    result = dict(method.hyperparameters)
    for name in ("proximity", "scale"):
        value = getattr(config, name)
        if value is not None and name not in result:
            raise UsageError(
                f"Config.{name} must be left out for method {config.method}, got {value}"
            )
        if value is not None:
            result[name] = value
    shared = ("learning_rate", "participation", "dropout")
    return result | {name: getattr(config, name) for name in shared}


def _client(method: methods.Method, model: Model) -> Client:
    """Shapes and dtypes of what a client keeps."""

    def init(key: jax.Array) -> Client:
        return method.init_client(key, model.init(key), method.init_server(key))

    return jax.eval_shape(init, jax.eval_shape(lambda: keys.root(0)))
