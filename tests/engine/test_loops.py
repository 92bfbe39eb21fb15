"""Loops over clients: their order, their trip count, and what they do not compute."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from protonorm_jax.engine import loops

ZERO = jnp.int32(0)
WITNESS = jnp.int32(3)


def test_zeros_have_the_shapes_of_a_result_that_is_never_computed():
    ran = []

    def function(x):
        jax.debug.callback(lambda: ran.append(1))
        return {"sum": x.sum(), "count": jnp.int32(3), "key": (x > 0, x[None])}

    zeros = jax.jit(functools.partial(loops.zeros_of, function))(jnp.ones(4))
    jax.effects_barrier()
    assert not ran
    wanted = {"sum": jnp.zeros(()), "count": ZERO, "key": (jnp.zeros(4, bool), jnp.zeros((1, 4)))}
    assert jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype, zeros, wanted))
    jax.tree.map(np.testing.assert_array_equal, zeros, wanted)


def test_a_hidden_number_is_no_constant():
    """The compiler must not see through it, or a loop of one trip would be none."""
    function = jax.jit(lambda witness: jax.lax.fori_loop(0, loops.hidden(1, witness), body, 1.0))

    def body(_, x):
        return x * 3

    assert "while" in function.lower(ZERO).compile().as_text()
    assert [int(loops.hidden(5, jnp.int32(witness))) for witness in (0, 7)] == [5, 5]


def test_sums_are_added_in_order():
    """Float32 sums depend on it: 1e8 + 1 - 1e8 is 0 from the left and 1 from the right."""
    values = jnp.array([1e8, 1.0, -1e8, 0.5])

    def one(index, given):
        return {"sum": given[index], "terms": 1}

    total = jax.jit(lambda count, given: loops.accumulate(count, one, given))
    result = total(jnp.int32(4), values)
    assert float(result["sum"]) == 0.5 and int(result["terms"]) == 4
    assert float(total(jnp.int32(4), values[::-1])["sum"]) == 0.0
    assert float(total(jnp.int32(4), values[jnp.array([0, 2, 1, 3])])["sum"]) == 1.5


def test_no_terms_add_up_to_zero():
    total = loops.accumulate(ZERO, lambda index, given: given[index], jnp.full((3, 2), jnp.nan))
    np.testing.assert_array_equal(total, [0.0, 0.0])


def test_what_is_isolated_has_its_bits_whatever_stands_around_it():
    """A product before it would be fused with its sum, and the rounding between them left out."""

    def inner(product, c):
        return {"sum": product + c, "parts": product - 3 * c}

    def isolated(witness, product, c):
        return loops.isolated(inner, product, c, witness=witness)

    def around(witness, a, b, c):
        result = isolated(witness, a * b, c / 3)
        return result, jax.tree.map(lambda leaf: jnp.exp(leaf) * a, result)

    a, b, c = (jax.random.normal(key, (500,)) for key in jax.random.split(jax.random.key(0), 3))
    product, third = jax.jit(jnp.multiply)(a, b), jax.jit(lambda c: c / 3)(c)
    alone = jax.jit(isolated)(WITNESS, product, third)
    beside = jax.jit(around)(WITNESS, a, b, c)[0]
    jax.tree.map(np.testing.assert_array_equal, beside, alone)
    fused = jax.jit(lambda a, b, c: inner(a * b, c / 3))(a, b, c)
    assert np.any(fused["sum"] != alone["sum"]), "the test would not see it"


def test_keys_can_be_isolated():
    def draw(key, scale):
        return scale * jax.random.normal(key, (3,)), key

    key = jax.random.key(1)
    result, same = jax.jit(functools.partial(loops.isolated, draw))(key, 2.0, witness=WITNESS)
    np.testing.assert_array_equal(result, draw(key, 2.0)[0])
    assert same == key


def test_what_is_isolated_runs_once():
    ran = []

    def function(x):
        jax.debug.callback(lambda: ran.append(1))
        return x + 1

    result = jax.jit(functools.partial(loops.isolated, function))(jnp.ones(3), witness=WITNESS)
    jax.effects_barrier()
    np.testing.assert_array_equal(result, 2 * np.ones(3))
    assert ran == [1]


STATES = {"x": jnp.arange(6.0), "y": jnp.zeros((6, 2))}
INPUTS = jnp.arange(10, 16)


def advance(state, given):
    """The new state, and an output of another shape."""
    new = {"x": state["x"] + given, "y": state["y"] + 1}
    return new, (given * 2, jnp.stack([state["x"], new["x"]]))


@pytest.mark.parametrize("chunk", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 4, 6])
def test_update_works_on_whole_chunks_of_the_first_slots(chunk, count):
    function = jax.jit(lambda count: loops.update(advance, STATES, INPUTS, count, chunk=chunk))
    states, (doubled, pairs) = function(jnp.int32(count))
    done = np.arange(6) < -(-count // chunk) * chunk
    x = STATES["x"] + np.where(done, INPUTS, 0)
    np.testing.assert_array_equal(states["x"], x)
    np.testing.assert_array_equal(states["y"], np.stack([done, done], 1))
    np.testing.assert_array_equal(doubled, np.where(done, 2 * INPUTS, 0))
    wanted = np.where(done[:, None], np.stack([STATES["x"], x], 1), 0)
    np.testing.assert_array_equal(pairs, wanted)


@pytest.mark.parametrize("chunk", [1, 2, 4])
@pytest.mark.parametrize("chosen", [[], [5], [4, 1, 2], [0, 2, 3, 5]])
def test_chosen_slots_alone_are_worked_on(chosen, chunk):
    """Wherever they stand; what the rest of a chunk gets has an input of zeros."""

    def function(state, given):
        new, outputs = advance(state, given)
        return jax.tree.map(lambda leaf: jnp.where(given == 0, jnp.nan, leaf), new), outputs

    places = jnp.array(chosen + [6] * (4 - len(chosen)))
    states, (doubled, pairs) = jax.jit(
        lambda count: loops.update_chosen(function, STATES, INPUTS[:6], places, count, chunk=chunk)
    )(jnp.int32(len(chosen)))
    done = np.isin(np.arange(6), chosen)
    x = STATES["x"] + np.where(done, INPUTS[:6], 0)
    np.testing.assert_array_equal(states["x"], x)
    np.testing.assert_array_equal(states["y"], np.stack([done, done], 1))
    chosen = np.array(chosen, int)
    np.testing.assert_array_equal(doubled[: len(chosen)], 2 * INPUTS[chosen])
    wanted = np.stack([STATES["x"][chosen], x[chosen]], 1)
    np.testing.assert_array_equal(pairs[: len(chosen)], wanted)


def test_the_loop_over_chosen_slots_has_no_more_turns_than_those():
    turns = []

    def function(state, given):
        jax.debug.callback(lambda: turns.append(1))
        return state + given, ()

    places = jnp.array([3, 7, 1000, 1000])
    loops.update_chosen(function, jnp.zeros(1000), jnp.arange(1000), places, WITNESS - 1, chunk=1)
    jax.effects_barrier()
    assert len(turns) == 2


def test_vmapped_rows_share_the_longest_loop():
    """The predicate is not mapped: there is no choice between old and new states in any turn."""

    def run(count, chosen):
        return loops.update_chosen(
            advance, STATES, INPUTS[:6], chosen, loops.longest(count), chunk=1
        )[0]

    counts, places = jnp.array([1, 3]), jnp.array([[2, 6, 6], [0, 4, 5]])
    text = jax.jit(jax.vmap(run)).lower(counts, places).as_text()
    assert "stablehlo.while" in text
    states = jax.vmap(run)(counts, places)
    for row in range(2):
        jax.tree.map(
            lambda leaf, alone, row=row: np.testing.assert_array_equal(leaf[row], alone),
            states,
            run(counts[row], places[row]),
        )
    assert loops.longest(counts).tolist() == [1, 3]
    assert jax.vmap(loops.longest)(counts).tolist() == [3, 3]


def test_where_a_mask_is_true():
    mask = jnp.array([0, 1, 1, 0, 1, 0], bool)
    assert loops.first_where(mask, 5).tolist() == [1, 2, 4, 6, 6]
    assert loops.first_where(mask, 2).tolist() == [1, 2]
    assert loops.first_where(mask & False, 2).tolist() == [6, 6]
    assert loops.first_where(mask | True, 6).tolist() == list(range(6))


@pytest.mark.parametrize("chunk", [1, 3])
def test_map_gives_zeros_beyond_the_work_done(chunk):
    result = loops.map(lambda given: given + 0.5, INPUTS, jnp.int32(3), chunk=chunk)
    np.testing.assert_array_equal(result, [10.5, 11.5, 12.5, 0, 0, 0])


def test_a_slot_may_be_anything_without_work():
    """Neither its state nor its input reaches another."""
    spoilt = jax.tree.map(lambda leaf: leaf.at[3:].set(jnp.nan), STATES)
    states, outputs = loops.update(advance, spoilt, INPUTS, jnp.int32(3), chunk=1)
    clean, wanted = loops.update(advance, STATES, INPUTS, jnp.int32(3), chunk=1)
    jax.tree.map(np.testing.assert_array_equal, outputs, wanted)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:3], b[:3]), states, clean)


def test_functions_are_traced_once():
    """However often a loop needs their shapes: tracing is most of the time before a run starts."""
    traced = []

    def function(name, result):
        traced.append(name)
        return result

    @jax.jit
    def run(x):
        loops.accumulate(x, lambda index, given: function("accumulate", given), x)
        loops.isolated(lambda given: function("isolated", given), x, witness=x)
        loops.update(lambda *both: function("update", both), STATES, INPUTS[:6], x, chunk=1)
        loops.update(lambda *both: function("chunks", both), STATES, INPUTS[:6], x, chunk=2)

    run.trace(WITNESS)
    assert traced == ["accumulate", "isolated", "update", "chunks"]


def test_the_first_of_a_tree_is_that_of_every_leaf():
    first = loops.first_of({"a": jnp.array([3, 4, 5]), "b": (jnp.eye(2),)})
    assert first["a"] == 3
    np.testing.assert_array_equal(first["b"][0], [1, 0])
