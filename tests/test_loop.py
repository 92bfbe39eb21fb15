"""The federation in plain Python: the engine gives the same, and what its arguments do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plainly import check, federate
from protonorm_jax import loop, methods, settings
from protonorm_jax.config import Config
from protonorm_jax.engine.program import unpacked
from protonorm_jax.errors import UsageError
from protonorm_jax.methods.descent import Descent
from protonorm_jax.methods.method import LossInfo, cross_entropy, forward, head_loss
from protonorm_jax.running import driver
from protonorm_jax.types import Model, Outputs, linear_classify

pytestmark = pytest.mark.usefixtures("hastily")

# Clients of one architecture hold equally many samples, which spares compilations of the loop's
# last, incomplete batch.
CONFIG = Config(
    family="mlp",
    num_clients=4,
    partition="pathological",
    rounds=3,
    participation=0.75,
    batch_size=16,
    feature_dim=12,
    learning_rate=0.02,
    shuffle=False,
    devices=1,
    seed=5,
)


@settings.group
class RehearsalSettings:
    strength: float = settings.setting(0.3, "of the pull at the head's bias", traced=True)


def rehearsal(setup, fixed):
    """A method for what no row of the table asks for: reserve, warm-up, keys, averaged uploads."""
    del setup, fixed

    def loss(params, statistics, down, batch, key, round, *, models):
        outputs, statistics = forward(models, params, statistics, batch, key)
        value = cross_entropy(outputs.logits, batch.labels, batch.mask)
        noise = jax.random.normal(key, (5,))
        pull = jnp.sum(jnp.square(params["model"]["head"]["bias"] - noise - down))
        total = value + round.settings.strength * pull
        return total, LossInfo(outputs, statistics, {"pull": pull})

    def observe(outputs, labels, mask):
        return jnp.where(mask[:, None], outputs.logits, 0.0).sum(0)

    def upload(key, client, totals, data, down, round, *, models):
        del down, models
        noise = 0.1 * jax.random.normal(key, (5,))
        return methods.Upload(
            each={"logits": totals, "samples": data.num_samples},
            mean=client.params["model"]["head"]["bias"] + noise,
            floats=10,
        )

    def aggregate(key, server, received, round):
        noise = 0.1 * jax.random.normal(key, (5,))
        counts = round.class_counts.sum(0) / round.class_counts.sum()
        return received.mean + noise + counts, received.each | {"weights": received.num_samples}

    return methods.Method(
        init_server=lambda key, models, first: jax.random.normal(key, (5,)),
        broadcast=lambda server, round: (server, 5),
        loss=loss,
        observe=observe,
        upload=upload,
        aggregate=aggregate,
        show=lambda server: {"server": server},
        collect="during",
        reserve=1,
        warmup=1,
    )


@pytest.fixture
def row():
    """The method `rehearsal` in the table."""
    methods.METHODS["rehearsal"] = methods.Row(rehearsal, RehearsalSettings)
    yield
    del methods.METHODS["rehearsal"]


def engine(simulation):
    """The reports of all rounds, each with the server's state, and the clients at the end."""
    plan = simulation.plan
    inputs = simulation.put(simulation.inputs(0))
    states, reports = simulation.init(inputs), []
    for _ in range(plan.program.config.rounds):
        states, (report,) = simulation.advance(states, inputs, 1)
        server = jax.tree.map(lambda leaf: np.asarray(leaf)[0, 0], states.server)
        reports.append(report | {"state": server})
    clients = [None] * plan.program.config.num_clients
    for architecture, stack, members in zip(
        plan.program.architectures, states.clients, inputs.members, strict=True
    ):
        for slot, client_id in enumerate(np.asarray(members.client_ids)[0, 0]):
            if client_id >= 0:
                one = jax.tree.map(lambda leaf, slot=slot: leaf[0, 0, slot], stack)
                clients[client_id] = unpacked(one, architecture.client)
    return reports, clients


def check_engine(config, dataset):
    """Asserts that the engine and the loop agree in all that both tell."""
    simulation = driver.prepare([config], dataset)
    reports, clients = engine(simulation)
    trace = federate(simulation.plan)
    assert any(upload is None for uploads in trace.uploads for upload in uploads)
    for index, report in enumerate(reports):
        arrived = [upload is not None for upload in trace.uploads[index]]
        np.testing.assert_array_equal(report["arrived"], arrived)
        own = [[term["loss"] for term in terms] for terms in trace.terms[index]]
        assert trace.losses[index] == own
        for name, means in report["terms"].items():
            own = [
                np.mean([term[name] for term in terms]) if terms else 0.0
                for terms in trace.terms[index]
            ]
            check(means, np.float32(own))
        check(report["state"], trace.servers[index])
        check({**report["server"], **report["shown"]}, trace.shown[index])
    check(clients, trace.clients)
    return trace


def test_the_engine_agrees_with_the_loop_in_hooks_of_no_method(row, small_set):
    """Reserve, warm-up, draws from every key, sums collected during training."""
    config = CONFIG.replace(method="rehearsal", num_clients=6, strength=0.2)
    trace = check_engine(config, small_set)
    assert not any(trace.losses[0]) and any(trace.losses[1])


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("fedavg", {"optimizer": "adam", "weight_decay": 0.1, "schedule": "cosine"}),
        ("fedkd", {"momentum": 0.9, "nesterov": True, "schedule": "exponential:0.5"}),
    ],
)
@pytest.mark.large
def test_the_engine_agrees_with_the_loop_in_training_as_users_set_it(method, settings, small_set):
    """Optimiser, decay, schedule, clipping, augmentation, stragglers and clients that fail."""
    rates = {"failures": 0.3, "stragglers": 0.5, "straggler_work": 0.1}
    config = CONFIG.replace(
        method=method, augment="crop,flip", clip_norm=0.5, batch_size=8, **settings, **rates
    )
    trace = check_engine(config, small_set)
    lengths = [len(losses) for round in trace.losses for losses in round]
    assert len(set(lengths) - {0}) > 1  # Of equal clients: some are stragglers.


def apply(variables, images, train=False, *, mask=None, key=None):
    """A linear model: features are the images."""
    return Outputs(images, linear_classify(variables, images)), variables


MODEL = Model(None, apply)


def small_clients(*sizes):
    """Clients with so many samples each in batches of four, all with the same weights."""
    generator = np.random.default_rng(0)
    head = {"kernel": jnp.zeros((3, 5)), "bias": jnp.zeros(5)}
    variables = {"params": {"base": {}, "head": head}, "batch_stats": {}}

    def batches(size):
        images = generator.normal(size=(size, 3)).astype(np.float32)
        labels = generator.integers(0, 5, size)
        cuts = range(4, size, 4)
        return list(zip(np.split(images, cuts), np.split(labels, cuts), strict=True))

    return [(MODEL, variables, batches(size)) for size in sizes]


def run(method, clients, rounds=2, **arguments):
    sizes = {"num_classes": 5, "feature_dim": 3, "rounds": rounds}
    return loop.federate(method, clients, learning_rate=0.5, **sizes, **arguments)


@pytest.mark.parametrize(
    ("method", "values", "message"),
    [
        ("fedsgd", {}, r"method must be one of .*, got 'fedsgd'"),
        ("fedtgp", {"margn": 1.0}, r"fedtgp has no setting 'margn' \(did you mean 'margin'\?\)"),
        ("fedproto", {"proximity": -1.0}, r"fedproto\.proximity must be >= 0, got -1\.0"),
        ("fml", {}, r"federate\.shared must be given"),
    ],
)
def test_what_cannot_be_used_is_named(method, values, message):
    with pytest.raises(UsageError, match=message):
        run(method, small_clients(4), settings=values)


def test_who_does_not_take_part_sends_nothing_and_stays_as_it_was():
    takes_part = [[True, False], [True, True]]
    trace = run("fedproto", small_clients(8, 8), participants=takes_part)
    alone = run("fedproto", small_clients(8, 8), 1, participants=takes_part)
    assert trace.uploads[0][1] is None and trace.losses[0][1] == []
    assert not np.any(alone.clients[1].params["model"]["head"]["kernel"])
    assert len(trace.losses[1][1]) == 2
    check(trace.servers[0], alone.servers[0], 0)


@pytest.mark.parametrize(("method", "received"), [("fedavg", True), ("fml", False)])
def test_who_does_not_take_part_may_be_sent_something_all_the_same(method, received):
    """FedAvg's client is left with what the server sent it, FML's with the model it had."""
    (model, variables, batches), second = small_clients(4, 4)
    other = jax.tree.map(lambda leaf: leaf + 1, variables)
    clients = [(model, other, batches), second]
    takes_part = [[True, False]]
    trace = run(method, clients, 1, participants=takes_part, shared=(MODEL, other))
    wanted = other if received else variables
    check(trace.clients[1].params["model"], wanted["params"], 0)


def test_a_round_without_participants_leaves_the_server_as_it_was():
    trace = run("fedavg", small_clients(4, 4), participants=[[True, True], [False, False]])
    check(trace.servers[1], trace.servers[0], 0)


def test_the_number_of_samples_weighs_clients():
    def head(trace):
        return trace.servers[0]["params"]["head"]["kernel"]

    first, second = (run("fedavg", small_clients(8, 8)[i : i + 1], 1) for i in (0, 1))
    weighed = run("fedavg", small_clients(8, 8), 1, num_samples=np.array([3, 1]))
    check(head(weighed), 0.75 * head(first) + 0.25 * head(second), 1e-6)
    counted = run("fedavg", [*small_clients(8, 8)[:1], *small_clients(8, 24)[1:]], 1)
    rest = run("fedavg", small_clients(8, 24)[1:], 1)
    check(head(counted), 0.25 * head(first) + 0.75 * head(rest), 1e-6)


@pytest.mark.parametrize("collect", ["before", "during", "after", None])
def test_what_is_observed_is_of_the_model_as_it_was_then(collect):
    """Sums of logits over 6 samples: of the first head, before each step, or of the last head."""

    def observe(outputs, labels, mask):
        return jnp.where(mask[:, None], outputs.logits, 0.0).sum(0)

    def upload(key, client, totals, *_, **__):
        return methods.Upload(each={"totals": totals if collect else ()})

    ((model, variables, batches),) = small_clients(6)
    given = {"base": {}, "head": {"kernel": jnp.eye(3, 5), "bias": jnp.arange(5.0)}}
    clients = [(model, {**variables, "params": given}, batches)]
    heads = [given["head"]]
    for steps in (1, 2):
        trace = run(methods.Method(), clients, 1, steps=[[steps]])
        heads.append(trace.clients[0].params["model"]["head"])
    method = methods.Method(observe=observe, upload=upload, collect=collect)
    (uploads,) = run(method, clients, 1).uploads
    if collect is None:
        assert uploads[0].each == {"totals": ()}
        return
    used = {"before": heads[:1] * 2, "during": heads[:2], "after": heads[2:] * 2}[collect]
    pairs = zip(used, batches, strict=True)
    wanted = sum((images @ one["kernel"] + one["bias"][None]).sum(0) for one, (images, _) in pairs)
    check(uploads[0].each["totals"], wanted, 1e-5)


def test_steps_schedule_and_descent_by_hand():
    """Of the first of two steps, at a quarter of the rate, with half of the slope's norm."""

    def head(**arguments):
        trace = run("local", small_clients(8), 1, **arguments)
        return trace.clients[0].params["model"]["head"]["kernel"], trace.losses[0][0]

    plain, losses = head(steps=[[1]])
    assert len(losses) == 1 and len(head()[1]) == 2
    check(head(steps=[[1]], schedule=[0.25])[0], 0.25 * plain, 1e-6)
    norm = first_norm(small_clients(8)[0], plain)
    chosen = Descent(clip_norm=norm / 2)
    check(head(steps=[[1]], descent=chosen)[0], 0.5 * plain, 1e-5)


def first_norm(client, moved):
    """The norm of the first slope of a head that began at zero; the bias's is by hand."""
    _, _, batches = client
    errors = 0.2 - np.eye(5)[batches[0][1]]
    return np.sqrt(np.square(moved / 0.5).sum() + np.square(errors.mean(0)).sum())


def test_values_handed_in_take_the_place_of_those_drawn():
    """A step of a client sees its own row, the upload and the server all of them."""
    seen = []

    def loss(params, statistics, down, batch, key, round, *, models):
        value, info = head_loss(params, statistics, down, batch, key, round, models=models)
        number = round.drawn("number", lambda: jnp.float32(-1))
        return value, info._replace(terms={"number": number, "half": round.settings.half})

    def upload(key, client, totals, data, down, round, *, models):
        seen.append(round.drawn("number", lambda: jnp.zeros(())).shape)
        return methods.Upload(mean=jnp.zeros(2))

    def aggregate(key, server, received, round):
        return received.mean, {"offset": round.drawn("offset", lambda: jnp.float32(0))}

    method = methods.Method(loss=loss, upload=upload, aggregate=aggregate)
    numbers = [[{"number": jnp.array([1.0, 2.0])}, {"number": jnp.array([3.0])}]]
    trace = run(
        method,
        small_clients(8, 4),
        1,
        settings={"half": 0.5},
        draws=[{"offset": jnp.float32(7)}],
        client_draws=numbers,
    )
    values = [[step["number"] for step in client] for client in trace.terms[0]]
    assert values == [[1.0, 2.0], [3.0]] and trace.terms[0][0][0]["half"] == 0.5
    assert trace.shown[0]["offset"] == 7 and seen == [(2,), (1,)]
    drawn = run(method, small_clients(8, 4), 1, settings={"half": 0.5})
    assert drawn.terms[0][0][0]["number"] == -1 and drawn.shown[0]["offset"] == 0


def test_first_states_can_be_handed_in():
    """A run of two rounds goes on from the states of one round."""
    whole = run("fedproto", small_clients(8, 4), 2)
    half = run("fedproto", small_clients(8, 4), 1)
    rest = run("fedproto", small_clients(8, 4), 1, server=half.servers[0], states=half.clients)
    check(rest.clients, whole.clients, 0)
    check(rest.servers[0], whole.servers[1], 0)


def test_a_client_left_with_less_than_a_batch_reserves_nothing():
    method = methods.Method(reserve=1)
    trace = run(method, small_clients(4, 7, 8, 12), 1)
    assert [len(losses) for losses in trace.losses[0]] == [1, 2, 1, 2]


def test_a_client_without_a_batch_trains_nothing_and_has_no_say():
    first, (model, variables, _) = small_clients(8, 4)
    trace = run("fedproto", [first, (model, variables, [])], 2)
    alone = run("fedproto", [first], 2)
    assert trace.losses[0][1] == [] and not np.any(trace.uploads[0][1].each.counts)
    check(trace.clients[1].params["model"], variables["params"], 0)
    check(trace.servers[1].vectors, alone.servers[1].vectors, 1e-6)
