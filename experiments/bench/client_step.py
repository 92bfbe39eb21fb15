"""One client's training step, by architecture: on one core, on two devices, beside torch's."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from protonorm_jax import methods, models
from protonorm_jax.config import Config
from protonorm_jax.planning import devices
from protonorm_jax.types import ClientData, Prototypes

from . import processes, roofline, timing

BATCH_SIZE = 32
FEATURE_DIM = 512
NUM_CLASSES = 10
IMAGE_SHAPE = (32, 32, 3)
NAMES = (*models.FAMILIES["ht0"], "fedavg_cnn")

_train: list[Callable[[], Any]] = []  # At most one: what was prepared last.


def work(architecture: str) -> roofline.Work:
    """What one step costs at least."""
    return roofline.count(
        architecture,
        batch_size=BATCH_SIZE,
        image_shape=IMAGE_SHAPE,
        num_classes=NUM_CLASSES,
        feature_dim=FEATURE_DIM,
    )


def samples(num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images and labels for that many batches."""
    rng = np.random.default_rng(0)
    count = num_steps * BATCH_SIZE
    images = rng.integers(0, 256, (count, *IMAGE_SHAPE), dtype=np.uint8)
    return images, rng.integers(0, NUM_CLASSES, count, dtype=np.int32)


def prepare(architecture: str, num_steps: int, num_devices: int) -> dict[str, float]:
    """Compiles `num_steps` steps of `local_update` in one call, and makes the first call.

    Each device trains a client of its own, all of them at the same time, as in a simulation.

    Returns:
      MiB of temporaries on a device, and seconds of compilation.

    Raises:
      FloatingPointError: the training has diverged.
    """
    settings = {"batch_size": BATCH_SIZE, "last_batch": "drop", "shuffle": False}
    config = Config(**settings, collect="during", feature_dim=FEATURE_DIM)
    method = methods.build("protonorm", num_classes=NUM_CLASSES, feature_dim=FEATURE_DIM)
    on_cpu = jax.default_backend() == "cpu"
    model = models.build(
        architecture,
        num_classes=NUM_CLASSES,
        feature_dim=FEATURE_DIM,
        image_shape=IMAGE_SHAPE,
        convolution="canonical" if on_cpu else "im2col",
    )
    chosen = devices.choose(num_devices)
    mesh = jax.sharding.Mesh(np.array(chosen), ("devices",))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("devices"))

    images, labels = samples(num_steps)
    indices = np.arange(len(labels), dtype=np.int32)
    data = ClientData(images, labels, indices, np.int32(len(labels)))
    directions = jax.random.normal(jax.random.key(0), (NUM_CLASSES, FEATURE_DIM))
    lengths = jnp.linalg.norm(directions, axis=1, keepdims=True)
    broadcast = Prototypes(
        method.hyperparameters["scale"] * directions / lengths, jnp.ones(NUM_CLASSES, bool)
    )
    traced = jax.tree.map(np.float32, {**method.hyperparameters, "learning_rate": 0.01})
    variables = jax.jit(model.init)(jax.random.key(1))
    client = method.init_client(jax.random.key(2), variables, ())
    clients = jax.tree.map(lambda leaf: np.stack([leaf] * num_devices), client)

    update = functools.partial(client.local_update, model=model, method=method, config=config)
    mapped = jax.pmap(update, in_axes=(None, 0, None, None, None), devices=chosen, donate_argnums=1)
    state = [jax.device_put(clients, spread)]
    key, *rest = jax.device_put((jax.random.key(3), broadcast, data, traced), everywhere)
    program, seconds = timing.compile_program(mapped, key, state[0], *rest)

    def train() -> dict[str, Any]:
        state[0], _, info = program(key, state[0], *rest)
        return jax.block_until_ready(info)

    if not train()["finite"].all():
        raise FloatingPointError(f"{architecture} diverged")
    _train[:] = [train]
    temp_mib = program.memory_analysis().temp_size_in_bytes / 2**20
    return {"temp_mib": temp_mib, **seconds}


def time_steps(num_steps: int) -> timing.Times:
    """Makes one call of what was prepared last; the times of one of its `num_steps` steps."""
    return timing.Times(*(time / num_steps for time in timing.clock(_train[0])))


def measure(
    architectures: Sequence[str],
    num_steps: int,
    repetitions: int,
    matrix_size: int,
    stream_mib: int,
    *,
    beside_torch: bool,
) -> dict[str, Any]:
    """All figures, by architecture.

    On CPU, everything but the two devices runs in processes of its own with one core each. The
    rates for the roofline are measured in that of the step and by turns with it.

    Args:
      architectures: models of `torch_models.BASES`.
      num_steps: steps in one call of ours; torch takes a quarter of them in a repetition.
      repetitions: of each measurement; medians are given.
      matrix_size: of the square matrices whose product says how fast a core calculates.
      stream_mib: of the array whose change in place says how fast a core reads and writes.
      beside_torch: whether torch takes its turns.
    """
    figures = {}
    platform = jax.default_backend()
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        call = enter(processes.child_on_cpu(platform, one_core=True))
        call(roofline.prepare_rates, matrix_size, stream_mib)
        pair_call = _pair(stack, platform)
        torch_call = enter(processes.child(one_core=True)) if beside_torch else None
        for architecture in architectures:
            row = call(prepare, architecture, num_steps, 1)
            clocks = {
                "product": functools.partial(call, roofline.time_product),
                "stream": functools.partial(call, roofline.time_stream),
                "jax": functools.partial(call, time_steps, num_steps),
            }
            if torch_call:
                steps = max(1, num_steps // 4)
                theirs, row["torch_parameters"] = _prepare_torch(torch_call, architecture, steps)
                clocks |= theirs
            times = timing.alternate(clocks, repetitions)
            medians = {name: timing.median(taken) for name, taken in times.items()}
            product, stream = medians.pop("product"), medians.pop("stream")
            row["milliseconds"] = {name: median.wall for name, median in medians.items()}
            row["cpu_milliseconds"] = {name: median.cpu for name, median in medians.items()}
            ours = medians.pop("jax")
            row["jax_over_torch"] = {
                name: ours.cpu / median.cpu for name, median in medians.items()
            }
            # On CPU the time of the processor, which other programs do not lengthen as much.
            busy = "cpu" if platform == "cpu" else "wall"
            step, product, stream = (getattr(time, busy) for time in (ours, product, stream))
            rates = roofline.rates(product, stream, matrix_size, stream_mib)
            row |= _roofline(work(architecture), rates, step)
            row["two_devices"] = _two_devices(pair_call, architecture, num_steps, repetitions)
            figures[architecture] = row
    return figures


def _pair(stack: contextlib.ExitStack, platform: str) -> processes.Call | None:
    """Where two devices are: a process of its own on CPU, None if there is but one."""
    if platform != "cpu" and jax.local_device_count() < 2:
        return None
    call = stack.enter_context(processes.child_on_cpu(platform, one_core=False))
    if platform == "cpu":
        call(devices.prepare_cpu, 2)
    return call


def _two_devices(
    call: processes.Call | None, architecture: str, num_steps: int, repetitions: int
) -> dict[str, float] | None:
    """The figures of two devices that train at the same time, each a client of its own."""
    if call is None:
        return None
    row = call(prepare, architecture, num_steps, 2)
    # A step is one client's: two of them pass at a time.
    median = timing.median([call(time_steps, 2 * num_steps) for _ in range(repetitions)])
    return row | {"milliseconds": median.wall, "cpu_milliseconds": median.cpu}


def _roofline(work: roofline.Work, rates: roofline.Rates, milliseconds: float) -> dict[str, Any]:
    """How near a step of that length comes to what its work takes at these rates."""
    least, bound = roofline.least_milliseconds(work, rates)
    return {
        "gigaflop_per_second": work.operations / milliseconds / 1e6,
        "roofline_fraction": least / milliseconds,
        "roofline_bound": bound,
        "work": work._asdict(),
        "rates": rates._asdict(),
    }


def _prepare_torch(
    call: processes.Call, architecture: str, num_steps: int
) -> tuple[dict[str, Callable[[], timing.Times]], int]:
    """Torch's clocks by memory format, and the number of parameters."""
    from . import torch_side

    clocks, parameters = {}, 0
    for name in torch_side.MEMORY_FORMATS:
        parameters = call(
            torch_side.prepare_steps, architecture, name, *samples(num_steps), BATCH_SIZE
        )
        clocks[name] = functools.partial(call, torch_side.time_steps, name)
    return clocks, parameters


def tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `measure`."""
    ours = Table(title=f"Client step, batch {BATCH_SIZE}, one core on CPU")
    ours.add_column("model", no_wrap=True)
    for column in ("ms a step", "CPU ms", "2 devices", "GFLOP/s", "roofline"):
        ours.add_column(column, justify="right")
    for column in ("temp MiB", "compile s", "CPU s"):
        ours.add_column(column, justify="right")
    theirs = Table(title="Client step beside torch, CPU ms, on the same core")
    theirs.add_column("model")
    for column in ("jax", "torch NCHW", "jax / torch", "torch channels_last", "jax / torch"):
        theirs.add_column(column, justify="right")
    for architecture, row in figures.items():
        wall, cpu, ratios = row["milliseconds"], row["cpu_milliseconds"], row["jax_over_torch"]
        pair = row["two_devices"]
        ours.add_row(
            architecture,
            f"{wall['jax']:.1f}",
            f"{cpu['jax']:.1f}",
            f"{pair['milliseconds']:.1f}" if pair else "-",
            f"{row['gigaflop_per_second']:.0f}",
            f"{row['roofline_fraction']:.2f} {row['roofline_bound']}",
            f"{row['temp_mib']:.0f}",
            f"{row['compile_seconds']:.1f}",
            f"{row['compile_cpu_seconds']:.1f}",
        )
        if ratios:
            pairs = [(f"{cpu[name]:.1f}", f"{ratios[name]:.2f}") for name in ratios]
            cells = [cell for pair in pairs for cell in pair]
            theirs.add_row(architecture, f"{cpu['jax']:.1f}", *cells)
    rates = [row["rates"] for row in figures.values()]
    operations, traffic = (
        " to ".join(f"{bound(rate[name] for rate in rates) / 1e9:.0f}" for bound in (min, max))
        for name in ("operations", "bytes")
    )
    ours.caption = (
        "2 devices: ms a client step where two clients train at the same time\n"
        f"roofline: the least time at {operations} GFLOP/s (flop) and {traffic} GB/s (bytes),\n"
        "whichever is longer, over the measured time"
    )
    return [ours, theirs] if theirs.rows else [ours]
