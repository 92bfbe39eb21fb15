"""Tables and lines that people read: every number in its own column."""

from typing import NamedTuple

import numpy as np
from rich.console import Console

from protonorm_jax import report


class Difference(NamedTuple):
    """As the comparison of a recorded run with its repetition finds them."""

    name: str
    recorded: float
    now: float
    within: bool


def cells(table):
    """The rows of a table as text, without white space."""
    return list(zip(*(list(column.cells) for column in table.columns), strict=True))


def names(table):
    return [column.header for column in table.columns]


def test_comparison_puts_numbers_in_their_columns_and_fits_into_a_terminal():
    numbers = {
        "prototype_accuracy": 0.1234,
        "prototype_accuracy_best": 0.2,
        "head_accuracy": 0.3,
        "head_accuracy_best": 0.4,
        "majority_accuracy": 0.5,
        "prototype_accuracy_std": 0.06,
        "head_accuracy_std": 0.07,
        "min_angle": 80.04,
        "floats_up": 1234567,
        "seconds": 9.96,
    }
    without = {name: value for name, value in numbers.items() if "prototype" not in name}
    table = report.comparison_table(
        [{"method": "protonorm", **numbers}, {"method": "local", **without, "min_angle": None}]
    )
    assert names(table) == [
        *("method", "prototype", "best", "head", "best"),
        *("majority", "std", "angle", "floats up", "run s"),
    ]
    common = ("0.300", "0.400", "0.500")
    assert cells(table) == [
        ("protonorm", "0.123", "0.200", *common, "0.060", "80.0", "1,234,567", "10.0"),
        ("local", "-", "-", *common, "0.070", "-", "1,234,567", "10.0"),
    ]
    assert Console(width=200).measure(table).maximum <= 80


def test_plan_says_how_runs_become_calls():
    program = {
        "fixed": {"method": "local", "alpha": 0.5},
        "runs": 10,
        "runs_per_program": 4,
        "devices": 2,
        "runs_each": 5,
        "vmap_runs": 6,
        "bytes_per_device": 3 * 2**29,
        "floats_up": 12345,
        "floats_down": 0,
        "server_steps": 700,
    }
    other = program | {"runs": 1, "fixed": {"method": "local", "alpha": 2}}
    table = report.plan_table([program, other])
    assert table.title == "11 runs, 2 programs to compile"
    assert names(table)[:5] == ["method", "alpha", "runs", "at a time", "calls"]
    assert cells(table) == [
        ("local", "0.5", "10", "4", "3", "2", "5", "6", "1,536.0", "12,345", "0", "700"),
        ("local", "2", "1", "4", "1", "2", "5", "6", "1,536.0", "12,345", "0", "700"),
    ]
    assert report.plan_table([other]).title == "1 run, 1 program to compile"


def test_sweep_averages_over_seeds_and_leaves_failures_out():
    rows = [
        {"status": "finished", "alpha": 1, "rounds": 3, "head_accuracy": accuracy}
        | {"floats_up": 4 * number, "floats_down": 1000, "seconds": 1.5 * number}
        for number, accuracy in enumerate((0.25, 0.5, 0.75), 1)
    ]
    failed = {"status": "failed", "alpha": 2, "rounds": 3, "head_accuracy": 0.1}
    table = report.sweep_table([*rows, failed], ["alpha", "rounds"])
    assert names(table)[:3] == ["alpha", "runs", "failed"], "What does not vary is left out."
    error = 0.25 / np.sqrt(3)
    assert cells(table) == [
        ("1", "3", "0", f".500±{error:.3f}".replace("0.", "."), "-", "-", "8", "1,000", "1"),
        ("2", "0", "1", "-", "-", "-", "-", "-", "-"),
    ]
    columns = ["runs", "head", "best", "majority", "floats up", "floats down", "s/round"]
    assert names(report.sweep_table(rows, ["alpha"])) == columns


def test_verification_joins_equal_rounds_and_shows_the_worst_of_the_others():
    small, large = Difference("loss", 1.0, 1.1, True), Difference("accuracy", 0.5, 0.7, False)
    rounds = [(1, []), (3, []), (5, [small]), (7, [small, large]), (9, []), (11, [small] * 5)]
    arrays = {"prototypes.npz": [small], "server.npz": []}
    lines = report.verification_lines(rounds, arrays, ["jax 1 -> 2"])
    assert lines == [
        "not as recorded: jax 1 -> 2",
        "rounds 1 to 3: bit-identical (2 rows)",
        "round 5: within tolerance: loss 1.0 -> 1.1",
        "round 7: DIFFERENT: accuracy 0.5 -> 0.7",
        "round 9: bit-identical (1 row)",
        f"round 11: within tolerance: {'; '.join(['loss 1.0 -> 1.1'] * 3)}; and 2 more",
        "prototypes.npz: within tolerance: loss 1.0 -> 1.1",
        "server.npz: bit-identical",
    ]
    assert report.verification_lines([], {}, []) == []
    worst = report.verification_lines([], {"prototypes.npz": [small, large]}, [])
    assert "DIFFERENT: accuracy" in worst[0]


def test_pairwise_angles_do_not_depend_on_lengths():
    vectors = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, 0.0], [5.0, 5.0]])
    angles = report.pairwise_angles(vectors)
    np.testing.assert_allclose(angles[0, [1, 2, 4]], [90.0, 180.0, 45.0])
    np.testing.assert_allclose(angles[[1, 2, 4], 0], [90.0, 180.0, 45.0])
    assert np.isnan(np.diagonal(angles)).all() and np.isnan(angles[3]).all()
    large = report.pairwise_angles(np.float32(1e30) * vectors.astype(np.float32))
    np.testing.assert_allclose(large, angles, atol=1e-4)


def test_arguments_that_tiles_fill_up_are_named():
    arguments = [
        {"name": name, "layout": "f32[5]", "bytes": 2**21, "share": share}
        for name, share in (("states.server", 0.26), ("samples.labels", 0.25))
    ]
    rows = [
        {"program": "1", "name": "rounds", "padded": {"arguments": arguments}},
        {"program": "1", "name": "init", "padded": None},
    ]
    (line,) = report.padded_lines(rows)
    assert line == (
        "1 rounds: states.server takes 2.0 MiB, in 26 % of which no number lies: f32[5]"
    )
