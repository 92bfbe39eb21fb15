"""From a config to a finished run: data, layout, compilation, the loop over rounds."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from protonorm_jax import (
    data,
    devices,
    keys,
    layout,
    local,
    methods,
    metrics,
    models,
    partition,
    simulate,
)
from protonorm_jax.config import Config
from protonorm_jax.data import checks
from protonorm_jax.errors import UsageError
from protonorm_jax.types import Dataset, Prototypes

GIB = 2**30


class Simulation(NamedTuple):
    """A compiled simulation.

    Attributes:
      config: its settings.
      init: `(key) -> state`.
      advance: `(state, num_rounds) -> (state, report)`; the state passed in is used up.
      partition: who holds which samples.
      majority_accuracy: the yardstick, see `metrics.majority_accuracy`.
      architectures: `[num_clients]` names of models.
      devices: those in use.
      efficiency: how well they are used, see `layout.efficiency`.
      bytes_per_device: memory that the program needs on each.
      compile_seconds: spent tracing and compiling.
    """

    config: Config
    init: Callable[[jax.Array], simulate.State]
    advance: Callable[[simulate.State, int], tuple[simulate.State, dict[str, Any]]]
    partition: partition.Partition
    majority_accuracy: float
    architectures: tuple[str, ...]
    devices: list[jax.Device]
    efficiency: layout.Efficiency
    bytes_per_device: int
    compile_seconds: float


class Evaluation(NamedTuple):
    """What is known after an evaluated round.

    Attributes:
      row: the numbers, JSON-ready, see `metrics.row`.
      arrays: numpy arrays of the server: `prototypes` `[C, D]` and `known` `[C]` as sent to the
        clients, `class_means` `[C, D]` before alignment; empty for methods without prototypes.
      seconds: spent running, compilation not counted.
    """

    row: dict[str, Any]
    arrays: dict[str, np.ndarray]
    seconds: float


class History(NamedTuple):
    """A finished run.

    Attributes:
      config: its settings.
      rows: one dict for each evaluated round.
      summary: last and best figures, the yardstick and the times.
      arrays: of the last evaluation.
    """

    config: Config
    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    arrays: dict[str, np.ndarray]


def run(
    config: Config,
    *,
    dataset: Dataset | None = None,
    on_start: Callable[[Simulation], None] | None = None,
    on_evaluation: Callable[[Evaluation], None] | None = None,
) -> History:
    """Runs a whole simulation.

    Args:
      config: all settings.
      dataset: used instead of loading `config.data`.
      on_start: called once everything is compiled.
      on_evaluation: called after every evaluated round.

    Raises:
      UsageError: a setting, file or data set that cannot be used, too little memory, or a loss
        that is not finite.
    """
    simulation = prepare(config, dataset)
    if on_start:
        on_start(simulation)
    evaluations = []
    start = time.perf_counter()
    state = simulation.init(keys.root(config.seed))
    for rounds in _calls(config):
        state, report = simulation.advance(state, rounds)
        check_finite(config, state)
        row = metrics.row(int(state.round_index), report, simulation.partition.test_count)
        evaluation = Evaluation(row, _arrays(state, report), time.perf_counter() - start)
        evaluations.append(evaluation)
        if on_evaluation:
            on_evaluation(evaluation)
    return history(simulation, evaluations)


def history(simulation: Simulation, evaluations: list[Evaluation]) -> History:
    """Sums up the evaluations of a run, finished or not."""
    rows = [evaluation.row for evaluation in evaluations]
    last = evaluations[-1] if evaluations else Evaluation({}, {}, 0.0)
    summary = {
        "method": simulation.config.method,
        **metrics.summary(rows),
        "majority_accuracy": simulation.majority_accuracy,
        "seconds": last.seconds,
        "compile_seconds": simulation.compile_seconds,
    }
    return History(simulation.config, rows, summary, last.arrays)


class Plan(NamedTuple):
    """A run before anything is compiled.

    Attributes:
      program: the static part of the simulation.
      dataset: all samples.
      partition: who holds which.
      architectures: `[num_clients]` names of models.
      devices: those to use.
      efficiency: how well they are used.
    """

    program: simulate.Program
    dataset: Dataset
    partition: partition.Partition
    architectures: tuple[str, ...]
    devices: list[jax.Device]
    efficiency: layout.Efficiency


def prepare(config: Config, dataset: Dataset | None = None) -> Simulation:
    """Loads the data, deals it to the clients and compiles the simulation.

    Args:
      config: all settings.
      dataset: used instead of loading `config.data`.

    Raises:
      UsageError: a setting, file or data set that cannot be used, or too little memory.
    """
    return _compile(plan(config, dataset))


def plan(config: Config, dataset: Dataset | None = None) -> Plan:
    """Loads the data and deals it to the clients and the clients to the devices.

    Args:
      config: all settings.
      dataset: used instead of loading `config.data`.

    Raises:
      UsageError: a setting, file or data set that cannot be used.
    """
    if dataset is None:
        dataset = data.load(config.data)
    dataset = checks.dataset(
        dataset.images,
        dataset.labels,
        origin="dataset",
        name=dataset.name,
        num_classes=dataset.num_classes,
    )
    devices.prepare_cpu(config.devices or min(devices.num_cores(), config.num_clients))
    chosen = devices.choose(config.devices)
    parts = partition.make(
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
    with _naming("Config.family"):
        family = models.family(config.family)
    architectures = tuple(family[i % len(family)] for i in range(config.num_clients))
    one_at_a_time = chosen[0].platform == "cpu"
    steps = local.num_steps(parts.train_count, config)
    step_cost = [models.step_cost(name) for name in architectures]
    arrangement = layout.arrange(
        architectures,
        steps,
        step_cost,
        num_devices=len(chosen),
        vmap_clients=config.vmap_clients or (1 if one_at_a_time else 0),
    )
    with _naming("Config.family"):
        built = tuple(
            models.build(
                group.architecture,
                num_classes=dataset.num_classes,
                feature_dim=config.feature_dim,
                image_shape=dataset.images.shape[1:],
                convolution="canonical" if group.chunk == 1 and one_at_a_time else "im2col",
                precision=config.precision,
            )
            for group in arrangement.groups
        )
    method = methods.build(
        config.method,
        num_classes=dataset.num_classes,
        feature_dim=config.feature_dim,
        align=config.align,
        weighting=config.weighting,
    )
    program = simulate.Program(config, method, built, arrangement)
    efficiency = layout.efficiency(arrangement, steps, step_cost)
    return Plan(program, dataset, parts, architectures, chosen, efficiency)


@contextlib.contextmanager
def _naming(field: str) -> Iterator[None]:
    """Puts the name of the setting in front of what a room that does not know it complains of."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{field}: {error}") from error


def hyperparameters(config: Config, method: methods.Method) -> dict[str, float]:
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


def _compile(plan: Plan) -> Simulation:
    """Puts the data on the devices and compiles both programs ahead of time."""
    program, dataset, parts, architectures, chosen, efficiency = plan
    config = program.config
    mesh = jax.sharding.Mesh(np.array(chosen), (simulate.AXIS,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(simulate.AXIS))
    members = jax.device_put(layout.members_of(program.layout, parts), spread)
    samples = simulate.Samples(
        jax.device_put(dataset.images, everywhere), jax.device_put(dataset.labels, everywhere)
    )
    traced = jax.device_put(
        jax.tree.map(np.float32, hyperparameters(config, program.method)), everywhere
    )
    by_device = simulate.State._make((0, None, None, None, None))  # Only clients differ.
    pmap = functools.partial(jax.pmap, axis_name=simulate.AXIS, devices=chosen)

    start = time.perf_counter()
    init = pmap(functools.partial(simulate.init, program), in_axes=(0, None), out_axes=by_device)
    advance = pmap(
        functools.partial(simulate.advance, program),
        in_axes=(by_device, 0, None, None, None),
        out_axes=(by_device, None),
        donate_argnums=0,
    )
    key = jax.device_put(keys.root(config.seed), everywhere)
    compiled_init = init.lower(members, key).compile()
    state = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(init, members, key),
        compiled_init.output_shardings,
    )
    rounds = jax.device_put(np.int32(1), everywhere)
    # By default XLA leaves out roundings to bfloat16 where it can, which depends on the layout of
    # the clients; the bits would differ with the number of devices.
    options = {"xla_allow_excess_precision": False} if config.precision == "bfloat16" else None
    compiled = advance.lower(state, members, samples, traced, rounds).compile(options)
    compile_seconds = time.perf_counter() - start

    usage = compiled.memory_analysis()
    needed = usage.argument_size_in_bytes + usage.temp_size_in_bytes
    free = devices.free_bytes(chosen)
    if needed > free:
        raise UsageError(
            f"memory must be >= {needed / GIB:.2f} GiB on each device for num_clients = "
            f"{config.num_clients}, family = {config.family} and batch_size = "
            f"{config.batch_size}, got {free / GIB:.2f} GiB free"
        )

    def run_init(key: jax.Array) -> simulate.State:
        return compiled_init(members, jax.device_put(key, everywhere))

    def run_advance(state: simulate.State, num_rounds: int) -> tuple[simulate.State, Any]:
        rounds = jax.device_put(np.int32(num_rounds), everywhere)
        state, report = compiled(state, members, samples, traced, rounds)
        # Waiting also keeps two programs with collectives from being in flight at once. It is done
        # in naps, between which Python sees Ctrl-C.
        while not state.round_index.is_ready():  # type: ignore[attr-defined]
            time.sleep(0.001)
        return jax.block_until_ready(state), jax.device_get(report)

    return Simulation(
        config=config,
        init=run_init,
        advance=run_advance,
        partition=parts,
        majority_accuracy=metrics.majority_accuracy(parts, dataset.labels, dataset.num_classes),
        architectures=architectures,
        devices=chosen,
        efficiency=efficiency,
        bytes_per_device=needed,
        compile_seconds=compile_seconds,
    )


def _calls(config: Config) -> list[int]:
    """How many rounds each call runs: up to the next evaluation, or to the end."""
    whole, rest = divmod(config.rounds, config.eval_every)
    return [config.eval_every] * whole + [rest] * (rest > 0)


def check_finite(config: Config, state: simulate.State) -> None:
    """Stops a run that has diverged.

    Raises:
      UsageError: a client's loss or upload was not finite; names the first round and client.
    """
    diverged = np.asarray(state.diverged)
    if (diverged < 0).all():
        return
    first = diverged[diverged >= 0].min()
    client = int(np.flatnonzero(diverged == first)[0])
    raise UsageError(
        f"loss must be finite, got a value that is not from client {client} in round {first + 1}; "
        f"learning_rate = {config.learning_rate} may be too high"
    )


def _arrays(state: simulate.State, report: dict[str, Any]) -> dict[str, np.ndarray]:
    """The server's arrays after a call, see `Evaluation`."""
    arrays = {name: value for name, value in report["server"].items() if np.ndim(value) > 0}
    if isinstance(state.server, Prototypes):
        arrays["prototypes"] = np.asarray(state.server.vectors)
        arrays["known"] = np.asarray(state.server.known)
    return arrays
