"""Whether of all that a client receives only the last counts."""

import jax
import jax.numpy as jnp
import pytest

from protonorm_jax.engine import absent
from protonorm_jax.methods.method import keep
from protonorm_jax.methods.shared import heads, mentee
from protonorm_jax.types import Client, Models

MODEL = {"base": jnp.zeros(3), "head": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}
CLIENT = Client({"model": MODEL}, {"model": {"mean": jnp.zeros(3)}})
MODELS = Models(None)


def half(client, down, models):
    """What the client has is mixed with what was sent: each of two times counts."""
    del models
    return jax.tree.map(lambda own, other: (own + other) / 2, client, down)


def hidden_away(client, down, models):
    """A sum within a program of its own."""
    return jax.jit(lambda *both: half(*both, models))(client, down)


TWO_SHARED = Client({"model": MODEL, "shared": MODEL}, {"model": {}, "shared": {}})
SHARED = {"params": MODEL, "batch_stats": {}}

CASES = {
    "a head": (heads.receive, CLIENT, MODEL["head"], True),
    "a mentee": (mentee.receive, TWO_SHARED, SHARED, True),
    "nothing": (keep, CLIENT, MODEL, True),
    "twice what was sent": (
        lambda client, down, models: client._replace(statistics={"model": {"mean": 2 * down + 1}}),
        CLIENT,
        jnp.zeros(3),
        True,
    ),
    "ones": (lambda client, down, models: jax.tree.map(jnp.ones_like, client), CLIENT, (), True),
    "a mixture": (half, CLIENT, CLIENT, False),
    "a mixture in a program of its own": (hidden_away, CLIENT, CLIENT, False),
}


@pytest.mark.parametrize(
    ("receive", "client", "down", "wanted"), list(CASES.values()), ids=list(CASES)
)
def test_overwriting_is_told_from_mixing(receive, client, down, wanted):
    assert absent.overwrites(receive, client, down, MODELS) is wanted


def test_an_array_that_takes_the_place_of_another_of_the_client_counts_each_time():
    """A second time would move it on."""

    def rotate(client, down, models):
        del down, models
        first, second = client.params["a"], client.params["b"]
        return client._replace(params={"a": second, "b": first})

    client = Client({"a": jnp.zeros(2), "b": jnp.zeros(2)}, {})
    assert not absent.overwrites(rotate, client, (), MODELS)
