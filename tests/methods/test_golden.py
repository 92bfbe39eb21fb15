"""Two rounds of each method, with its variants, against the numbers of `golden_numbers`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import golden_numbers as numbers
import jax.numpy as jnp
import numpy as np
import pytest
from golden_numbers import MENTEE, MODEL, PRIVATE, Golden, check, check_trees

from protonorm_jax import thomson
from protonorm_jax.methods.fedtgp import Server
from protonorm_jax.methods.shared import class_table, prototypes
from protonorm_jax.types import Models, Prototypes


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


LAYERS_OF_TGP = {"fc1": "mid", "fc2": "fc"}


def federate(case, golden):
    """The trace of a case."""
    arguments: dict[str, Any] = {"settings": case.settings, "epochs": case.epochs}
    method = case.method
    if case.method == "fml":
        arguments["shared"] = (MODEL, golden.net("mentee_", layers=MENTEE))
    if case.method == "fedtgp":
        net = {"embedding": jnp.asarray(golden["tgp_emb"])} | {
            ours: numbers.linear(golden, f"tgp_{name}") for ours, name in LAYERS_OF_TGP.items()
        }
        arguments["server"] = Server(net, prototypes.unknown(5, 8))
        if case.variant == "fullbatch":
            arguments["batch_size"] = 16
        else:
            arguments["draws"] = [{"order": jnp.int32(order)} for order in golden["tgp_order"]]
    if case.exact:
        built = numbers.build(case.method, case.settings)
        method = built._replace(aggregate=align_in_500_steps)
        arguments["settings"] = {"proximity": 10.0, "scale": case.settings.get("scale", 80.0)}
    return numbers.federate(golden, method, learning_rate=case.learning_rate, **arguments)


def align_in_500_steps(key, server, received, round):
    """ProtoNorm's aggregation with the authors' loop, which here reaches the regular simplex."""
    means = class_table.average(received.each, server)
    result = thomson.reference_align(means.vectors, means.known, early_stop=False)
    return Prototypes(result.points, means.known), {"class_means": means.vectors}


TERMS = {"loss": "loss", "loss_ce": "cross_entropy", "loss_reg": "prototype_mse"}
TERMS_OF_FML = {"loss": "private_loss", "loss_mentee": "mentee_loss"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case[:2]).rstrip("-"))
def test_two_rounds(case):
    golden = Golden(case.method, case.variant)
    trace = federate(case, golden)
    terms = TERMS_OF_FML if case.method == "fml" else TERMS
    present = {name: ours for name, ours in terms.items() if golden[name] is not None}
    numbers.check_steps(golden, trace, present)
    numbers.check_clients(golden, trace)
    if case.method in ("fedavg", "fml"):
        check_models(case, golden, trace)
    else:
        check_prototypes(case, golden, trace)


@pytest.mark.parametrize("variant", ["", "partial"])
def test_the_default_alignment_is_as_well_spread_and_close_by(variant):
    """The simplex that 500 steps end in may be turned against the nearest one, here by 0.04."""
    case = Case("protonorm", variant, learning_rate=0.002)
    golden = Golden(case.method, case.variant)
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
    method = numbers.build(case.method, case.settings)
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
    method = numbers.build(case.method, case.settings)
    last = Prototypes(trace.shown[-1]["prototypes"], trace.shown[-1]["known"])
    for i, client in enumerate(trace.clients):
        features = numbers.apply({"params": client.params["model"]}, golden["x_test"])[0].features
        scores = method.predict(client, last, golden["x_test"], models=Models(MODEL))["prototype"]
        distances = (jnp.sum(jnp.square(features), axis=1, keepdims=True) - scores) / 8
        wanted = golden["eval_dist"][2, i]
        np.testing.assert_array_equal(np.isinf(scores), np.isinf(wanted))
        finite = np.where(np.isinf(wanted), np.nan, wanted)
        check("distances", distances, finite)
        np.testing.assert_array_equal(np.argmax(scores, axis=1), np.argmin(wanted, axis=1))


def check_server_of_fedtgp(case, golden, trace):
    for index, (server, shown) in enumerate(zip(trace.servers, trace.shown, strict=True)):
        wanted = {"embedding": golden["server_tgp_emb"][index]} | {
            ours: numbers.linear(golden, f"server_tgp_{name}", index)
            for ours, name in LAYERS_OF_TGP.items()
        }
        check_trees("net", server.net, wanted)
        check("margin", shown["server_margin"], golden["server_margin"][index])
        mean = np.nanmean(golden["server_loss"][index, -1])
        check("server loss", shown["server_loss"], mean)
