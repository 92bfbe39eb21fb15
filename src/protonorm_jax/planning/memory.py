"""How much memory a program will need, before it is compiled: counted from shapes, and traced."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from protonorm_jax.engine.client import collects
from protonorm_jax.engine.program import Architecture, Program, packed
from protonorm_jax.planning import hooks, tiles
from protonorm_jax.planning.layout import Spread
from protonorm_jax.planning.shapes import Shapes
from protonorm_jax.planning.traced import Traced, trace
from protonorm_jax.types import Dataset, Images

CODE_ALWAYS = 3_000_000
"""Bytes of a TPU program that does next to nothing."""
CODE_IN_TURN = 3_720
"""Bytes of a TPU program for each operation of what clients do in turn."""
CODE_VMAPPED = 10_000
"""Bytes of a TPU program for each operation of what vmapped clients or runs do."""
CODE_OF_SERVER = 500
"""Bytes of a TPU program for each operation of a server; it is of small arrays."""
CODE_OF_STATES = 0.06
"""Bytes of a TPU program for each byte of the clients' states where a device has several runs."""
CODE_OF_A_LEAF = 400_000
"""The most of these for one array of a client's state."""
WORK_KEPT = 0.65
"""Share of what one client's step keeps for its backward pass that a TPU program allocates; it
computes the rest again where it is used. Of vmapped clients it keeps all."""
WORK_KEPT_ON_GPU = 0.53
"""Share of the work that a GPU program allocates, the rest of which is never written out: 0.38 to
0.42 with the paper's nets, 0.73 with small ones."""
LIBRARIES_ON_GPU = 2**25
"""Bytes that the libraries of matrix products may use on a GPU."""
UPLOAD_COPIES = 2
"""Copies of all uploads in a TPU program with several architectures, beside one for each. What is
averaged is not copied where the server has a program of its own."""


class Memory(NamedTuple):
    """What a program is expected to need on each device, in bytes.

    Attributes:
      samples: the data set, and who holds what.
      states: clients and servers of all runs, and what is copied of them.
      uploads: of all clients, as they come and put in order.
      work: of what needs most: a step (what its backward pass keeps, gradients, new parameters),
        making an upload, the server's own work, or the evaluation where more clients are evaluated
        side by side than trained.
      code: the program itself; zero where it does not lie there, as on CPU.
    """

    samples: int
    states: int
    uploads: int
    work: int
    code: int

    def total(self) -> int:
        """The sum."""
        return sum(self)

    def by_part(self) -> str:
        """All parts in GiB, as `samples 0.15, states 1.20, uploads 0.30, work 2.00, code 0.01`."""
        return ", ".join(f"{name} {size / 2**30:.2f}" for name, size in self._asdict().items())


def expected(
    program: Program,
    dataset: Dataset,
    spread: Spread,
    *,
    given: Sequence[Shapes],
    slots: Sequence[int],
    lengths: Sequence[tuple[int, int]],
    platform: str,
    fast: int = 0,
) -> Memory:
    """What a program will need on each device.

    Args:
      program: which.
      dataset: all samples.
      spread: of its runs over devices.
      given: of each architecture, see `shapes.of_hooks`.
      slots: of each architecture, clients on a device.
      lengths: of each architecture, see `layout.row_lengths`.
      platform: of the devices: `cpu`, `gpu`, or `tpu`, on which arrays lie in tiles and code beside
        them.
      fast: bytes of the chip's fast memory, in which a TPU's compiler puts what is gone before the
        next step begins, as far as it has room.
    """
    num_clients, runs, tiled = program.config.num_clients, spread.vmap_runs, platform == "tpu"
    index = mean = work = in_turn = vmapped = 0

    def beyond(passing: int, side_by_side: int = 1) -> int:
        """What must be in main memory of what is gone before the next step."""
        share = WORK_KEPT if side_by_side == 1 else 1.0
        return max(int(share * passing) - fast, 0) if tiled else passing

    kept = functools.partial(packed, tiled=program.tiled)
    clients = []
    for architecture, shapes, count, length in zip(
        program.architectures, given, slots, lengths, strict=True
    ):
        clients.append(stacked(jax.eval_shape(kept, architecture.client), count))
        rows = [jax.ShapeDtypeStruct((spread.runs_each, count, one), jnp.int32) for one in length]
        index += num_bytes(rows, tiled=tiled)
        # The average is taken leaf by leaf, from the uploads as they come. A program that has
        # nothing else to do on a TPU gathers one leaf at a time from the other chips.
        gathered = not (tiled and program.apart)
        places = architecture.room * (spread.client_devices if gathered else 1)
        mean += num_bytes(stacked(shapes.upload.mean, places), tiled=tiled)
        for part, side_by_side, widths in (
            (_training, architecture.together * runs, architecture.widths),
            (_evaluation, architecture.chunk * runs, architecture.evaluation_widths),
        ):
            need = part(program, architecture, shapes, side_by_side, tiled)
            # A CPU's compiler fuses most of an evaluation; it needs less than a step of as many.
            if part is _training or tiled or architecture.chunk > architecture.together:
                work = max(work, need.lasting + beyond(need.passing, side_by_side))
            if side_by_side > 1:
                vmapped += max(len(widths), 1) * need.operations
            else:
                in_turn += need.operations
    shapes = given[0]  # What crosses between clients and server is the same for all of them.
    server = _server(program, shapes, tiled)
    work = max(work, beyond(runs * server.passing))
    if platform == "gpu":
        work = int(WORK_KEPT_ON_GPU * work) + LIBRARIES_ON_GPU
    each = stacked(shapes.upload.each, program.num_rows())
    ordered = stacked(shapes.upload.mean, num_clients)
    largest = max([0, *(num_bytes(leaf, tiled=tiled) for leaf in ordered)])
    if tiled:  # They are joined by filling up those of each architecture to the size of all.
        parts = len(program.architectures)
        copies = parts + UPLOAD_COPIES if parts > 1 else 1
        joined = largest if program.apart else copies * num_bytes(ordered, tiled=True)
        uploads = mean + copies * num_bytes(each, tiled=True) + joined
    else:
        uploads = 2 * num_bytes(each) + mean + largest
    uploads *= runs
    code = 0
    if tiled:
        of_server = (CODE_VMAPPED if runs > 1 else CODE_OF_SERVER) * server.operations
        code = CODE_ALWAYS + CODE_IN_TURN * in_turn + CODE_VMAPPED * vmapped + of_server
        if spread.runs_each > 1:
            leaves = [num_bytes(leaf, tiled=True) for leaf in stacked(clients, spread.runs_each)]
            code += sum(min(int(CODE_OF_STATES * size), CODE_OF_A_LEAF) for size in leaves)
    samples = (Images.of(dataset.images).pixels, dataset.labels)
    return Memory(
        samples=num_bytes(samples, tiled=tiled) + index,
        states=states_bytes(
            (clients, shapes.server),
            spread,
            tiled=tiled,
            parts=(clients if program.apart else [clients]) if tiled else None,
        ),
        uploads=uploads,
        work=work,
        code=code,
    )


def states_bytes(
    run: Any, spread: Spread, *, tiled: bool, parts: Sequence[Any] | None = None
) -> int:
    """What the states of all runs of a device need, copies included.

    Args:
      run: the shapes of those of one run.
      spread: of the runs over devices.
      tiled: whether they are on a TPU.
      parts: of the run, of which one at a time is copied; None for all of it.
    """
    copied = max(_copied(part, spread, tiled) for part in parts or [run])
    return num_bytes(stacked(run, spread.runs_each), tiled=tiled) + copied


def _copied(run: Any, spread: Spread, tiled: bool) -> int:
    """What is copied of states, see `states_bytes`."""
    whole, several = stacked(run, spread.runs_each), spread.runs_each > 1
    # Where not all runs of a device train at a time, those that do are copied out of the rest.
    chosen = spread.vmap_runs * num_bytes(run, tiled=tiled)
    taken = chosen if spread.runs_each > spread.vmap_runs else 0
    if not tiled:
        return taken
    # A TPU takes and returns them in the order of dimensions that takes least, and works on a copy
    # in the better order of the last two where that is another one.
    inside = whole if several else _arrays(run)
    copies = [
        (tiles.in_pairs(leaf.shape, leaf.dtype.itemsize), num_bytes(outside, tiled=True))
        for leaf, outside in zip(inside, whole, strict=True)
    ]
    return sum(here for here, there in copies if here > there) + taken


class _Need(NamedTuple):
    """What a part of a program needs.

    Attributes:
      lasting: bytes beside the states, of what one step hands to the next.
      passing: bytes of what is gone before the next step.
      operations: as traced, for one client or server; the more, the longer is the program.
    """

    lasting: int
    passing: int
    operations: int


def _training(
    program: Program, architecture: Architecture, given: Shapes, rows: int, tiled: bool
) -> _Need:
    """What steps of so many clients side by side, or the making of their uploads, need.

    A step keeps what its backward pass needs, among it the parameters; and makes gradients, new
    parameters and a state of the optimiser. Held against what XLA allocates on CPU for the paper's
    four architectures, this sum is between 0.99 and 1.3 of it.
    """
    method, models = program.method, architecture.models

    def backward(given: Shapes) -> Any:
        def loss(params: Any) -> Any:
            statistics = given.client.statistics
            rest = (statistics, given.down, given.batch, given.key, given.round)
            return method.loss(params, *rest, models=models)

        return jax.vjp(loss, given.client.params, has_aux=True)[1]

    sized = functools.partial(num_bytes, tiled=tiled, rows=rows)

    def traced(hook: Callable[..., Any]) -> Traced:
        return trace(functools.partial(hook, method=method, models=models), given, sized)

    optimizer = jax.eval_shape(functools.partial(hooks.optimizer, method=method), given)
    step, sent = trace(backward, given, sized), traced(hooks.upload)
    operations = step.operations + sent.operations
    if collects(method, "after", "before"):
        operations += traced(hooks.observe).operations
    params = given.client.params
    passing = max(sized(step.result) - sized(params), 0)
    copies = 3
    if tiled:  # A TPU's loop has another one, and what narrows is there in its whole width, too.
        copies = 5 if len(architecture.widths) > 1 else 4
    lasting = sized((*(params for _ in range(copies)), optimizer))
    return _Need(lasting, max(passing, sent.peak - lasting), operations)


def _evaluation(
    program: Program, architecture: Architecture, given: Shapes, rows: int, tiled: bool
) -> _Need:
    """What the evaluation of so many clients side by side needs."""
    given = hooks.with_batch(given, program.config.eval_batch_size)
    predict = functools.partial(hooks.predict, method=program.method, models=architecture.models)
    sized = functools.partial(num_bytes, tiled=tiled, rows=rows)
    seen = trace(predict, given, sized)
    lasting = 0
    if tiled and rows > 1:  # Copied out of the rest, and then into the order of their lengths.
        lasting = 2 * sized((given.client.params, given.client.statistics))
    return _Need(lasting, sized(given.batch.inputs) + seen.peak, seen.operations)


def _server(program: Program, given: Shapes, tiled: bool) -> _Need:
    """What the server's own work needs, beside its state and the uploads."""
    aggregate = functools.partial(
        hooks.aggregate, method=program.method, num_rows=program.num_rows()
    )
    traced = trace(aggregate, given, functools.partial(num_bytes, tiled=tiled))
    return _Need(0, traced.peak, traced.operations)


def stacked(tree: Any, count: int) -> list[jax.ShapeDtypeStruct]:
    """The shapes of so many of each array."""
    return [jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype) for leaf in _arrays(tree)]


def num_bytes(tree: Any, *, tiled: bool = False, rows: int = 1) -> int:
    """The bytes of all arrays of a tree, or of their shapes.

    Args:
      tree: of arrays; keys of random numbers are left out.
      tiled: whether they lie in tiles, see `tiles.compact`.
      rows: how many of each there are, side by side in one array.
    """
    if not tiled:
        return rows * sum(leaf.size * leaf.dtype.itemsize for leaf in _arrays(tree))
    lead = (rows,) if rows > 1 else ()
    return sum(tiles.compact((*lead, *leaf.shape), leaf.dtype.itemsize) for leaf in _arrays(tree))


def _arrays(tree: Any) -> list[jax.ShapeDtypeStruct]:
    """The shapes of all arrays of a tree but keys of random numbers."""
    return [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for leaf in jax.tree.leaves(tree)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    ]
