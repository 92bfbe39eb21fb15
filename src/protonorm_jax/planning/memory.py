"""How much memory a program will need, before it is compiled: counted from shapes, and traced."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from protonorm_jax import keys
from protonorm_jax.engine.client import local_update
from protonorm_jax.engine.simulate import Group, Program
from protonorm_jax.planning.layout import Spread
from protonorm_jax.types import Batch, Client, ClientData, Dataset


class Memory(NamedTuple):
    """What a program is expected to need on each device, in bytes.

    Attributes:
      samples: the data set, and who holds what.
      states: clients and servers of all runs.
      uploads: of all clients, as they come and put in order.
      work: of the step that needs most: what its backward pass keeps, gradients, new parameters.
    """

    samples: int
    states: int
    uploads: int
    work: int

    def total(self) -> int:
        """The sum."""
        return sum(self)


def expected(
    program: Program,
    dataset: Dataset,
    spread: Spread,
    *,
    slots: Sequence[int],
    lengths: Sequence[tuple[int, int]],
    hyperparameters: Sequence[str],
) -> Memory:
    """What a program will need on each device.

    Args:
      program: which.
      dataset: all samples.
      spread: of its runs over devices.
      slots: of each architecture, clients on a device.
      lengths: of each architecture, see `layout.longest`.
      hyperparameters: names of the traced scalars.
    """
    server = jax.eval_shape(program.method.init_server, jax.eval_shape(lambda: keys.root(0)))
    state = index = work = 0
    for group, count, length in zip(program.groups, slots, lengths, strict=True):
        state += count * _bytes(group.client)
        index += count * 4 * sum(length)
        # The step keeps what its backward pass needs, among it the parameters; and makes gradients
        # and new parameters. Held against what XLA allocates for the paper's four architectures,
        # this sum is between 0.99 and 1.3 of it.
        step = _residual_bytes(program, group, server, dataset, hyperparameters)
        rows = group.chunk * spread.vmap_runs
        work = max(work, rows * (step + 2 * _bytes(group.client.params)))
    state += _bytes(server)
    # Where a device has several runs, those that train are copied out of the rest.
    copies = spread.vmap_runs if spread.runs_each > 1 else 0
    upload = _upload_bytes(program, server, dataset, hyperparameters)
    return Memory(
        samples=dataset.images.nbytes + dataset.labels.nbytes + spread.runs_each * index,
        states=(spread.runs_each + copies) * state,
        uploads=2 * spread.vmap_runs * program.config.num_clients * upload,
        work=work,
    )


def _upload_bytes(
    program: Program, server: Any, dataset: Dataset, hyperparameters: Sequence[str]
) -> int:
    """What one client uploads, in bytes; the same for all architectures."""
    method, model = program.method, program.groups[0].model
    scalars = {name: jnp.float32(1.0) for name in hyperparameters}
    size = program.config.batch_size

    def one_round(key: jax.Array, server: Any) -> Any:
        client = method.init_client(key, model.init(key), server)
        broadcast, _ = method.broadcast(server, jnp.int32(0), scalars)
        samples = ClientData(
            jnp.zeros((size, *dataset.images.shape[1:]), jnp.uint8),
            jnp.zeros(size, jnp.int32),
            jnp.zeros(size, jnp.int32),
            jnp.int32(size),
        )
        return local_update(
            key,
            client,
            broadcast,
            samples,
            scalars,
            model=model,
            method=method,
            config=program.config,
        )[1]

    return _bytes(jax.eval_shape(one_round, jax.eval_shape(lambda: keys.root(0)), server))


def _residual_bytes(
    program: Program,
    group: Group,
    server: Any,
    dataset: Dataset,
    hyperparameters: Sequence[str],
) -> int:
    """What the backward pass of one client's step needs of the forward pass, in bytes."""
    method, size = program.method, program.config.batch_size
    batch: Any = jax.eval_shape(
        lambda: Batch(
            jnp.zeros((size, *dataset.images.shape[1:])),
            jnp.zeros(size, jnp.int32),
            jnp.zeros(size, bool),
        )
    )
    scalars = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in hyperparameters}

    def backward(client: Client, batch: Batch, server: Any, scalars: Any, key: jax.Array) -> Any:
        broadcast, _ = method.broadcast(server, jnp.int32(0), scalars)

        def loss(params: Any) -> Any:
            return method.loss(
                params, client.statistics, broadcast, batch, key, scalars, model=group.model
            )

        return jax.vjp(loss, client.params, has_aux=True)[1]

    key = jax.eval_shape(lambda: keys.root(0))
    return _bytes(jax.eval_shape(backward, group.client, batch, server, scalars, key))


def _bytes(tree: Any) -> int:
    return sum(
        int(np.prod(leaf.shape)) * jnp.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )
