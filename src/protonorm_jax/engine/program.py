"""What the simulation on a device is made of: the fixed program, its data, and what changes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from protonorm_jax import keys
from protonorm_jax.config import Config
from protonorm_jax.methods.descent import Descent
from protonorm_jax.methods.method import Method
from protonorm_jax.types import Client, Members, Models, Variables


class Architecture(NamedTuple):
    """The clients of one architecture.

    Attributes:
      models: theirs, and the shared one.
      client: shapes and dtypes of what one of them keeps.
      chunk: clients that a device evaluates in one vmapped step; 1 means no vmap. Divides the
        slots.
      room: no device has more clients that train in a round, nor outputs of them. Divided by
        `together`.
      together: of these, how many train in one vmapped step; 1 means no vmap.
      widths: how a batch of clients, and of vmapped runs, narrows as they finish their training;
        see `lockstep.repeat`.
      evaluation_widths: the same of their evaluation.
    """

    models: Models
    client: Client
    chunk: int
    room: int
    together: int
    widths: tuple[int, ...]
    evaluation_widths: tuple[int, ...]


def packed(client: Client, *, tiled: bool) -> Client:
    """A client as it is kept between rounds.

    Args:
      client: with every array in its own shape.
      tiled: see `Program`.
    """
    return client if tiled else jax.tree.map(jnp.ravel, client)


def unpacked(client: Client, shapes: Client) -> Client:
    """What `packed` has made, in its own shapes."""
    return jax.tree.map(lambda leaf, own: leaf.reshape(own.shape), client, shapes)


def client_shapes(method: Method, own: Models, first: Models, num_classes: int) -> Client:
    """Shapes and dtypes of what a client keeps.

    Args:
      method: the federated method.
      own: the client's models.
      first: those of client 0.
      num_classes: C.
    """

    def init(key: jax.Array) -> Client:
        server = method.init_server(key, first, first.private.init(key))
        counts = jnp.zeros(num_classes, jnp.int32)
        return method.init_client(key, own.private.init(key), server, own, counts)

    return jax.eval_shape(init, jax.eval_shape(lambda: keys.root(0)))


class Program(NamedTuple):
    """All that is fixed when the simulation is compiled.

    Attributes:
      config: settings, of which only those are read that all runs have in common.
      method: the federated method.
      architectures: those of the clients.
      first: which of them is client 0's.
      client_devices: over how many devices, next to each other, the clients of a run are spread.
      vmap_runs: runs that a device trains in one vmapped program; 1 means one after the other.
      participants: the most clients that train in a round; all clients where runs differ in that.
      apart: whether a round is several programs, which are compiled side by side: those of
        `rounds`, for clients one of each architecture. Otherwise `simulate.advance` is one.
      tiled: whether arrays lie in tiles, as on a TPU, where every array that changes its shape and
        every check of bounds is a kernel to be compiled: clients keep their arrays in their own
        shapes between rounds, and those who take turns are read and written unchecked. Elsewhere
        arrays are kept flat: XLA:CPU copies a whole stack of arrays of which a dimension is 1 (most
        kernels of MobileNet and its like are) when a program begins, because it wants the
        dimensions in another order; by unchecked reading it gains nothing.
    """

    config: Config
    method: Method
    architectures: tuple[Architecture, ...]
    first: int
    client_devices: int
    vmap_runs: int
    participants: int
    apart: bool = False
    tiled: bool = False

    def num_rows(self) -> int:
        """Of what the server receives, see `Method.rows`."""
        return self.config.num_clients if self.method.rows == "all" else self.participants


class Samples(NamedTuple):
    """The data set on the device.

    Attributes:
      inputs: see `ClientData`.
      labels: `[N]` int32.
    """

    inputs: Any
    labels: jax.Array


class Initial(NamedTuple):
    """The variables that private models start with, where they are not drawn.

    Attributes:
      first: those of client 0.
      clients: for each architecture those of the clients on this device, leaves `[slots, ...]`.
    """

    first: Variables
    clients: tuple[Variables, ...]


class RunInputs(NamedTuple):
    """What distinguishes one run from others in the same program.

    Attributes:
      seed: `[]` uint32.
      learning_rate: `[]` float32.
      participation: `[]` float32.
      dropout: `[]` float32.
      failures: `[]` float32; None where no run of the program has any, as for the next.
      stragglers: `[]` float32.
      straggler_work: `[]` float32.
      schedule: `[length]` float32, by round what the clients' learning rate is multiplied with;
        the last one in all rounds beyond.
      descent: the clients' optimiser.
      settings: the method's, traced ones as `[]` float32.
      class_counts: `[num_clients, num_classes]` int32, see `Round`.
      num_samples: `[num_clients]` int32, all training samples of each client.
      members: for each architecture, the clients on this device.
      num_members: `[architectures]` int32, how many they are; beyond, slots are empty.
      order: `[num_clients]` int32, where client i stands in the concatenation over the run's
        devices of the concatenation over architectures.
    """

    seed: jax.Array
    learning_rate: jax.Array
    participation: jax.Array
    dropout: jax.Array
    failures: jax.Array | None
    stragglers: jax.Array | None
    straggler_work: jax.Array
    schedule: jax.Array
    descent: Descent
    settings: Any
    class_counts: jax.Array
    num_samples: jax.Array
    members: tuple[Members, ...]
    num_members: jax.Array
    order: jax.Array


class State(NamedTuple):
    """Everything that changes from round to round.

    Attributes:
      clients: one stacked `Client` for each architecture, as `packed` has made them, leaves
        `[slots, ...]`; differs by device.
      server: the method's server state; this and the rest are equal on all devices of the run.
      round_index: `[]` int32, rounds finished.
      diverged: `[num_clients]` int32, round in which a client first met a value that is not
        finite, or -1.
      floats: `up` and `down`, all that were sent so far, see `exchange.add_floats`.
    """

    clients: tuple[Client, ...]
    server: Any
    round_index: jax.Array
    diverged: jax.Array
    floats: dict[str, jax.Array]
