"""One client's training step, by architecture: on one core, on two devices, beside torch's."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import jax
from rich.table import Table

from protonorm_jax import models

from . import harness, processes, roofline, timing
from .tables import table, values

NAMES = (
    *(*models.FAMILIES["ht0"], "fedavg_cnn", "googlenet", "resnet50"),
    *("tiny_vit", "vit_b_32", "vit_b_16"),
)

_temp_mib: dict[str, float] = {}  # Of the architectures measured so far.


def work(architecture: str) -> roofline.Work:
    """What one step costs at least."""
    model = harness.model(architecture, "native")
    return roofline.count(model, harness.SHAPES["cifar"], harness.BATCH_SIZE)


def temporary_bytes(architecture: str) -> int:
    """Temporaries of the single-client step; compiled if it was not measured."""
    if architecture not in _temp_mib:
        with ExitStack() as stack:
            row = harness.child(stack)(harness.prepare_steps, architecture, 1, 1)
        _temp_mib[architecture] = row["temp_mib"]
    return round(_temp_mib[architecture] * 2**20)


def measure(
    architectures: Sequence[str] = NAMES,
    num_steps: int = 16,
    repetitions: int = 5,
    rate_sizes: tuple[int, int] = (2048, 256),
    *,
    beside_torch: bool,
) -> dict[str, Any]:
    """All figures, by architecture.

    On CPU, everything but the two devices runs in processes of its own with one core each. The
    rates for the roofline are measured in that of the step and by turns with it.

    Args:
      architectures: models that the torch side has as well.
      num_steps: steps in one call of ours; torch takes a quarter of them in a repetition.
      repetitions: of each measurement; medians are given.
      rate_sizes: see `roofline.prepare_rates`.
      beside_torch: whether torch takes its turns.
    """
    figures = {}
    on_cpu = jax.default_backend() == "cpu"
    with ExitStack() as stack:
        call = harness.child(stack, one_core=True)
        call(roofline.prepare_rates, *rate_sizes)
        rate_clocks = {
            name: partial(call, roofline.time_rate, name) for name in ("product", "stream")
        }
        pair_call = torch_call = None
        if on_cpu or jax.local_device_count() > 1:
            pair_call = harness.child(stack, num_devices=2)
        if beside_torch:
            from . import torch_side as side

            fewer = max(1, num_steps // 4)
            torch_call = stack.enter_context(processes.child(one_core=True))
        for architecture in architectures:
            row = figures[architecture] = call(harness.prepare_steps, architecture, num_steps, 1)
            _temp_mib[architecture] = row["temp_mib"]
            clocks = rate_clocks | {"jax": partial(call, harness.time_steps, num_steps)}
            if torch_call:
                batches = harness.random_samples(fewer * harness.BATCH_SIZE, "cifar")
                row["torch_parameters"] = torch_call(side.prepare_steps, architecture, *batches)
                clocks |= {
                    name: partial(torch_call, side.time_steps, name) for name in side.LAYOUTS
                }
            times = timing.medians(clocks, repetitions)
            # On CPU the time of the processor, which other programs do not lengthen as much.
            step, *rate_times = (
                getattr(times[name], "cpu" if on_cpu else "wall")
                for name in ("jax", "product", "stream")
            )
            nets = {name: time for name, time in times.items() if name not in rate_clocks}
            cpu = {name: time.cpu for name, time in nets.items()}
            row["milliseconds"] = {name: time.wall for name, time in nets.items()}
            row["cpu_milliseconds"] = cpu
            row["jax_over_torch"] = {n: cpu["jax"] / cpu[n] for n in cpu if n != "jax"}
            row |= roofline.share(work(architecture), step, *rate_times, *rate_sizes)
            row["two_devices"] = None
            if pair_call:
                pair = pair_call(harness.prepare_steps, architecture, num_steps, 2)
                # A step is one client's: two of them pass at a time.
                clocks = {"pair": partial(pair_call, harness.time_steps, 2 * num_steps)}
                wall, cpu = timing.medians(clocks, repetitions)["pair"]
                row["two_devices"] = pair | {"milliseconds": wall, "cpu_milliseconds": cpu}
    return figures


def tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `measure`."""
    before = "milliseconds.jax cpu_milliseconds.jax two_devices.milliseconds gigaflop_per_second"
    after = "temp_mib compile_seconds compile_cpu_seconds"
    ours, theirs = [], []
    for architecture, row in figures.items():
        share = f"{row['roofline_fraction']:.2f} {row['roofline_bound']}"
        ours.append((architecture, *values(row, before), share, *values(row, after)))
        cpu, ratios = row["cpu_milliseconds"], row["jax_over_torch"]
        if ratios:
            pairs = [(cpu[name], ratio) for name, ratio in ratios.items()]
            theirs.append((architecture, cpu["jax"], *sum(pairs, ())))
    operations, traffic = (
        " to ".join(f"{rate / 1e9:.0f}" for rate in (min(rates), max(rates)))
        for rates in zip(*(row["rates"].values() for row in figures.values()), strict=True)
    )
    results = [
        table(
            f"Client step, batch {harness.BATCH_SIZE}, one core on CPU",
            "model | ms a step:.1f | CPU ms:.1f | 2 devices:.1f | GFLOP/s:.0f | roofline | "
            "temp MiB:.0f | compile s:.1f | CPU s:.1f",
            ours,
            "2 devices: ms a client step where two clients train at the same time\n"
            f"roofline: the least time at {operations} GFLOP/s (flop) and {traffic} GB/s (bytes),\n"
            "whichever is longer, over the measured time",
        )
    ]
    if theirs:
        columns = "torch NCHW:.1f | jax / torch:.2f | torch channels_last:.1f | jax / torch:.2f"
        title = "Client step beside torch, CPU ms, on the same core"
        results.append(table(title, f"model | jax:.1f | {columns}", theirs))
    return results
