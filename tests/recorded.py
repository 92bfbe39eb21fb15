"""A small run, and what tests ask of directories of recorded runs."""

import json

import jax
import numpy as np

from protonorm_jax.config import Config
from protonorm_jax.running import checkpoint, reading

# Seven clients of two architectures: groups of four and three, which no device count divides.
SMALL = Config(
    family="mlp,cnn",
    num_clients=7,
    alpha=0.5,
    min_samples=5,
    rounds=3,
    batch_size=8,
    feature_dim=12,
    learning_rate=0.02,
    method_settings={"scale": 4.0},
    participation=0.8,
    dropout=0.2,
    devices=1,
)


def rows_of(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def arrays_of(directory):
    found = reading.read_arrays(directory)
    own = ("prototypes.npz", "clients.npz", "features.npz")
    return {name: array for file in own for name, array in found.get(file, {}).items()}


def content(path):
    """What is in a file that another process may remove at any moment; nothing if it is gone."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def count_lines(path):
    return content(path).count(b"\n")


def assert_same(first, second):
    """Asserts that two run directories hold the same results, bit by bit."""
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
    jax.tree.map(np.testing.assert_array_equal, arrays_of(first), arrays_of(second))
    assert not (second / checkpoint.FOLDER).exists()
    assert json.loads((second / "summary.json").read_text())["status"] == "finished"


def without_times(path):
    """The rows of `results.jsonl` but for how long they took."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]
