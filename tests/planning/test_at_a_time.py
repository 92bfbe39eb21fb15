"""How many runs train at a time."""

import pytest

from protonorm_jax.planning import at_a_time


@pytest.mark.parametrize(
    ("num_runs", "num_devices", "vmap_runs", "wanted"),
    [(64, 8, 1, 8), (5, 8, 1, 5), (64, 8, 4, 32), (20, 8, 4, 20), (64, 8, 0, 64)],
)
def test_more_than_one_run_of_a_device_pays_where_they_are_vmapped(
    num_runs, num_devices, vmap_runs, wanted
):
    assert at_a_time.most(num_runs, num_devices, vmap_runs) == wanted


@pytest.mark.parametrize(
    ("most", "num_devices", "wanted"),
    [
        (8, 1, [8, 4, 3, 2, 1]),
        (64, 8, [64, 32, 22, 16, 13, 11, 10, 8, 4, 2, 1]),
        (64, 32, [64, 32, 16, 8, 4, 2, 1]),
        (5, 8, [5, 2, 1]),
        (1, 8, [1]),
    ],
)
def test_numbers_of_runs_to_choose_from(most, num_devices, wanted):
    assert at_a_time.choices(most, num_devices) == wanted


@pytest.mark.parametrize("limit", [100, 64, 40, 15, 3, 1, 0])
def test_the_largest_that_fits_is_found_with_few_questions(limit):
    counts, asked = at_a_time.choices(64, 8), []

    def fits(count):
        asked.append(count)
        return count <= limit

    found = at_a_time.largest(counts, fits)
    assert found == next((count for count in counts if count <= limit), 1)
    assert len(asked) <= (1 if limit >= 64 else 5)
