"""What the server does in a round beyond averaging: training and decompositions, beside torch.

Uploads are random, of 20 clients who all hold all classes; one core for each side.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from protonorm_jax import methods, models
from protonorm_jax.methods.method import Received, Round
from protonorm_jax.methods.shared.class_table import ClassSums
from protonorm_jax.methods.table import checked_settings
from protonorm_jax.types import Models

from . import harness, processes, timing
from .tables import table, values

NUM_CLIENTS = 20
DIM = harness.FEATURE_DIM
BATCH_SIZE = harness.BATCH_SIZE


class Case(NamedTuple):
    """A method whose server works.

    Attributes:
      method: its name.
      num_classes: C.
      settings: where they are not the default.
      wanted: at most this share of torch's time.
      shared: the shared architecture, of methods that have one.
    """

    method: str
    num_classes: int
    settings: tuple[tuple[str, Any], ...] = ()
    wanted: float = 0.5
    shared: str = ""

    def __str__(self) -> str:
        return f"{self.method}, {self.shared or f'{self.num_classes} classes'}"


CASES = (
    Case("fedtgp", 10),
    Case("fedtgp", 100, wanted=1.0),
    Case("fedgh", 10, (("server_epochs", 100),)),
    Case("fedgen", 10),
    Case("fedkd", 10, shared="fedavg_cnn"),
    Case("fedkd", 10, shared="resnet8"),
)


def measure(
    cases: Sequence[Case] = CASES, repetitions: int = 5, *, beside_torch: bool
) -> dict[str, Any]:
    """The times of one round of the server's work, by turns with torch's."""
    figures: dict[str, Any] = {}
    with ExitStack() as stack:
        ours = harness.child(stack, one_core=True)
        theirs = stack.enter_context(processes.child(one_core=True)) if beside_torch else None
        for case in cases:
            row = figures[str(case)] = ours(prepare, case) | {"wanted": case.wanted}
            clocks = {"jax": functools.partial(ours, time_prepared)}
            if theirs:
                from . import torch_side

                theirs(torch_side.prepare_server, case)
                clocks["torch"] = functools.partial(theirs, torch_side.time_server)
            times = timing.medians(clocks, repetitions)
            row["cpu_milliseconds"] = {name: time.cpu for name, time in times.items()}
            row["torch_milliseconds"] = row["cpu_milliseconds"].get("torch")
            row["gigaflops"] = row["flops"] / times["jax"].cpu / 1e6
            row["jax_over_torch"] = (
                row["torch_milliseconds"] and times["jax"].cpu / row["torch_milliseconds"]
            )
    return figures


_prepared: list[Callable[[], Any]] = []  # At most one.


def prepare(case: Case) -> dict[str, float]:
    """Compiles the server's round; returns its floating-point operations, and compile seconds."""
    setup = methods.Setup(case.num_classes, DIM, NUM_CLIENTS, 100, BATCH_SIZE)
    own = checked_settings(case.method, dict(case.settings))
    method = methods.build(case.method, setup, vars(own))
    sizes = {"num_classes": case.num_classes, "feature_dim": DIM}
    sizes["image_shape"] = harness.SHAPES["cifar"]
    nets = Models(models.build("mlp", **sizes))
    if case.shared:
        nets = nets._replace(shared=models.build(case.shared, **sizes))
    key = jax.random.key(0)
    first = jax.jit(nets.private.init)(key)
    server = jax.jit(lambda key: method.init_server(key, nets, first))(key)
    counts = jnp.ones((NUM_CLIENTS, case.num_classes), jnp.int32)
    round = Round(jnp.int32(1), jnp.float32(0.01), jax.tree.map(jnp.float32, own), counts)
    received = Received(
        each=ClassSums(jnp.asarray(class_means(case)), jnp.ones(counts.shape)),
        mean=_mean(case, first, nets),
        arrived=jnp.ones(NUM_CLIENTS, bool),
        num_samples=jnp.full(NUM_CLIENTS, 100),
    )
    arguments = (key, server, received, round)
    program, seconds = timing.compile_program(jax.jit(method.aggregate), *arguments)
    _prepared[:] = [functools.partial(program, *arguments)]
    return {**seconds, "flops": flops(case, vars(own))}


def _mean(case: Case, first: Any, nets: Models) -> Any:
    """The average that arrives, of methods that take one."""
    if nets.shared is not None:
        return jax.jit(nets.shared.init)(jax.random.key(1))
    return first["params"]["head"]


def time_prepared() -> timing.Times:
    """The times of one round of what was prepared last."""
    return timing.clock(lambda: jax.block_until_ready(_prepared[0]()))


def class_means(case: Case) -> np.ndarray:
    """`[NUM_CLIENTS, C, DIM]` float32, random, apart by class."""
    rng = np.random.default_rng(0)
    shape = (NUM_CLIENTS, case.num_classes, DIM)
    own = rng.standard_normal(shape[1:])
    return (own + 0.3 * rng.standard_normal(shape)).astype(np.float32)


def flops(case: Case, settings: Mapping[str, Any]) -> float:
    """Of the matrix products of a training, forward and backward; 0 for a decomposition."""
    pairs = NUM_CLIENTS * case.num_classes
    if case.method == "fedtgp":
        layers = 2 * 2 * case.num_classes * DIM**2
        distances = 2 * BATCH_SIZE * case.num_classes * DIM
        return 3 * settings["server_epochs"] * -(-pairs // BATCH_SIZE) * (layers + distances)
    if case.method == "fedgh":
        return 3 * settings["server_epochs"] * 2 * pairs * case.num_classes * DIM
    if case.method == "fedgen":
        hidden = settings["hidden_dim"]
        inside = hidden * (settings["noise_dim"] + case.num_classes + DIM)
        products = inside + DIM * case.num_classes
        return 3 * settings["server_epochs"] * 2 * BATCH_SIZE * products
    return 0.0


def tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `measure`."""
    names = (
        "cpu_milliseconds.jax gigaflops compile_seconds torch_milliseconds jax_over_torch wanted"
    )
    return [
        table(
            f"The server's work in a round, {NUM_CLIENTS} clients, one core each side",
            "method | CPU ms:.3g | GFLOP/s:.1f | compile s:.1f | torch ms:.3g | jax / torch:.2f | "
            "wanted <=:.1f",
            [(name, *values(row, names)) for name, row in figures.items()],
            "GFLOP/s: of the matrix products alone; 0 for decompositions",
        )
    ]
