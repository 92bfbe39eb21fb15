"""How much memory a program will need, before it is compiled: counted from shapes, and traced."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from protonorm_jax import keys, methods
from protonorm_jax.engine.simulate import Architecture, Program
from protonorm_jax.methods import descent
from protonorm_jax.methods.method import Received, Round, Upload
from protonorm_jax.planning.layout import Spread
from protonorm_jax.types import Batch, Client, ClientData, Dataset


class Memory(NamedTuple):
    """What a program is expected to need on each device, in bytes.

    Attributes:
      samples: the data set, and who holds what.
      states: clients and servers of all runs.
      uploads: of all clients, as they come and put in order.
      work: of what needs most: a step (what its backward pass keeps, gradients, new parameters),
        making an upload, the server's own work, or the evaluation where more clients are evaluated
        side by side than trained.
    """

    samples: int
    states: int
    uploads: int
    work: int

    def total(self) -> int:
        """The sum."""
        return sum(self)

    def by_part(self) -> str:
        """All parts in GiB, as `samples 0.15, states 1.20, uploads 0.30, work 2.00`."""
        return ", ".join(f"{name} {size / 2**30:.2f}" for name, size in self._asdict().items())


class Shapes(NamedTuple):
    """What the hooks of one architecture's clients are given, as shapes.

    Attributes:
      server: the server's state.
      down: what is sent.
      floats_down: how many numbers that is; a shape if it is not known before.
      client: the state of a client.
      batch: of a step.
      data: of a client.
      round: the round.
      key: a key.
      totals: what was observed of the client's samples.
      upload: what the client sends up.
    """

    server: Any
    down: Any
    floats_down: Any
    client: Client
    batch: Batch
    data: ClientData
    round: Round
    key: jax.Array
    totals: Any
    upload: Upload


def expected(
    program: Program,
    dataset: Dataset,
    spread: Spread,
    *,
    given: Sequence[Shapes],
    slots: Sequence[int],
    lengths: Sequence[tuple[int, int]],
) -> Memory:
    """What a program will need on each device.

    Args:
      program: which.
      dataset: all samples.
      spread: of its runs over devices.
      given: of each architecture, see `shapes_of`.
      slots: of each architecture, clients on a device.
      lengths: of each architecture, see `layout.row_lengths`.
    """
    num_clients = program.config.num_clients
    state = index = server = each = mean = largest = work = 0
    for architecture, shapes, count, length in zip(
        program.architectures, given, slots, lengths, strict=True
    ):
        server, upload = num_bytes(shapes.server), shapes.upload
        state += count * num_bytes(architecture.client)
        index += count * 4 * sum(length)
        rows = architecture.together * spread.vmap_runs
        work = max(work, rows * _client_bytes(program, architecture, shapes))
        if architecture.chunk > architecture.together:
            rows = architecture.chunk * spread.vmap_runs
            work = max(work, rows * _evaluation_bytes(program, architecture, shapes))
        work = max(work, spread.vmap_runs * _server_bytes(program, shapes))
        each = 2 * num_clients * num_bytes(upload.each)
        # The average is taken leaf by leaf, from the uploads as they come.
        mean += architecture.room * spread.client_devices * num_bytes(upload.mean)
        largest = max([largest, *(num_bytes(leaf) for leaf in jax.tree.leaves(upload.mean))])
    state += server
    # Where a device has several runs, those that train are copied out of the rest.
    copies = spread.vmap_runs if spread.runs_each > 1 else 0
    return Memory(
        samples=dataset.images.nbytes + dataset.labels.nbytes + spread.runs_each * index,
        states=(spread.runs_each + copies) * state,
        uploads=spread.vmap_runs * (each + mean + num_clients * largest),
        work=work,
    )


def shapes_of(program: Program, architecture: Architecture, dataset: Dataset) -> Shapes:
    """The shapes of everything that the hooks are given."""
    config, method, models = program.config, program.method, architecture.models
    size, num_clients = config.batch_size, config.num_clients

    known: list[Any] = []  # Plain numbers do not come back from `eval_shape` as such.

    def make(key: jax.Array) -> Shapes:
        first = program.architectures[program.first].models
        server = method.init_server(key, first, first.private.init(key))
        counts = jnp.zeros((num_clients, dataset.num_classes), jnp.int32)
        own = methods.settings_of(config.method, config.method_settings)
        own, chosen = jax.tree.map(jnp.float32, (own, descent.of(config)))
        round = Round(jnp.int32(0), jnp.float32(0), own, counts, descent=chosen)
        down, floats_down = method.broadcast(server, round)
        client = method.init_client(key, models.private.init(key), server, models, counts[0])
        images = (size, *dataset.images.shape[1:])
        labels, mask = jnp.zeros(size, jnp.int32), jnp.zeros(size, bool)
        batch = Batch(jnp.zeros(images), labels, mask)
        data = ClientData(jnp.zeros(images, jnp.uint8), labels, labels, jnp.int32(size))
        _, info = method.loss(
            client.params, client.statistics, down, batch, key, round, models=models
        )
        totals = method.observe(info.outputs, labels, mask) if method.collect else ()
        upload = method.upload(key, client, totals, data, down, round, models=models)
        known.extend((floats_down, upload.floats))
        return Shapes(server, down, floats_down, client, batch, data, round, key, totals, upload)

    shapes = jax.eval_shape(make, jax.eval_shape(lambda: keys.root(0)))
    down, up = (one if isinstance(one, int) else None for one in known)
    upload = shapes.upload if up is None else shapes.upload._replace(floats=up)
    return shapes._replace(floats_down=shapes.floats_down if down is None else down, upload=upload)


def _client_bytes(program: Program, architecture: Architecture, given: Shapes) -> int:
    """What one client's step, or the making of its upload, needs beside its state.

    The step keeps what its backward pass needs, among it the parameters; and makes gradients, new
    parameters and a state of the optimiser. Held against what XLA allocates for the paper's four
    architectures, this sum is between 0.99 and 1.3 of it.
    """
    method, models = program.method, architecture.models

    def backward(given: Shapes) -> Any:
        def loss(params: Any) -> Any:
            statistics = given.client.statistics
            rest = (statistics, given.down, given.batch, given.key, given.round)
            return method.loss(params, *rest, models=models)

        return jax.vjp(loss, given.client.params, has_aux=True)[1]

    def upload(given: Shapes) -> Any:
        rest = (given.totals, given.data, given.down, given.round)
        return method.upload(given.key, given.client, *rest, models=models)

    optimizer = jax.eval_shape(
        lambda given: method.optimizer(given.round).init(given.client.params), given
    )
    step = num_bytes(jax.eval_shape(backward, given)) + 2 * num_bytes(given.client.params)
    return max(step + num_bytes(optimizer), _peak_bytes(upload, given))


def _evaluation_bytes(program: Program, architecture: Architecture, given: Shapes) -> int:
    """What the evaluation of a client needs beside its state."""
    method, models = program.method, architecture.models
    images = given.batch.inputs
    inputs = jax.ShapeDtypeStruct((program.config.eval_batch_size, *images.shape[1:]), images.dtype)

    def predict(given: tuple[Client, Any, Any]) -> Any:
        client, down, inputs = given
        return method.predict(client, down, inputs, models=models)

    return num_bytes(inputs) + _peak_bytes(predict, (given.client, given.down, inputs))


def _server_bytes(program: Program, given: Shapes) -> int:
    """What the server's own work needs, beside its state and the uploads."""
    num_clients = program.config.num_clients

    def aggregate(given: Shapes) -> Any:
        each = jax.tree.map(
            lambda leaf: jnp.zeros((num_clients, *jnp.shape(leaf)), leaf.dtype), given.upload.each
        )
        arrived, samples = jnp.zeros(num_clients, bool), jnp.zeros(num_clients, jnp.int32)
        received = Received(each, given.upload.mean, arrived, samples)
        return program.method.aggregate(given.key, given.server, received, given.round)

    return _peak_bytes(aggregate, given)


def _peak_bytes(function: Callable[..., Any], given: Any) -> int:
    """The most bytes that are alive at a time within `function(given)`, what it is given apart."""
    return _peak_of(jax.make_jaxpr(function)(given).jaxpr)


def _peak_of(jaxpr: core.Jaxpr) -> int:
    """See `_peak_bytes`; operations run in the order in which they were traced."""
    last_use = {
        id(variable): number
        for number, equation in enumerate(jaxpr.eqns)
        for variable in equation.invars
    }
    last_use |= {id(variable): len(jaxpr.eqns) for variable in jaxpr.outvars}
    alive: dict[int, int] = {}
    peak = 0
    for number, equation in enumerate(jaxpr.eqns):
        inner = max([0, *(_peak_of(inside) for inside in _inside(equation.params))])
        alive |= {id(one): num_bytes(one.aval) for one in equation.outvars}
        peak = max(peak, sum(alive.values()) + inner)
        alive = {name: size for name, size in alive.items() if last_use.get(name, -1) > number}
    return peak


def _inside(params: dict[str, Any]) -> list[core.Jaxpr]:
    """The programs that an operation holds, as loops and branches do."""
    leaves = jax.tree.leaves(
        list(params.values()), is_leaf=lambda one: isinstance(one, core.Jaxpr | core.ClosedJaxpr)
    )
    closed = [one.jaxpr for one in leaves if isinstance(one, core.ClosedJaxpr)]
    return closed + [one for one in leaves if isinstance(one, core.Jaxpr)]


def num_bytes(tree: Any) -> int:
    """The bytes of all arrays of a tree, or of their shapes."""
    return sum(
        int(np.prod(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )
