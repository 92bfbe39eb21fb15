"""What crosses between clients and server: averages in a fixed order, and exact counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from protonorm_jax.engine import exchange
from protonorm_jax.methods.method import Method, Upload


def average(places, order, weights):
    return exchange.average(places, jnp.array(order), jnp.array(weights))


def test_the_average_is_weighted_and_knows_who_stands_where():
    """Clients 0, 1 and 2 stand at places 2, 0 and 3; place 1 is an empty slot."""
    places = {
        "w": jnp.array([[1.0, 2.0], [7.0, 7.0], [5.0, 0.0], [3.0, 8.0]]),
        "b": jnp.arange(4.0),
    }
    mean = average(places, [2, 0, 3], [1, 2, 1])
    np.testing.assert_array_equal(mean["w"], [(5 + 2 + 3) / 4, (0 + 4 + 8) / 4])
    np.testing.assert_array_equal(mean["b"], (2 + 0 + 3) / 4)


def test_who_weighs_nothing_has_no_say():
    """Not even of what is not a number; neither have empty slots."""
    places = jnp.array([[jnp.nan, jnp.inf], [1.0, 2.0], [jnp.nan, 0.0], [3.0, 6.0]])
    mean = average(places, [0, 1, 3], [0, 5, 5])
    np.testing.assert_array_equal(mean, [2.0, 4.0])
    np.testing.assert_array_equal(average(places, [0, 1, 3], [0, 0, 1]), [3.0, 6.0])
    assert np.isnan(average(places, [0, 1, 3], [1, 5, 5])).any()


def test_who_is_away_needs_no_place():
    """Clients 1, 2 and 4 of five have one; those of the others are anybody's."""
    places = jnp.array([[3.0], [1.0], [2.0]])
    for elsewhere in (0, 2):
        mean = average(places, [elsewhere, 1, 2, elsewhere, 0], [0, 1, 1, 0, 2])
        np.testing.assert_array_equal(mean, [(1 + 2 + 2 * 3) / 4])


def test_without_any_weight_the_average_is_zero():
    mean = average(jnp.array([[jnp.nan, 1.0], [2.0, 3.0]]), [0, 1], [0, 0])
    np.testing.assert_array_equal(mean, [0.0, 0.0])


def test_the_average_has_the_bits_of_clients_added_in_order():
    """However they stand: of ten permutations of nine clients, against numpy in float32."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(9, 40)).astype(np.float32)
    weights = rng.integers(1, 90, 9)
    share = np.float32(1) / np.float32(weights.sum())
    function = jax.jit(exchange.average)
    results = []
    for _ in range(10):
        order = rng.permutation(9)
        places = np.empty_like(values)
        places[order] = values
        results.append(function(places, order, weights))
    for result in results:
        np.testing.assert_array_equal(result, results[0])
    wanted = np.zeros(40, np.float32)
    for weight, value in zip(weights, values, strict=True):
        wanted += np.float32(weight) * share * value
    np.testing.assert_allclose(results[0], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("weighting", "mean"), [("uniform", [3.0, 4.0]), ("samples", [3.5, 4.5])])
def test_what_is_lost_is_not_received(weighting, mean):
    """Two architectures; client 1 stands in the second and its upload is lost."""
    each = jnp.array([1, 2, 9])
    tables = jnp.arange(1.0, 19.0).reshape(3, 2, 3).at[2, 0, 0].set(jnp.nan)
    uploads = (
        Upload(
            each={"number": each[:2], "table": tables[:2]},
            mean=jnp.array([[2.0, 3.0], [4.0, 5.0]]),
            floats=jnp.array([7, 8]),
        ),
        Upload(
            each={"number": each[2:], "table": tables[2:]},
            mean=jnp.array([[jnp.inf, 0.0]]),
            floats=jnp.array([9]),
        ),
    )
    received, floats = exchange.receive(
        uploads,
        jnp.array([0, 2, 1]),
        jnp.array([True, False, True]),
        jnp.array([10, 50, 30]),
        method=Method(weighting=weighting),
        num_rows=3,
        client_devices=1,
    )
    np.testing.assert_array_equal(received.each["number"], [1, 0, 2])
    wanted = np.stack([tables[0], np.zeros((2, 3)), tables[1]])
    np.testing.assert_array_equal(received.each["table"], wanted)
    np.testing.assert_array_equal(received.mean, mean)
    np.testing.assert_array_equal(received.num_samples, [10, 50, 30])
    np.testing.assert_array_equal(floats, [7, 0, 8])


def test_of_few_who_take_part_only_those_have_rows():
    """Client 3 has trained but its upload is lost; the outputs stand in the order 4, 1, 3."""
    uploads = (Upload(jnp.array([[4.0], [1.0], [3.0]]), (), jnp.array([40, 10, 30])),)
    received, floats = exchange.receive(
        uploads,
        jnp.array([0, 1, 0, 2, 0]),
        jnp.array([False, True, False, False, True]),
        jnp.array([5, 6, 7, 8, 9]),
        method=Method(rows="arrived"),
        num_rows=3,
        client_devices=1,
    )
    np.testing.assert_array_equal(received.each, [[1.0], [4.0], [0.0]])
    np.testing.assert_array_equal(received.arrived, [True, True, False])
    np.testing.assert_array_equal(received.num_samples, [6, 9, 0])
    np.testing.assert_array_equal(floats, [0, 10, 0, 0, 40])


def test_a_run_gathers_from_its_own_devices_alone():
    """Two runs on two devices each; a client of the first architecture and two of the second."""
    values = jnp.arange(24.0).reshape(4, 3, 2)
    order, there = jnp.array([5, 0, 3, 2]), jnp.array([True, False, True, True])

    def gathered(leaf):
        outputs = ({"x": leaf[:1]}, {"x": leaf[1:]})
        ordered = exchange.in_client_order(outputs, order, None, 2)
        some = exchange.in_client_order(outputs, order, there, 2)
        return exchange.gather(outputs, 2)["x"], ordered["x"], some["x"]

    places, clients, some = jax.pmap(gathered, axis_name=exchange.AXIS)(values)
    for device in range(4):
        run = values[:2] if device < 2 else values[2:]
        np.testing.assert_array_equal(places[device], run.reshape(6, 2))
        np.testing.assert_array_equal(clients[device], run.reshape(6, 2)[order])
        np.testing.assert_array_equal(some[device], clients[device] * there[:, None])


def as_int(total):
    high, low = map(int, total)
    return high * 2**32 + low


CASES = {
    "nothing": [[0, 0]],
    "ones": [[1, 1, 1]] * 3,
    "one carry": [[2**31 - 1, 2**31 - 1, 2], [1]],
    "the largest": [[2**31 - 1] * 5] * 4,
    "many clients": [[2**31 - 1 - i for i in range(1000)]] * 3,
    "bytes that carry": [[0x00FF00FF, 0x7F00FF00, 0x01010101]] * 50,
    "from below": [[2**31 - 1, 2**31 - 1, 1], [1], [2**31 - 1] * 2],
}


@pytest.mark.parametrize("rounds", CASES.values(), ids=CASES)
def test_floats_add_up_exactly(rounds):
    add = jax.jit(exchange.add_floats)
    total, wanted = exchange.no_floats(), 0
    assert total.dtype == jnp.uint32 and as_int(total) == 0
    for counts in rounds:
        total = add(total, jnp.array(counts, jnp.int32))
        wanted += sum(counts)
        assert total.dtype == jnp.uint32 and as_int(total) == wanted


def test_floats_of_many_rounds_add_up_exactly():
    rng = np.random.default_rng(0)
    add = jax.jit(exchange.add_floats)
    total, wanted = jnp.array([0, 2**32 - 5], jnp.uint32), 2**32 - 5
    for _ in range(200):
        counts = rng.integers(0, 2**31, 37)
        total = add(total, jnp.asarray(counts, jnp.int32))
        wanted += sum(counts.tolist())
        assert as_int(total) == wanted
