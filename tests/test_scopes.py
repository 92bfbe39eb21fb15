"""What compiled programs say of their loops."""

import jax
import jax.numpy as jnp
import pytest

from protonorm_jax import scopes
from protonorm_jax.scopes import Loop

ROUND = "jit(_fun)/loop.rounds/while/body/jit(_round)/"
NAMES = {
    "jit(_fun)/loop.runs/while": Loop("runs", False),
    "jit(_fun)/loop.runs/while/body/vmap(jit(one))/loop.rounds/while": Loop("rounds", False),
    ROUND + "loop.clients.3/while": Loop("clients", True, 3),
    ROUND + "loop.clients.3/while/body/jit(train)/loop.steps/while": Loop("steps", True, 3),
    ROUND + "loop.clients.0/while/body/vmap(jit(train))/loop.batches/loop.width.5/while": Loop(
        "batches", True, 0, 5
    ),
    ROUND + "loop.clients.0/while/body/jit(train)/vmap(loop.steps)/while": Loop("steps", True, 0),
    "jit(_fun)/loop.clients.1/while/body/jit(f)/loop.batches/while": Loop("batches", False, 1),
    ROUND + "loop.times.20/while": 20,
    ROUND + "while": None,
    # What the compiler has made a loop of, in a place of that name.
    ROUND + "loop.clients.0/while/body/loop.steps/gather": None,
    ROUND + "loop.clients.0/while/body/loop.steps/jit(argsort)/while": None,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_read(name):
    assert scopes.read(name) == NAMES[name]


def test_a_loop_has_the_name_that_it_was_given():
    def some(count, x):
        with scopes.loop("clients", 2):
            return jax.lax.fori_loop(0, count, lambda _, y: jnp.sin(y), x)

    text = jax.jit(some).lower(jnp.int32(3), jnp.ones(4)).compile().as_text()
    assert 'op_name="jit(some)/loop.clients.2/while"' in text
