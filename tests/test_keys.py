"""Random keys: each use has its own, and the numbers of none depend on another."""

import jax
import numpy as np

from protonorm_jax import keys


def test_keys_differ_by_stream_index_and_the_order_of_indices():
    root = keys.root(0)
    seen = {
        tuple(jax.random.key_data(keys.derive(root, stream, *indices)).tolist())
        for stream in keys.Stream
        for indices in [(), (0,), (1,), (0, 0), (0, 1), (1, 0)]
    }
    assert len(seen) == 6 * len(keys.Stream)


def test_keys_are_those_of_recorded_runs():
    """Streams keep their numbers, and fold in before round and client do."""
    assert [stream.value for stream in keys.Stream] == list(range(10))
    assert keys.Stream(6).name == "AGGREGATE" and keys.Stream(9).name == "WORK"
    expected = jax.random.key(9, impl="threefry2x32")
    for number in (keys.Stream.UPLOAD, 2, 3):
        expected = jax.random.fold_in(expected, int(number))
    actual = keys.derive(keys.root(9), keys.Stream.UPLOAD, 2, 3)
    assert jax.random.key_data(actual).tolist() == jax.random.key_data(expected).tolist()


def test_bits_do_not_depend_on_how_many_are_drawn():
    """What shuffles rely on that do not depend on padding."""
    key = keys.root(3)
    np.testing.assert_array_equal(jax.random.bits(key, (90,))[:37], jax.random.bits(key, (37,)))
