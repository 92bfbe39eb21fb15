"""Prototype alignment: time, quality, batching and memory; and beside torch's loop."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from rich.table import Table

from protonorm_jax import thomson

from . import processes, timing
from .tables import table, values

DIM = 512
METHODS: dict[str, dict[str, Any]] = {
    **{name: {"method": name} for name in ("simplex", "thomson", "reference")},
    "reference, 500 steps": {"method": "reference", "early_stop": False},
}

_clocks: dict[str, Callable[[], timing.Times]] = {}


def collapsed(num_points: int, seed: int = 0) -> np.ndarray:
    """`[num_points, DIM]` float32: one random direction, and 5 % of random ones added to it."""
    rows = np.random.default_rng(seed).standard_normal((num_points + 1, DIM))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows[0] + 0.05 * rows[1:]).astype(np.float32)


def measure(
    counts: Sequence[int] = (10, 100, 200),
    num_sets: int = 64,
    most_points: int = 1000,
    repetitions: int = 5,
    *,
    beside_torch: bool,
) -> dict[str, Any]:
    """All figures of `thomson.align` on the default device.

    Args:
      counts: numbers of points to measure every method at.
      num_sets: sets of points to align in one call, and one after the other.
      most_points: number of points at which to ask for the memory that `thomson` needs.
      repetitions: of each measurement; medians are given.
      beside_torch: whether torch is measured, too.
    """
    figures = {}
    for count in counts:
        rows = figures[str(count)] = {name: prepare(name, collapsed(count)) for name in METHODS}
        for name, times in timing.medians(_clocks, repetitions).items():
            rows[name]["milliseconds"] = times.wall
    points = jax.ShapeDtypeStruct((most_points, DIM), np.float32)
    program, _ = timing.compile_program(_jitted("thomson"), points)
    temporaries = program.memory_analysis().temp_size_in_bytes
    return {
        "methods": figures,
        "batch": _batch(num_sets, min(100, max(counts)), repetitions),
        "memory": {"num_points": most_points, "temp_mib": temporaries / 2**20},
        "beside_torch": _beside_torch(counts, repetitions) if beside_torch else {},
    }


def _jitted(name: str) -> Any:
    return jax.jit(functools.partial(thomson.align, **METHODS[name]))


def _clock(program: Callable[..., Any], *arguments: Any) -> Callable[[], timing.Times]:
    """A repetition: as many calls as make up a time that can be measured."""

    def call() -> None:
        jax.block_until_ready(program(*arguments))

    return functools.partial(timing.clock, call, timing.calls_for(call))


def prepare(name: str, vectors: np.ndarray) -> dict[str, Any]:
    """Compiles a method for `time_prepared`; returns what it came to."""
    placed = jax.device_put(vectors)
    program, seconds = timing.compile_program(_jitted(name), placed)
    _clocks[name] = _clock(program, placed)
    result = program(placed)
    return {
        "iterations": int(result.iterations),
        "min_angle": float(thomson.min_angle(result.points)),
        "relative_gap": float(result.gap),
        **seconds,
    }


def time_prepared(name: str) -> timing.Times:
    """The times of one call of a prepared method."""
    return _clocks[name]()


def _batch(num_sets: int, count: int, repetitions: int) -> dict[str, Any]:
    """`simplex` of many sets: vmapped, and one after the other."""
    sets = [jax.device_put(collapsed(count, seed)) for seed in range(num_sets)]
    single, _ = timing.compile_program(_jitted("simplex"), sets[0])
    stacked = jax.device_put(np.stack(sets))
    batched, seconds = timing.compile_program(jax.jit(jax.vmap(_jitted("simplex"))), stacked)
    by_turns = _clock(lambda: [single(vectors) for vectors in sets])
    clocks = {"vmapped": _clock(batched, stacked), "single": by_turns}
    vmapped, singly = (times.wall for times in timing.medians(clocks, repetitions).values())
    figures = {"num_sets": num_sets, "num_points": count, **seconds}
    figures |= {"vmapped_milliseconds": vmapped, "single_milliseconds": singly}
    return figures | {"ratio": vmapped / singly}


def _beside_torch(counts: Sequence[int], repetitions: int) -> dict[str, Any]:
    """CPU time of our methods and of the reference's loop in torch, one core each, by turns."""
    from tests.torch_reference import loops

    from . import torch_side

    figures = {}
    with processes.child(one_core=True) as ours, processes.child(one_core=True) as theirs:
        for count in counts:
            vectors = collapsed(count)
            _, steps = theirs(loops.align, vectors)
            iterations = {"torch": steps}
            clocks = {"torch": functools.partial(theirs, torch_side.time_alignment, vectors)}
            for name in ("simplex", "reference"):
                iterations[name] = ours(prepare, name, vectors)["iterations"]
                clocks[name] = functools.partial(ours, time_prepared, name)
            times = timing.medians(clocks, repetitions)
            cpu = {name: median.cpu for name, median in times.items()}
            over = {
                f"torch_over_{name}": cpu["torch"] / cpu[name] for name in ("simplex", "reference")
            }
            figures[str(count)] = {"cpu_milliseconds": cpu, "iterations": iterations, **over}
    return figures


def tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `measure`."""
    names = "milliseconds iterations min_angle relative_gap compile_seconds"
    rows: list[Sequence[Any]] = []
    for count, methods in figures["methods"].items():
        rows += [(count, name, *values(row, names)) for name, row in methods.items()]
        rows.append(())
    batch, memory = figures["batch"], figures["memory"]
    ours = table(
        f"Alignment, D = {DIM}",
        "C | method | ms a call:.3g | iterations | min angle:.3f | gap:.1e | compile s:.1f",
        rows,
        f"{batch['num_sets']} sets of ({batch['num_points']}, {DIM}), simplex: "
        f"{batch['vmapped_milliseconds']:.3g} ms vmapped, {batch['single_milliseconds']:.3g} ms "
        f"one after the other, ratio {batch['ratio']:.2f}\n"
        f"thomson at C = {memory['num_points']}: {memory['temp_mib']:.1f} MiB of temporaries",
    )
    names = (
        "cpu_milliseconds.torch iterations.torch cpu_milliseconds.reference iterations.reference "
        "torch_over_reference cpu_milliseconds.simplex torch_over_simplex"
    )
    theirs = table(
        "Alignment beside torch, CPU ms a call, one core each",
        "C | torch loop:.4g | steps | reference:.3g | steps | torch / reference:.0f | "
        "simplex:.3g | torch / simplex:.0f",
        [(count, *values(row, names)) for count, row in figures["beside_torch"].items()],
        "wanted of torch / simplex: >= 60 at C = 100, >= 150 at C = 200",
    )
    return [ours, theirs] if figures["beside_torch"] else [ours]
