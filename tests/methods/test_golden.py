"""Two rounds of every method through the plain loop, against numbers computed in float64.

The numbers come from a restatement of the methods' formulas in PyTorch, which agrees with the
authors' classes to 1e-14 wherever those can be run. Three clients hold 8, 16 and 24 samples of
twelve numbers each in batches of eight; class 4 is held by nobody, class 3 by client 2 alone. In
the files, linear weights are `[out, in]`, and an array `variant__name` belongs to a variant.
"""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from protonorm_jax import loop, methods, thomson
from protonorm_jax.methods.fedtgp import Server
from protonorm_jax.methods.shared import class_table, prototypes
from protonorm_jax.methods.table import checked_settings
from protonorm_jax.types import Model, Models, Outputs, Prototypes, linear_classify

FOLDER = pathlib.Path(__file__).parent.parent / "golden" / "methods"
TOLERANCE = 1e-5  # The same formulas in float32 are 8e-7 away, wrong ones 1e-4 and more.
PRIVATE, MENTEE = ("base0", "base1"), ("mbase",)
SETUP = methods.Setup(num_classes=5, feature_dim=8, num_clients=3, rounds=2, batch_size=8)


class Case(NamedTuple):
    """A variant of a method.

    Attributes:
      exact: whether ProtoNorm takes 500 steps of the authors' alignment, without their early stop.
    """

    method: str
    variant: str = ""
    settings: Mapping[str, Any] = {}
    epochs: int = 1
    learning_rate: float = 0.05
    exact: bool = False


REFERENCE_ORDER = {"collect": "before"}
TGP = {"server_epochs": 3}
SLOW = {"learning_rate": 0.002, "exact": True}
CASES = [
    Case("fedavg"),
    Case("fedavg", "partial"),
    Case("fedavg", "tail"),
    Case("fml"),
    Case("fml", "clip05", {"clip": 0.5}),
    Case("fml", "detached", {"detach": True}),
    Case("fedproto", "", {"collect": "during"}),
    Case("fedproto", "partial", {"collect": "during"}),
    Case("fedproto", "tail", {"collect": "during"}),
    Case("fedproto", "ep2", {"collect": "during"}, epochs=2),
    Case("fedproto", "weighted", {"collect": "during", "weighting": "samples"}),
    Case("fedtgp", "", TGP),
    Case("fedtgp", "stale", TGP | REFERENCE_ORDER),
    Case("fedtgp", "fullbatch", TGP),
    Case("protonorm", **SLOW),
    Case("protonorm", "partial", **SLOW),
    Case("protonorm", "tail", **SLOW),
    Case("protonorm", "stale", REFERENCE_ORDER, **SLOW),
    Case("protonorm", "s4_lr05", {"scale": 4.0}, exact=True),
    Case("protonorm", "s1_lr05", {"scale": 1.0}, exact=True),
    Case("protonorm", "earlystop", {"align": "reference"}, learning_rate=0.002),
]


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
    """The arrays of a case; those that its variant has no own ones of are the method's."""

    def __init__(self, case):
        with np.load(FOLDER / f"{case.method}.npz") as file:
            self.arrays = dict(file)
        self.variant = case.variant

    def __getitem__(self, name):
        return self.arrays.get(f"{self.variant}__{name}", self.arrays.get(name))

    def net(self, prefix, index=(), layers=PRIVATE):
        """The variables of one net: its arrays begin with `prefix`."""

        def linear(name):
            weight, bias = self[f"{prefix}{name}_w"][index], self[f"{prefix}{name}_b"][index]
            return {"kernel": jnp.float32(weight.T), "bias": jnp.float32(bias)}

        base = [linear(name) for name in layers]
        head = linear("mhead" if layers == MENTEE else "head")
        return {"params": {"base": base, "head": head}, "batch_stats": {}}

    def batches(self, client, epochs=1):
        """Full batches only, as the methods' codes drop the rest of an epoch."""
        count = [8, 13, 21][client] if self.variant == "tail" else int(self["n"][client])
        x, y = self["x"][client], self["y"][client]
        starts = range(0, count - count % 8, 8)
        return [(x[start : start + 8], y[start : start + 8]) for start in starts] * epochs


def federate(case, golden):
    """The trace of a case."""
    arguments = {"settings": case.settings, "participants": np.ones((2, 3), bool)}
    method = case.method
    if case.variant == "partial":
        arguments["participants"][0, 2] = False
    if case.variant == "tail":
        arguments["num_samples"] = [8, 13, 21]
    elif case.epochs > 1:
        arguments["num_samples"] = golden["n"].tolist()
    if case.method == "fml":
        arguments["shared"] = (MODEL, golden.net("mentee_", layers=MENTEE))
    if case.method == "fedtgp":
        net = {"embedding": jnp.asarray(golden["tgp_emb"])} | {
            ours: {"kernel": golden[f"tgp_{name}_w"].T, "bias": golden[f"tgp_{name}_b"]}
            for ours, name in (("fc1", "mid"), ("fc2", "fc"))
        }
        arguments["server"] = Server(net, prototypes.unknown(5, 8))
        if case.variant == "fullbatch":
            arguments["batch_size"] = 16
        else:
            arguments["draws"] = [{"order": jnp.int32(order)} for order in golden["tgp_order"]]
    if case.exact:
        method = build(case)._replace(aggregate=align_in_500_steps)
        arguments["settings"] = {"proximity": 10.0, "scale": case.settings.get("scale", 80.0)}
    clients = [(MODEL, golden.net("init_", i), golden.batches(i, case.epochs)) for i in range(3)]
    sizes = {"num_classes": 5, "feature_dim": 8, "rounds": 2}
    return loop.federate(method, clients, learning_rate=case.learning_rate, **sizes, **arguments)


def build(case):
    return methods.build(case.method, SETUP, vars(checked_settings(case.method, case.settings)))


def align_in_500_steps(key, server, received, round):
    """ProtoNorm's aggregation with the authors' loop, which here reaches the regular simplex."""
    means = class_table.average(received.each, server)
    result = thomson.reference_align(means.vectors, means.known, early_stop=False)
    return Prototypes(result.points, means.known), {"class_means": means.vectors}


def check(name, ours, wanted):
    """Asserts that arrays agree where `wanted` is a number, relative to `max(1, its greatest)`."""
    ours, wanted = np.asarray(ours), np.asarray(wanted)
    assert ours.shape == wanted.shape, name
    there = ~np.isnan(wanted)
    scale = max(1.0, np.abs(wanted[there]).max())
    worst = np.abs(ours - wanted)[there].max() / scale
    assert worst <= TOLERANCE, f"{name} is {worst:.1e} away"


def check_trees(name, ours, wanted):
    jax.tree.map(functools.partial(check, name), ours, wanted)


def steps(trace, name, shape):
    """A term of the loss, `shape` being `[round, client, step]`; NaN where there was no step."""
    values = np.full(shape, np.nan)
    for index, one in enumerate(trace.terms):
        for client, terms in enumerate(one):
            values[index, client, : len(terms)] = [term[name] for term in terms]
    return values


TERMS = {"loss": "loss", "loss_ce": "cross_entropy", "loss_reg": "prototype_mse"}
TERMS_OF_FML = {"loss": "private_loss", "loss_mentee": "mentee_loss"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case[:2]).rstrip("-"))
def test_two_rounds(case):
    golden = Golden(case)
    trace = federate(case, golden)
    for name, ours in (TERMS_OF_FML if case.method == "fml" else TERMS).items():
        if golden[name] is not None:
            wanted = golden[name]
            values = steps(trace, ours, wanted.shape)
            np.testing.assert_array_equal(np.isnan(values), np.isnan(wanted))
            check(name, values, wanted)
    for i, client in enumerate(trace.clients):
        own = golden.net("client_", (1, i))["params"]
        check_trees(f"client {i}", client.params["model"], own)
    if case.method in ("fedavg", "fml"):
        check_models(case, golden, trace)
    else:
        check_prototypes(case, golden, trace)


@pytest.mark.parametrize("variant", ["", "partial"])
def test_the_default_alignment_is_as_well_spread_and_close_by(variant):
    """The simplex that 500 steps end in may be turned against the nearest one, here by 0.04."""
    case = Case("protonorm", variant, learning_rate=0.002)
    golden = Golden(case)
    for shown, wanted in zip(federate(case, golden).shown, golden["server_protos"], strict=True):
        known = shown["known"]
        ours, wanted = shown["prototypes"][known], wanted[known]
        np.testing.assert_allclose(ours @ ours.T, wanted @ wanted.T, atol=1e-6)
        np.testing.assert_allclose(ours, wanted, atol=0.05)


def check_models(case, golden, trace):
    """What models of clients and server, and the last predictions, have in common."""
    layers = PRIVATE if case.method == "fedavg" else MENTEE
    uploads = "client_" if case.method == "fedavg" else "upload_"
    for index, server in enumerate(trace.servers):
        wanted = golden.net("server_", index, layers)
        check_trees(f"server {index}", server, wanted)
        for i, upload in enumerate(trace.uploads[index]):
            if upload is not None:
                wanted = golden.net(uploads, (index, i), layers)
                check_trees(f"upload {index}, {i}", upload.mean, wanted)
    method = build(case)
    for i, client in enumerate(trace.clients):
        client = method.receive(client, trace.servers[-1], Models(MODEL, MODEL))
        scores = method.predict(client, (), golden["x_test"], models=Models(MODEL, MODEL))
        check("logits", scores["head"], golden["eval_logits"][2, i])


def check_prototypes(case, golden, trace):
    """Uploaded class means, their average, what the server makes of them, the last distances."""
    for index, uploads in enumerate(trace.uploads):
        for i, upload in enumerate(uploads):
            wanted = golden["upload_protos"][index, i]
            if upload is None:
                assert np.isnan(wanted).all()
                continue
            means = class_table.class_means(upload.each)
            np.testing.assert_array_equal(upload.each.counts, golden["upload_counts"][index, i])
            check(f"upload {index}, {i}", means.vectors, wanted)
        shown = trace.shown[index]
        known = ~np.isnan(golden["server_protos"][index]).any(axis=1)
        np.testing.assert_array_equal(shown["known"], known)
        check("mean", shown["class_means"], golden["server_mean"][index])
        check("prototypes", shown["prototypes"], golden["server_protos"][index])
    if case.method == "fedtgp":
        check_server_of_fedtgp(case, golden, trace)
    method = build(case)
    last = Prototypes(trace.shown[-1]["prototypes"], trace.shown[-1]["known"])
    for i, client in enumerate(trace.clients):
        features = apply({"params": client.params["model"]}, golden["x_test"])[0].features
        scores = method.predict(client, last, golden["x_test"], models=Models(MODEL))["prototype"]
        distances = (jnp.sum(jnp.square(features), axis=1, keepdims=True) - scores) / 8
        wanted = golden["eval_dist"][2, i]
        np.testing.assert_array_equal(np.isinf(scores), np.isinf(wanted))
        finite = np.where(np.isinf(wanted), np.nan, wanted)
        check("distances", distances, finite)
        np.testing.assert_array_equal(np.argmax(scores, axis=1), np.argmin(wanted, axis=1))


def check_server_of_fedtgp(case, golden, trace):
    names = {"fc1": "mid", "fc2": "fc"}
    for index, (server, shown) in enumerate(zip(trace.servers, trace.shown, strict=True)):
        wanted = {"embedding": golden["server_tgp_emb"][index]} | {
            ours: {
                "kernel": golden[f"server_tgp_{name}_w"][index].T,
                "bias": golden[f"server_tgp_{name}_b"][index],
            }
            for ours, name in names.items()
        }
        check_trees("net", server.net, wanted)
        check("margin", shown["server_margin"], golden["server_margin"][index])
        mean = np.nanmean(golden["server_loss"][index, -1])
        check("server loss", shown["server_loss"], mean)
