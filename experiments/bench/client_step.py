"""One client's training step, by architecture; and beside torch's on the same core."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

from protonorm_jax import local, methods, models
from protonorm_jax.config import Config
from protonorm_jax.types import ClientData, Prototypes

from . import processes, timing

BATCH_SIZE = 32
FEATURE_DIM = 512
NUM_CLASSES = 10

# Forward and backward of one 32 x 32 x 3 sample: multiply-adds of convolutions and matrices, each
# counted as 2, for the output, the gradient of the kernel and that of the input (but not of the
# image). Taps on zero padding count; batch norms, activations, pooling and SGD do not.
MEGAFLOP = {
    "resnet8": 82.0,
    "mobilenet_v2": 36.3,
    "shufflenet_v2": 17.3,
    "efficientnet_b0": 50.4,
    "fedavg_cnn": 43.2,
}

NAMES = tuple(MEGAFLOP)

_train: list[Callable[[], Any]] = []  # At most one: what was prepared last.


def samples(num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images and labels for that many batches."""
    rng = np.random.default_rng(0)
    count = num_steps * BATCH_SIZE
    images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return images, rng.integers(0, NUM_CLASSES, count, dtype=np.int32)


def prepare(architecture: str, num_steps: int) -> dict[str, float]:
    """Compiles `num_steps` steps of `local_update` in one call, and makes the first call.

    Returns:
      MiB of temporaries, and seconds of compilation.

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
        image_shape=(32, 32, 3),
        convolution="canonical" if on_cpu else "im2col",
    )
    images, labels = jax.device_put(samples(num_steps))
    indices = jnp.arange(len(labels), dtype=jnp.int32)
    data = ClientData(images, labels, indices, jnp.int32(len(labels)))
    directions = jax.random.normal(jax.random.key(0), (NUM_CLASSES, FEATURE_DIM))
    lengths = jnp.linalg.norm(directions, axis=1, keepdims=True)
    broadcast = Prototypes(
        method.hyperparameters["scale"] * directions / lengths, jnp.ones(NUM_CLASSES, bool)
    )
    traced = jax.tree.map(jnp.float32, {**method.hyperparameters, "learning_rate": 0.01})
    variables = jax.jit(model.init)(jax.random.key(1))
    client = method.init_client(jax.random.key(2), variables, ())
    update = functools.partial(local.local_update, model=model, method=method, config=config)
    key = jax.random.key(3)

    jitted = jax.jit(update, donate_argnums=1)
    program, seconds = timing.compile_program(jitted, key, client, broadcast, data, traced)
    state = [client]

    def train() -> dict[str, Any]:
        state[0], _, info = program(key, state[0], broadcast, data, traced)
        return jax.block_until_ready(info)

    if not train()["finite"]:
        raise FloatingPointError(f"{architecture} diverged")
    _train[:] = [train]
    temp_mib = program.memory_analysis().temp_size_in_bytes / 2**20
    return {"temp_mib": temp_mib, **seconds}


def time_steps(num_steps: int) -> timing.Times:
    """Makes one call of what was prepared last; the times of one of its `num_steps` steps."""
    return timing.Times(*(time / num_steps for time in timing.clock(_train[0])))


def measure(
    architectures: Sequence[str], num_steps: int, repetitions: int, *, beside_torch: bool
) -> dict[str, Any]:
    """All figures, by architecture.

    On CPU, everything runs in processes of its own with one core each.

    Args:
      architectures: keys of `MEGAFLOP`.
      num_steps: steps in one call of ours; torch takes a quarter of them in a repetition.
      repetitions: of each measurement; medians are given.
      beside_torch: whether torch takes its turns.
    """
    figures = {}
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        call = enter(processes.child_on_cpu(jax.default_backend(), one_core=True))
        torch_call = enter(processes.child(one_core=True)) if beside_torch else None
        for architecture in architectures:
            row = call(prepare, architecture, num_steps)
            clocks = {"jax": functools.partial(call, time_steps, num_steps)}
            if torch_call:
                steps = max(1, num_steps // 4)
                theirs, row["torch_parameters"] = _prepare_torch(torch_call, architecture, steps)
                clocks |= theirs
            times = timing.alternate(clocks, repetitions)
            medians = {name: timing.median(taken) for name, taken in times.items()}
            row["milliseconds"] = {name: median.wall for name, median in medians.items()}
            row["cpu_milliseconds"] = {name: median.cpu for name, median in medians.items()}
            ours = medians.pop("jax")
            row["gigaflop_per_second"] = MEGAFLOP[architecture] * BATCH_SIZE / ours.wall
            row["jax_over_torch"] = {
                name: ours.cpu / median.cpu for name, median in medians.items()
            }
            figures[architecture] = row
    return figures


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
    ours.add_column("model")
    for column in ("ms a step", "CPU ms", "GFLOP/s", "temp MiB", "compile s", "compile CPU s"):
        ours.add_column(column, justify="right")
    theirs = Table(title="Client step beside torch, CPU ms, on the same core")
    theirs.add_column("model")
    for column in ("jax", "torch NCHW", "jax / torch", "torch channels_last", "jax / torch"):
        theirs.add_column(column, justify="right")
    for architecture, row in figures.items():
        wall, cpu, ratios = row["milliseconds"], row["cpu_milliseconds"], row["jax_over_torch"]
        ours.add_row(
            architecture,
            f"{wall['jax']:.1f}",
            f"{cpu['jax']:.1f}",
            f"{row['gigaflop_per_second']:.0f}",
            f"{row['temp_mib']:.0f}",
            f"{row['compile_seconds']:.1f}",
            f"{row['compile_cpu_seconds']:.1f}",
        )
        if ratios:
            pairs = [(f"{cpu[name]:.1f}", f"{ratios[name]:.2f}") for name in ratios]
            cells = [cell for pair in pairs for cell in pair]
            theirs.add_row(architecture, f"{cpu['jax']:.1f}", *cells)
    return [ours, theirs] if theirs.rows else [ours]
