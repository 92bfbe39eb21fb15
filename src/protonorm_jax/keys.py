"""The only place where random keys are derived.

Every random number of a run comes from one root key by (stream, round, client), never by the
order in which work happens to be done, so results do not depend on how clients are grouped,
padded, mapped or spread over devices.

Only `fold_in` is used: `jax.random.split(key, n)[i]` equals `fold_in(key, i)`, so mixing the two
on one key would hand out the same key twice.
"""

import enum

import jax


class Stream(enum.IntEnum):
    """What a key is for. The numbers are part of the results: never renumber, only add."""

    SERVER_INIT = 0
    CLIENT_INIT = 1
    PARTICIPATION = 2
    DROPOUT = 3
    LOCAL_UPDATE = 4
    UPLOAD = 5
    AGGREGATE = 6
    FAILURES = 7
    STRAGGLERS = 8
    WORK = 9


def root(seed: int | jax.Array) -> jax.Array:
    """The root key of a run; the seed is an integer, or traced and uint32.

    Threefry always: its bits do not depend on the length drawn.
    """
    return jax.random.key(seed, impl="threefry2x32")


def derive(key: jax.Array, stream: Stream, *indices: jax.Array | int) -> jax.Array:
    """The key of `stream` at `indices`, by convention `(round_index, client_id)` as far as given.

    Args:
      key: the root key.
      stream: what the key is for.
      *indices: non-negative integers, traced or not.
    """
    key = jax.random.fold_in(key, int(stream))
    for index in indices:
        key = jax.random.fold_in(key, index)
    return key
