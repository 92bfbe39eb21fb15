"""What is measured, made ready: federations that hold random samples, and one client's steps.

All that the bench knows of how a simulation is made and run stands here. What is prepared stays in
this module, in whichever process it is, so that its calls can take turns with others'.
"""

import functools
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from protonorm_jax import methods, models
from protonorm_jax.config import Config
from protonorm_jax.engine.client import local_update
from protonorm_jax.planning import devices, targets
from protonorm_jax.running import driver
from protonorm_jax.types import ClientData, Dataset, Model, Models, Prototypes

from . import processes, timing

BATCH_SIZE = 32
FEATURE_DIM = 512
NUM_CLASSES = 10
SHAPES = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar": (32, 32, 3)}


class Federation(NamedTuple):
    """What one program trains.

    Attributes:
      family: of models.
      num_clients: of each run.
      num_runs: in the program, with seeds from 0 on.
      num_devices: to use; 0 for all.
      train_samples: of each client.
      test_samples: of each client.
      images: a key of `SHAPES`.
      last_batch: as in `Config`.
      method: as in `Config`.
      participation: as in `Config`.
    """

    family: str
    num_clients: int
    num_runs: int = 1
    num_devices: int = 1
    train_samples: int = 64
    test_samples: int = 21
    images: str = "digits"
    last_batch: str = "mask"
    method: str = "protonorm"
    participation: float = 1.0

    def __str__(self) -> str:
        runs = "1 run" if self.num_runs == 1 else f"{self.num_runs} runs"
        return f"{self.family}, {self.num_clients} clients, {runs}"

    @property
    def architectures(self) -> list[str]:
        """Of every client."""
        names = models.family(self.family)
        return [names[client % len(names)] for client in range(self.num_clients)]

    @property
    def train_steps(self) -> int:
        """Of all clients together in a round of one run."""
        return self.num_clients * (self.train_samples // BATCH_SIZE)

    @property
    def participants(self) -> int:
        """Clients that train in a round of one run."""
        return max(round(self.participation * self.num_clients), 1)

    @property
    def rounds(self) -> int:
        """Rounds in a call where the call itself, a millisecond, is not to be measured."""
        return min(max(200 // self.participants, 2), 50)


def paper(family: str, num_clients: int, num_devices: int) -> Federation:
    """The paper's setting, with fewer samples."""
    return Federation(family, num_clients, 1, num_devices, 128, 64, "cifar", last_batch="drop")


def random_samples(count: int, images: str) -> tuple[np.ndarray, np.ndarray]:
    """So many random images and labels; `images` is a key of `SHAPES`."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, *SHAPES[images]), dtype=np.uint8)
    return pixels, rng.integers(0, NUM_CLASSES, count, dtype=np.int32)


def random_dataset(federation: Federation) -> Dataset:
    """As many random images as all clients of a run need."""
    count = (federation.train_samples + federation.test_samples) * federation.num_clients
    return Dataset(*random_samples(count, federation.images), NUM_CLASSES, "random")


def compiled(federation: Federation) -> driver.Simulation:
    """Plans and compiles it.

    Raises:
      ValueError: the clients do not hold the samples that they should.
    """
    counts = federation.train_samples, federation.test_samples
    config = Config(
        method=federation.method,
        family=federation.family,
        num_clients=federation.num_clients,
        partition="iid",
        # Half a sample more than wanted: the share is rounded down.
        train_fraction=(counts[0] + 0.5) / sum(counts),
        batch_size=BATCH_SIZE,
        last_batch=federation.last_batch,
        devices=federation.num_devices,
        participation=federation.participation,
    )
    simulation = driver.prepare(
        [config.replace(seed=seed) for seed in range(federation.num_runs)],
        random_dataset(federation),
        runs_per_program=federation.num_runs,
    )
    for run in simulation.plan.runs:
        pairs = zip(run.partition.train_count, run.partition.test_count, strict=True)
        if (found := set(pairs)) != {counts}:
            raise ValueError(f"clients must hold {counts} samples, got {found}")
    return simulation


class Running:
    """A compiled simulation between two rounds, from its first round on."""

    def __init__(self, simulation: driver.Simulation) -> None:
        self.simulation = simulation
        self._inputs = simulation.put(simulation.inputs(0))
        self._states = simulation.init(self._inputs)

    def advance(self, num_rounds: int = 1) -> None:
        """Runs so many rounds and evaluates all runs after the last.

        Raises:
          UsageError: the training has diverged.
        """
        self._states, reports = self.simulation.advance(self._states, self._inputs, num_rounds)
        for run, report in zip(self.simulation.plan.runs, reports, strict=True):
            driver.check_finite(run.config, report)

    def train(self, num_rounds: int) -> None:
        """Runs so many rounds, and evaluates nobody."""
        self._states, _ = self.simulation.advance(self._states, self._inputs, num_rounds, False)


_running: dict[Federation, Running] = {}
_lean: dict[Federation, Callable[[], None]] = {}


def prepare(federation: Federation) -> dict[str, Any]:
    """Compiles a simulation and runs one round; returns its sizes and what that took."""
    peak, cpu_start = processes.peak_bytes(), time.process_time()
    simulation = compiled(federation)
    figures = {**sizes(simulation), "compile_cpu_seconds": time.process_time() - cpu_start}
    _running[federation] = Running(simulation)
    _running[federation].advance()
    return figures | {"peak_growth_bytes": processes.peak_bytes() - peak}


def time_round(federation: Federation) -> timing.Times:
    """The times of one round of all runs of a prepared simulation, with evaluation."""
    return timing.clock(_running[federation].advance)


def time_rounds(federation: Federation) -> timing.Times:
    """The times of a round of a prepared simulation among many, without evaluation."""
    train = functools.partial(_running[federation].train, federation.rounds)
    return timing.clock(train).over(federation.rounds)


def prepare_lean(federation: Federation) -> None:
    """Compiles the rounds of a program of the same steps without an engine, and makes them once."""
    (name,) = set(federation.architectures)
    net = models.build(
        name,
        num_classes=NUM_CLASSES,
        feature_dim=FEATURE_DIM,
        image_shape=SHAPES[federation.images],
        form="canonical" if jax.default_backend() == "cpu" else "im2col",
    )
    count, steps = federation.num_clients, federation.train_samples // BATCH_SIZE
    images, labels = map(
        jnp.asarray, random_samples(count * federation.train_samples, federation.images)
    )
    rows = jnp.arange(len(labels)).reshape(count, steps, BATCH_SIZE)

    def step(variables: Any, batch: jax.Array) -> tuple[Any, jax.Array]:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            pixels = images[batch].astype(jnp.float32) / 127.5 - 1.0
            outputs, new = net.apply(variables | {"params": params}, pixels, train=True)
            wanted = jax.nn.one_hot(labels[batch], NUM_CLASSES)
            return optax.softmax_cross_entropy(outputs.logits, wanted).mean(), new

        (value, new), slope = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        params = jax.tree.map(lambda leaf, one: leaf - 0.01 * one, variables["params"], slope)
        return new | {"params": params}, value

    def one_round(index: jax.Array, clients: Any) -> Any:
        chosen = (jnp.arange(federation.participants) + index) % count
        own = jax.tree.map(lambda leaf: leaf[chosen], (clients, rows))
        trained, _ = jax.lax.map(lambda given: jax.lax.scan(step, *given), own)
        return jax.tree.map(lambda leaf, some: leaf.at[chosen].set(some), clients, trained)

    init = jax.jit(lambda keys: jax.lax.map(net.init, keys))
    rounds = jax.jit(
        lambda clients: jax.lax.fori_loop(0, federation.rounds, one_round, clients),
        donate_argnums=0,
    )
    clients = [init(jax.random.split(jax.random.key(0), count))]

    def train() -> None:
        clients[0] = jax.block_until_ready(rounds(clients[0]))

    train()
    _lean[federation] = train


def time_lean(federation: Federation) -> timing.Times:
    """The times of a round among many of what `prepare_lean` made."""
    return timing.clock(_lean[federation]).over(federation.rounds)


def forget(*federations: Federation) -> None:
    """Frees federations that were prepared in this process; without any, all."""
    for federation in federations or list(_running):
        del _running[federation]
        _lean.pop(federation, None)


def sizes(simulation: driver.Simulation) -> dict[str, Any]:
    """Of the program, and of its parts on each device."""
    plan = simulation.plan
    # One stack of clients for each architecture, in order of first appearance; leaves are
    # [devices, runs, slots, ...], and some slots may be empty.
    groups = zip(dict.fromkeys(plan.architectures), simulation.shapes.clients, strict=True)
    model_bytes = sum(
        plan.architectures.count(name) * math.prod(leaf.shape[3:]) * leaf.dtype.itemsize
        for name, clients in groups
        for leaf in jax.tree.leaves(clients)
    )
    return {
        "num_clients": len(plan.architectures),
        "num_runs": plan.runs_per_program,
        "num_devices": len(plan.devices),
        "runs_each": plan.spread.runs_each,
        "compile_seconds": simulation.compile_seconds,
        "data_bytes": plan.dataset.images.nbytes + plan.dataset.labels.nbytes,
        "model_bytes": plan.runs_per_program * model_bytes // len(plan.devices),
        "needed_bytes": simulation.bytes_per_device,
        "estimate_bytes": plan.memory.total(),
        "estimate_parts": plan.memory._asdict(),
    }


def child(stack: ExitStack, *, one_core: bool = False, num_devices: int = 0) -> processes.Call:
    """Where jax runs: on CPU a process of its own, which has so many devices; else this process.

    An accelerator serves one process at a time. The process ends with `stack`.
    """
    if jax.default_backend() != "cpu":
        return lambda function, *arguments: function(*arguments)
    call = stack.enter_context(processes.child(one_core=one_core))
    call(targets.leave_out_absent)
    if num_devices:
        call(devices.prepare_cpu, num_devices)
    return call


def model(architecture: str, form: str) -> Model:
    """For images of CIFAR's shape."""
    return models.build(
        architecture,
        num_classes=NUM_CLASSES,
        feature_dim=FEATURE_DIM,
        image_shape=SHAPES["cifar"],
        form=form,
    )


_train: list[Callable[[], Any]] = []  # At most one: the steps that were prepared last.


def prepare_steps(architecture: str, num_steps: int, num_devices: int) -> dict[str, float]:
    """Compiles `num_steps` steps of `local_update` in one call, and makes the first call.

    Each device trains a client of its own, all of them at the same time, as in a simulation.
    Returns MiB of temporaries on a device, and seconds of compilation.
    """
    settings = {"batch_size": BATCH_SIZE, "last_batch": "drop", "shuffle": False}
    config = Config(num_clients=1, **settings, method_settings={"collect": "during"})
    setup = methods.Setup(NUM_CLASSES, FEATURE_DIM, 1, config.rounds, BATCH_SIZE)
    method = methods.build(config.method, setup, config.method_settings)
    nets = Models(model(architecture, "auto"))
    chosen = devices.choose(num_devices)
    images, labels = random_samples(num_steps * BATCH_SIZE, "cifar")
    data = ClientData(images, labels, jnp.arange(len(labels)), np.int32(len(labels)))
    own = methods.settings_of(config.method, config.method_settings)
    counts = jnp.bincount(labels, length=NUM_CLASSES)[None]
    round = methods.Round(jnp.int32(1), jnp.float32(0.01), jax.tree.map(jnp.float32, own), counts)
    server = Prototypes(jnp.eye(NUM_CLASSES, FEATURE_DIM), jnp.ones(NUM_CLASSES, bool))
    down, _ = method.broadcast(server, round)
    variables = jax.jit(nets.private.init)(jax.random.key(1))
    client = method.init_client(jax.random.key(2), variables, server, nets, counts[0])

    update = functools.partial(local_update, models=nets, method=method, config=config)
    mapped = jax.pmap(update, in_axes=(None, 0, None, None, None), devices=chosen, donate_argnums=1)
    mesh = jax.sharding.Mesh(np.array(chosen), ("devices",))
    everywhere, spread = (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
        for axes in ((), ("devices",))
    )
    clients = jax.tree.map(lambda leaf: np.stack([leaf] * num_devices), client)
    state = [jax.device_put(clients, spread)]
    key, *rest = jax.device_put((jax.random.key(3), down, data, round), everywhere)
    program, seconds = timing.compile_program(mapped, key, state[0], *rest)

    def train() -> dict[str, Any]:
        state[0], _, info = program(key, state[0], *rest)
        return jax.block_until_ready(info)

    if not train()["finite"].all():
        raise FloatingPointError(f"{architecture} diverged")
    _train[:] = [train]
    return {"temp_mib": program.memory_analysis().temp_size_in_bytes / 2**20, **seconds}


def time_steps(num_steps: int) -> timing.Times:
    """Makes one call of what was prepared last; the times of one of its `num_steps` steps."""
    return timing.clock(_train[0]).over(num_steps)
