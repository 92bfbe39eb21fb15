"""The clients' optimiser: PyTorch's numbers, and what methods with optimisers of their own do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from protonorm_jax import methods
from protonorm_jax.config import Config
from protonorm_jax.engine.client import descend
from protonorm_jax.methods import descent
from protonorm_jax.types import Client

CURVATURE = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, -0.3], [0.0, -0.3, 0.5]], np.float32)
SLOPE = np.array([1.0, -2.0, 0.5], np.float32)

# Four steps of torch.optim at a rate of 0.1 from (1, -1, 2) down p A p / 2 - b p: as it is, and
# after torch.nn.utils.clip_grad_norm_ with 0.7.
TORCH = {
    "sgd": ({}, [0.874331, -1.31145, 1.688574], [0.910702, -1.191679, 1.817152]),
    "momentum": (
        {"momentum": 0.9},
        [0.726357, -1.698917, 1.295394],
        [0.80319, -1.431554, 1.58532],
    ),
    "nesterov": (
        {"momentum": 0.9, "nesterov": True},
        [0.778745, -1.834095, 1.07986],
        [0.792891, -1.566719, 1.417541],
    ),
    "decay": (
        {"momentum": 0.9, "weight_decay": 0.1},
        [0.661243, -1.613155, 1.145156],
        [0.729318, -1.347836, 1.422089],
    ),
    "adam": (
        {"optimizer": "adam"},
        [0.693886, -1.394066, 1.600659],
        [0.698049, -1.398913, 1.598889],
    ),
    "adam with decay": (
        {"optimizer": "adam", "weight_decay": 0.1},
        [0.66903, -1.391517, 1.600813],
        [0.659577, -1.397295, 1.599158],
    ),
    "adamw": (
        {"optimizer": "adamw", "weight_decay": 0.1},
        [0.671003, -1.349713, 1.528323],
        [0.677098, -1.354135, 1.526135],
    ),
}


def round_of(method="local", rate=0.1, schedule=1.0, **settings):
    """A round of a config with these settings, as the hooks of clients see it."""
    config = Config(method=method, **settings)
    own = methods.settings_of(method, config.method_settings)
    own, chosen = jax.tree.map(jnp.float32, (own, descent.of(config)))
    counts = jnp.ones((2, 3), jnp.int32)
    factor = jnp.float32(schedule)
    return methods.Round(
        jnp.int32(0), jnp.float32(rate) * factor, own, counts, schedule=factor, descent=chosen
    )


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.parametrize("clip", [0.0, 0.7])
def test_steps_are_pytorchs(name, clip):
    """Also where the norm that is clipped is that of two arrays together."""
    settings, plain, clipped = TORCH[name]
    round, method = round_of(clip_norm=clip, **settings), methods.Method()
    step = jax.jit(functools.partial(descend, method=method))
    place = np.array([1.0, -1.0, 2.0], np.float32)
    client = Client({"model": {"a": place[:1], "b": place[1:]}}, {"model": {}})
    state = method.optimizer(round).init(client.params)
    for _ in range(4):
        place = np.concatenate([client.params["model"][key] for key in "ab"])
        slope = CURVATURE @ place - SLOPE
        gradients = Client({"model": {"a": slope[:1], "b": slope[1:]}}, {"model": {}})
        client, state = step(client, state, gradients, round)
    place = np.concatenate([client.params["model"][key] for key in "ab"])
    np.testing.assert_allclose(place, clipped if clip else plain, atol=1e-5)


def test_what_is_off_is_left_out():
    chosen = descent.of(Config())
    assert chosen == descent.Descent() and jax.tree.leaves(chosen) == []
    assert jax.tree.leaves(chosen.along(0.1).init({"w": jnp.ones(3)})) == []
    slope = {"w": jnp.ones(3)}
    assert chosen.clipped(slope) is slope


def parts(method, round, **values):
    """The first step of each net of a client, for gradients of norm 5 or less."""
    setup = methods.Setup(3, 4, 2, 3, 4)
    every = Config(method=method, method_settings=values).method_settings
    made = methods.build(method, setup, every)
    slope = {name: {"w": jnp.array([3.0, 4.0])} for name in ("model", "shared", "projection")}
    params = jax.tree.map(lambda leaf: leaf + 10, slope)
    optimizer = made.optimizer(round)
    updates, _ = optimizer.update(slope, optimizer.init(params), params)
    return {name: np.asarray(one["w"]) for name, one in updates.items()}


@pytest.mark.parametrize("method", ["fedkd", "fml", "fedl2g"])
def test_every_net_of_a_client_follows_the_choice(method):
    """Adam's first step is the learning rate in each number; plain SGD's the gradient times it."""
    rates = {"model": 0.1, "projection": 0.1, "shared": 0.01 if method == "fedkd" else 0.1}
    for name, update in parts(method, round_of(method, optimizer="adam")).items():
        np.testing.assert_allclose(update, [-rates[name], -rates[name]], rtol=1e-5)
    for name, update in parts(method, round_of(method, weight_decay=0.5)).items():
        wanted = -rates[name] * np.array([3 + 0.5 * 13, 4 + 0.5 * 14])
        np.testing.assert_allclose(update, wanted, rtol=1e-5)
    for name, update in parts(method, round_of(method, schedule=0.25)).items():
        np.testing.assert_allclose(update, -0.25 * rates[name] * np.array([3, 4]), rtol=1e-5)


def test_momentum_and_decay_may_be_traced():
    """Runs of a sweep that differ in them share a program."""

    @jax.jit
    def step(chosen):
        params = {"w": jnp.array([2.0])}
        optimizer = chosen.along(0.5)
        state = optimizer.init(params)
        for _ in range(2):
            updates, state = optimizer.update({"w": jnp.array([1.0])}, state, params)
            params = optax.apply_updates(params, updates)
        return params["w"][0]

    def wanted(momentum, decay):
        first = 1 + decay * 2.0
        place = 2.0 - 0.5 * first
        return place - 0.5 * (momentum * first + 1 + decay * place)

    for momentum, decay in ((0.9, 0.1), (0.5, 0.2)):
        chosen = descent.of(Config(momentum=momentum, weight_decay=decay))
        np.testing.assert_allclose(step(chosen), wanted(momentum, decay), rtol=1e-6)
    assert step._cache_size() == 1
