"""Golden numbers of the methods: how they are read, run through the plain loop and compared.

The numbers come from a restatement of the methods' formulas in PyTorch, float64, which agrees with
the authors' classes to 1e-14 wherever those can be run. Three clients hold 8, 16 and 24 samples of
twelve numbers each in batches of eight, two rounds; class 4 is held by nobody, class 3 by client 2
alone. In the files, linear weights are `[out, in]`, and an array `variant__name` belongs to a
variant.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from protonorm_jax import loop, methods
from protonorm_jax.methods.table import checked_settings
from protonorm_jax.types import Model, Outputs, linear_classify

FOLDER = pathlib.Path(__file__).parent.parent / "golden" / "methods"
TOLERANCE = 1e-5  # The same formulas in float32 are 8e-7 away, wrong ones 1e-4 and more.
PRIVATE, MENTEE = ("base0", "base1"), ("mbase",)
SETUP = methods.Setup(num_classes=5, feature_dim=8, num_clients=3, rounds=2, batch_size=8)


def apply(variables, images, train=False, *, mask=None, key=None):
    """Linear layers with a ReLU between them, then a linear head."""
    *before, last = variables["params"]["base"]
    features = images
    for layer in before:
        features = jax.nn.relu(features @ layer["kernel"] + layer["bias"].reshape(1, -1))
    features = features @ last["kernel"] + last["bias"].reshape(1, -1)
    return Outputs(features, linear_classify(variables, features)), variables


MODEL = Model(None, apply)


class Golden:
    """The arrays of a variant of a method; those that it has no own ones of are the method's."""

    def __init__(self, file, variant=""):
        with np.load(FOLDER / f"{file}.npz") as arrays:
            self.arrays = dict(arrays)
        self.variant = variant

    def __getitem__(self, name):
        return self.arrays.get(f"{self.variant}__{name}", self.arrays.get(name))

    def net(self, prefix, index=(), layers=PRIVATE):
        """The variables of one net: its arrays begin with `prefix`."""
        base = [linear(self, f"{prefix}{name}", index) for name in layers]
        head = linear(self, f"{prefix}{'mhead' if layers == MENTEE else 'head'}", index)
        return {"params": {"base": base, "head": head}, "batch_stats": {}}

    def batches(self, client, *, epochs=1, size=8):
        """Full batches only, as the methods' codes drop the rest of an epoch."""
        count = self.num_samples()[client]
        x, y = self["x"][client], self["y"][client]
        starts = range(0, count - count % size, size)
        return [(x[start : start + size], y[start : start + size]) for start in starts] * epochs

    def num_samples(self):
        """The samples of each client, those that no batch has among them."""
        return [8, 13, 21] if self.variant == "tail" else self["n"].tolist()

    def participants(self):
        """Who takes part, `[2, 3]` bool."""
        present = np.ones((2, 3), bool)
        present[0, 2] = not self.variant.endswith("partial")
        return present


def linear(golden, name, index=()):
    """One linear layer, `NAME_w` and `NAME_b`, as ours."""
    weight, bias = golden[f"{name}_w"][index], golden[f"{name}_b"][index]
    return {"kernel": jnp.float32(weight.T), "bias": jnp.float32(bias)}


def federate(golden, method, *, learning_rate=0.05, epochs=1, size=8, **arguments):
    """The trace of a variant; `arguments` as `loop.federate` takes them."""
    batches = [golden.batches(i, epochs=epochs, size=size) for i in range(3)]
    clients = [(MODEL, golden.net("init_", i), batches[i]) for i in range(3)]
    given = {"num_samples": golden.num_samples(), "participants": golden.participants()} | arguments
    sizes = {"num_classes": 5, "feature_dim": 8, "rounds": 2}
    return loop.federate(method, clients, learning_rate=learning_rate, **sizes, **given)


def build(method, settings):
    """A method of the table, with these settings and otherwise its defaults."""
    return methods.build(method, SETUP, vars(checked_settings(method, settings)))


def check(name, ours, wanted):
    """Asserts that arrays agree where `wanted` is a number, relative to `max(1, its greatest)`."""
    ours, wanted = np.asarray(ours), np.asarray(wanted)
    assert ours.shape == wanted.shape, name
    there = ~np.isnan(wanted)
    scale = max(1.0, np.abs(wanted[there]).max())
    worst = np.abs(ours - wanted)[there].max() / scale
    assert worst <= TOLERANCE, f"{name} is {worst:.1e} away"


def check_trees(name, ours, wanted):
    """As `check`, leaf by leaf."""
    jax.tree.map(functools.partial(check, name), ours, wanted)


def steps(trace, name, shape):
    """A term of the loss, `shape` being `[round, client, step]`; NaN where there was no step."""
    values = np.full(shape, np.nan)
    for index, one in enumerate(trace.terms):
        for client, terms in enumerate(one):
            values[index, client, : len(terms)] = [term[name] for term in terms]
    return values


def check_steps(golden, trace, terms):
    """The terms of the loss in every step; `terms` maps the golden names to ours."""
    for name, ours in terms.items():
        wanted = golden[name]
        values = steps(trace, ours, wanted.shape)
        np.testing.assert_array_equal(np.isnan(values), np.isnan(wanted))
        check(name, values, wanted)


def check_clients(golden, trace):
    """The private models of all clients, as the last round's training has left them."""
    for i, client in enumerate(trace.clients):
        own = golden.net("client_", (1, i))["params"]
        check_trees(f"client {i}", client.params["model"], own)
