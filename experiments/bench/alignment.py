"""Prototype alignment: time, quality, batching and memory; and beside torch's loop."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from rich.table import Table

from protonorm_jax import thomson

from . import processes, timing

DIM = 512
METHODS: dict[str, dict[str, Any]] = {
    "simplex": {"method": "simplex"},
    "thomson": {"method": "thomson"},
    "reference": {"method": "reference"},
    "reference, 500 steps": {"method": "reference", "early_stop": False},
}

_programs: dict[str, Callable[[], Any]] = {}


def collapsed(num_points: int, dim: int, seed: int = 0) -> np.ndarray:
    """`[num_points, dim]` float32: one random direction, and 5 % of random ones added to it."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((num_points + 1, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows[0] + 0.05 * rows[1:]).astype(np.float32)


def measure(
    counts: Sequence[int], num_sets: int, most_points: int, repetitions: int
) -> dict[str, Any]:
    """All figures of `thomson.align` on the default device.

    Args:
      counts: numbers of points to measure every method at.
      num_sets: sets of points to align in one call, and one after the other.
      most_points: number of points at which to ask for the memory that `thomson` needs.
      repetitions: of each measurement; medians are given.
    """
    return {
        "methods": {str(count): _methods(count, repetitions) for count in counts},
        "batch": _batch(num_sets, min(100, max(counts)), repetitions),
        "memory": _memory(most_points),
    }


def _methods(count: int, repetitions: int) -> dict[str, Any]:
    vectors = jax.device_put(collapsed(count, DIM))
    figures, clocks = {}, {}
    for name, options in METHODS.items():
        align = jax.jit(functools.partial(thomson.align, **options))
        program, seconds = timing.compile_program(align, vectors)
        result = program(vectors)
        figures[name] = {
            "iterations": int(result.iterations),
            "min_angle": float(thomson.min_angle(result.points)),
            "relative_gap": float(result.gap),
            **seconds,
        }
        clocks[name] = _clock(program, vectors)
    for name, times in timing.alternate(clocks, repetitions).items():
        figures[name]["milliseconds"] = timing.median(times).wall
    return figures


def _clock(program: Callable[..., Any], *arguments: Any) -> Callable[[], timing.Times]:
    """A repetition: as many calls as make up a time that can be measured."""

    def call() -> None:
        jax.block_until_ready(program(*arguments))

    return functools.partial(timing.clock, call, timing.calls_for(call))


def _batch(num_sets: int, count: int, repetitions: int) -> dict[str, Any]:
    """`simplex` of many sets: vmapped, and one after the other."""
    sets = [jax.device_put(collapsed(count, DIM, seed)) for seed in range(num_sets)]
    align = functools.partial(thomson.align, method="simplex")
    single, _ = timing.compile_program(jax.jit(align), sets[0])
    stacked = jax.device_put(np.stack(sets))
    batched, seconds = timing.compile_program(jax.jit(jax.vmap(align)), stacked)
    clocks = {
        "vmapped": _clock(batched, stacked),
        "single": _clock(lambda: [single(vectors) for vectors in sets]),
    }
    times = timing.alternate(clocks, repetitions)
    vmapped, singly = (timing.median(times[name]).wall for name in clocks)
    return {
        "num_sets": num_sets,
        "num_points": count,
        "vmapped_milliseconds": vmapped,
        "single_milliseconds": singly,
        "ratio": vmapped / singly,
        **seconds,
    }


def _memory(count: int) -> dict[str, Any]:
    align = jax.jit(functools.partial(thomson.align, method="thomson"))
    points = jax.ShapeDtypeStruct((count, DIM), np.float32)
    program, _ = timing.compile_program(align, points)
    usage = program.memory_analysis()
    return {"num_points": count, "temp_mib": usage.temp_size_in_bytes / 2**20}


def prepare(name: str, vectors: np.ndarray) -> int:
    """Compiles a method for `time_prepared`; returns the iterations it takes."""
    placed = jax.device_put(vectors)
    align = jax.jit(functools.partial(thomson.align, **METHODS[name]))
    program, _ = timing.compile_program(align, placed)
    _programs[name] = _clock(program, placed)
    return int(program(placed).iterations)


def time_prepared(name: str) -> timing.Times:
    """The times of one call of a prepared method."""
    return _programs[name]()


def beside_torch(counts: Sequence[int], repetitions: int) -> dict[str, Any]:
    """CPU time of our methods and of the reference's loop in torch, one core each, by turns."""
    from . import torch_side

    figures = {}
    with processes.child(one_core=True) as ours, processes.child(one_core=True) as theirs:
        for count in counts:
            vectors = collapsed(count, DIM)
            _, steps = theirs(torch_side.reference_align, vectors)
            iterations = {
                "torch": steps,
                "simplex": ours(prepare, "simplex", vectors),
                "reference": ours(prepare, "reference", vectors),
            }
            clocks = {
                "torch": functools.partial(theirs, torch_side.time_alignment, vectors),
                "simplex": functools.partial(ours, time_prepared, "simplex"),
                "reference": functools.partial(ours, time_prepared, "reference"),
            }
            times = timing.alternate(clocks, repetitions)
            cpu = {name: timing.median(taken).cpu for name, taken in times.items()}
            figures[str(count)] = {
                "cpu_milliseconds": cpu,
                "iterations": iterations,
                "torch_over_simplex": cpu["torch"] / cpu["simplex"],
                "torch_over_reference": cpu["torch"] / cpu["reference"],
            }
    return figures


def tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `measure`."""
    main = Table(title=f"Alignment, D = {DIM}")
    for column in ("C", "method", "ms a call", "iterations", "min angle", "gap", "compile s"):
        main.add_column(column, justify="left" if column == "method" else "right")
    for count, methods in figures["methods"].items():
        for name, row in methods.items():
            main.add_row(
                count,
                name,
                f"{row['milliseconds']:.3g}",
                str(row["iterations"]),
                f"{row['min_angle']:.3f}",
                f"{row['relative_gap']:.1e}",
                f"{row['compile_seconds']:.1f}",
            )
        main.add_section()
    batch, memory = figures["batch"], figures["memory"]
    main.caption = (
        f"{batch['num_sets']} sets of ({batch['num_points']}, {DIM}), simplex: "
        f"{batch['vmapped_milliseconds']:.3g} ms vmapped, {batch['single_milliseconds']:.3g} ms "
        f"one after the other, ratio {batch['ratio']:.2f}\n"
        f"thomson at C = {memory['num_points']}: {memory['temp_mib']:.1f} MiB of temporaries"
    )
    return [main]


def torch_tables(figures: dict[str, Any]) -> list[Table]:
    """What to print of `beside_torch`."""
    table = Table(title="Alignment beside torch, CPU ms a call, one core each")
    for column in ("C", "torch loop", "steps", "reference", "steps", "torch / reference"):
        table.add_column(column, justify="right")
    for column in ("simplex", "torch / simplex"):
        table.add_column(column, justify="right")
    for count, row in figures.items():
        cpu, iterations = row["cpu_milliseconds"], row["iterations"]
        table.add_row(
            count,
            f"{cpu['torch']:.4g}",
            str(iterations["torch"]),
            f"{cpu['reference']:.3g}",
            str(iterations["reference"]),
            f"{row['torch_over_reference']:.0f}",
            f"{cpu['simplex']:.3g}",
            f"{row['torch_over_simplex']:.0f}",
        )
    table.caption = "wanted of torch / simplex: >= 60 at C = 100, >= 150 at C = 200"
    return [table]
