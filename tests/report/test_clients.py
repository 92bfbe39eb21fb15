"""The table and the picture of who holds what."""

import io

import numpy as np
import pytest
from rich.console import Console

from protonorm_jax import report
from protonorm_jax.report import clients


def printed(table):
    console = Console(width=120, file=io.StringIO())
    console.print(table)
    return [line.split() for line in console.file.getvalue().splitlines() if line.strip()]


def test_the_table_has_classes_where_they_fit():
    train, test = np.array([[3, 0, 1200], [0, 5, 0]]), np.array([[1, 0, 0], [0, 0, 0]])
    head, _, first, second = printed(report.clients_table(train, test, ["north", "b"]))
    assert head == ["client", "train", "test", "classes", "0", "1", "2"]
    assert first == ["north", "1,203", "1", "2", "4", "-", "1,200"]
    assert second == ["b", "5", "0", "1", "-", "5", "-"]


def test_the_table_of_many_classes_has_the_largest():
    train = np.eye(3, 40, dtype=int) * 6 + 2
    head, _, first, second, *_ = printed(report.clients_table(train, train * 0))
    assert head == ["client", "train", "test", "classes", "largest", "class", "share"]
    assert first == ["0", "86", "0", "40", "0", "9%"] and second[4] == "1"


@pytest.mark.parametrize(
    ("shape", "tested"),
    [((1, 2), False), ((20, 10), True), ((200, 100), 0), ((1201, 3), True)],
)
def test_the_picture_can_be_drawn_of_few_and_many(shape, tested):
    train = np.random.default_rng(0).integers(0, 9, shape)
    file = io.BytesIO()
    report.draw_clients(train, train // 3 * tested, file)
    assert file.getvalue().startswith(b"\x89PNG") and len(file.getvalue()) < 2**20


def test_neighbours_of_many_clients_share_a_column():
    counts = np.random.default_rng(0).integers(0, 9, (1201, 3))
    found, each = clients.joined(counts)
    assert each == 3 and found.shape == (401, 3)
    np.testing.assert_array_equal(found[1], counts[3:6].sum(axis=0))
    np.testing.assert_array_equal(found[-1], counts[-1])
    few, each = clients.joined(counts[:500])
    assert each == 1
    np.testing.assert_array_equal(few, counts[:500])
