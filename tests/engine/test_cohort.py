"""Who trains in a round, among the slots of all devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from protonorm_jax.engine import cohort, exchange

# Eight clients of two architectures on two devices: slots of each, -1 for nobody.
CLIENT_IDS = (np.array([[4, 0, 6], [2, 7, -1]]), np.array([[1, 3], [5, -1]]))
ORDER = np.array([1, 3, 5, 4, 0, 8, 2, 6])


def choose(trains, rooms=(3, 2)):
    """The cohort on each of the two devices."""
    function = functools.partial(cohort.choose, rooms=rooms, client_devices=2)
    return [
        function(
            jnp.array(trains), jnp.array(ORDER), [jnp.array(ids[device]) for ids in CLIENT_IDS]
        )
        for device in range(2)
    ]


def test_the_order_of_these_tests_is_that_of_a_layout():
    flat = np.concatenate(CLIENT_IDS, axis=1).reshape(-1)
    np.testing.assert_array_equal(flat[ORDER], np.arange(8))


def test_those_who_train_are_found_in_their_slots():
    trains = np.isin(np.arange(8), [1, 2, 3, 6])
    first, second = choose(trains, rooms=(2, 2))
    assert [one.tolist() for one in first.chosen] == [[2, 3], [0, 1]]
    assert [one.tolist() for one in second.chosen] == [[0, 3], [2, 2]]
    assert list(map(int, (*first.counts, *second.counts))) == [1, 2, 1, 0]


def test_an_empty_slot_never_trains():
    """Though its id, -1, would be the last client's."""
    _, second = choose(np.arange(8) == 7)
    assert [one.tolist() for one in second.chosen] == [[1, 3, 3], [2, 2]]


def test_outputs_are_found_where_the_loops_put_them():
    """Of random cohorts: each output says whose it is, and all devices have their part."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        trains = rng.random(8) < rng.random()
        devices = choose(trains)
        outputs = [
            np.concatenate(
                [
                    np.append(ids[device], -1)[np.asarray(chosen)]
                    for ids, chosen in zip(CLIENT_IDS, devices[device].chosen, strict=True)
                ]
            )
            for device in range(2)
        ]
        places = np.concatenate(outputs)
        for one in devices:
            np.testing.assert_array_equal(places[one.places][trains], np.flatnonzero(trains))
            assert np.all((one.places >= 0) & (one.places < len(places)))


def test_the_places_are_those_of_what_is_gathered():
    trains = np.isin(np.arange(8), [0, 3, 5, 7])

    def one_device(own):
        found = cohort.choose(jnp.array(trains), jnp.array(ORDER), own, (3, 2), 2)
        outputs = tuple(
            jnp.append(ids, -1)[chosen] for ids, chosen in zip(own, found.chosen, strict=True)
        )
        return exchange.in_client_order(outputs, found.places, jnp.array(trains), 2)

    result = jax.pmap(one_device, axis_name=exchange.AXIS)([jnp.array(ids) for ids in CLIENT_IDS])
    for device in range(2):
        np.testing.assert_array_equal(result[device], np.where(trains, np.arange(8), 0))
