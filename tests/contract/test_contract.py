"""What every row of the table of methods keeps to; a new row is tested without a line of code here.

The runs are small: seven clients with one layer each, some of them a convolution and batch norm,
and a class that nobody holds. Every setting of a method has the first of its two `probe` values.
"""

import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import (
    ARCHITECTURES,
    HASTY,
    Compiled,
    Programs,
    build,
    clients_of,
    probe,
    server_of,
)

import plainly
from compilation import hasty
from protonorm_jax import keys, methods, models, settings
from protonorm_jax.engine import participation
from protonorm_jax.engine.client import local_update
from protonorm_jax.methods.shared.class_table import ClassSums
from protonorm_jax.models import registry
from protonorm_jax.planning import plan as planning
from protonorm_jax.running import driver, job, reading, record, verify
from protonorm_jax.types import ClientData, Models

pytestmark = pytest.mark.timeout(180)


WHOLE = ("protonorm",)
"""Methods of which `make test` tests the contract, and all of it. The others are for `make
test-large`, and decompositions in vmapped clients for `test_decompositions`."""


def rows():
    """The methods; those not in `WHOLE` twice."""
    for name in sorted(methods.METHODS):
        whole = name in WHOLE
        marks = [] if whole else [pytest.mark.large]
        yield pytest.param((name, whole), id=name, marks=marks)
        if not whole:
            yield pytest.param((name, True), id=f"{name}, whole", marks=marks)


@pytest.fixture(scope="module", params=rows())
def programs(request, small_set):
    """The programs of one method, each compiled when first asked for."""
    registry.ARCHITECTURES.update(ARCHITECTURES)
    name, whole = request.param
    yield Programs(name, small_set, whole=whole)
    for name in ARCHITECTURES:
        del registry.ARCHITECTURES[name]


def assert_same(one, other):
    """Asserts that two trees agree in every bit."""
    jax.tree.map(np.testing.assert_array_equal, one, other)


def assert_close(one, other):
    """Asserts that two trees agree to rounding, which a few rounds have made larger."""

    def close(one, other):
        size = np.abs(one).max(initial=0.0)
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-3 * max(size, 1e-2))

    jax.tree.map(close, one, other)


def same(one, other):
    """Whether two trees of one shape agree in every bit."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(*pair) for pair in pairs)


def assert_finite(tree):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)


def test_everything_is_finite(programs):
    for purpose, outcome in programs.outcomes.items():
        assert_finite(outcome._replace(rows=[]))
        if purpose != "all lost":
            assert all(row["uploads_arrived"] > 0 for row in outcome.rows)
            missing = [name for name, value in outcome.rows[-1].items() if value is None]
            assert not missing, missing


def test_the_same_key_gives_the_same_bits(programs):
    """Whether or not rounds are evaluated."""
    plain = programs.outcomes["plain"]
    (again,) = programs.four.evaluated_every(2).outcomes()
    assert [row["round"] for row in again.rows] == [2, 3]
    assert_same(plain._replace(rows=[], arrays=[]), again._replace(rows=[], arrays=[]))
    assert again.rows == plain.rows[1:] and plain.arrays[-1].keys() == again.arrays[-1].keys()
    assert not same(plain.clients, programs.outcomes["another seed"].clients)


def test_the_number_of_devices_does_not_matter(programs):
    plain = programs.outcomes["plain"]
    for program in (programs.two, programs.four):
        (outcome,) = program.outcomes()
        assert_same(plain, outcome)


def test_the_plain_loop_gives_the_same(programs):
    """But for rounding."""
    index = list(programs.changes).index("nothing lost")
    plan, outcome = programs.alone.simulation.plan, programs.outcomes["nothing lost"]
    with hasty():
        trace = plainly.federate(plan, index)
    for uploads, terms, shown, row, arrays in zip(
        trace.uploads, trace.terms, trace.shown, outcome.rows, outcome.arrays, strict=True
    ):
        assert row["uploads_arrived"] == sum(upload is not None for upload in uploads) == 5
        assert row["floats_up"] == sum(int(one.floats) for one in uploads if one is not None)
        trained = [steps for steps in terms if steps]
        for name in trained[0][0] if trained else ():
            means = [np.mean([step[name] for step in steps]) for steps in trained]
            plainly.check(np.float32(row[name]), np.float32(np.mean(means)))
        plainly.check(arrays, {name: shown[name] for name in arrays})
    plainly.check(outcome.server, trace.servers[-1])
    for one, client in zip(outcome.clients, trace.clients, strict=True):
        plainly.check(one, jax.tree.map(jnp.ravel, client))


def test_vmapped_clients_and_runs_agree_with_each_alone(programs):
    if not programs.whole:
        pytest.skip("make test-large has it")
    plan = programs.mapped.simulation.plan
    assert plan.spread.vmap_runs == 2 and plan.program.architectures[0].chunk == 2
    for purpose, outcome in zip(programs.changes, programs.mapped.outcomes(), strict=False):
        alone = programs.outcomes[purpose]
        for part in ("arrays", "nets", "server", "clients"):
            assert_close(getattr(alone, part), getattr(outcome, part))


def test_hooks_are_not_traced_for_each_client_device_or_run(programs):
    hooks = [event.hook for event in programs.alone.log]
    assert [event.hook for event in programs.two.log] == hooks
    assert [event.hook for event in programs.four.log] == hooks


def test_traced_settings_share_a_program_and_change_the_result(programs):
    plain = programs.outcomes["plain"]
    for name in settings.traced(methods.METHODS[programs.name].settings):
        other = programs.outcomes[name]
        assert not same((plain.clients, plain.server), (other.clients, other.server)), name


def test_other_settings_change_the_name_of_the_config(programs):
    group = methods.METHODS[programs.name].settings
    for name in settings.fields(group):
        first, second = probe(group, name)
        configs = [programs.config.replace(**{name: value}) for value in (first, second)]
        assert configs[0].digest() != configs[1].digest(), name
        if name in settings.fixed(group):
            build(programs.name, **{name: second})


def test_rubbish_where_nothing_is_changes_no_bit(programs):
    """Beyond a client's samples, and in slots without a client, which hold NaN."""
    for program in (programs.four, programs.mapped) if programs.whole else (programs.four,):
        slots = sum(one.client_ids.size for one in program.simulation.plan.runs[0].layout[0])
        assert slots > 7
        for outcome, other in zip(program.outcomes(), program.littered().outcomes(), strict=True):
            assert_same(outcome, other)


def test_where_no_upload_arrives_the_server_stays_as_it_was(programs):
    simulation = programs.alone.simulation
    number = list(programs.changes).index("all lost")
    start = jax.device_get(simulation.init(simulation.put(simulation.inputs(0))))
    outcome = programs.outcomes["all lost"]
    assert_same(server_of(simulation, start, number), outcome.server)
    assert not same(clients_of(simulation, start, number), outcome.clients)
    report = _report(programs.alone, number)
    for row in outcome.rows:
        scalars = [name for name, value in report["server"].items() if np.ndim(value) == 0]
        assert all(row[name] is None for name in scalars)
        assert row["uploads_arrived"] == row["floats_up"] == row["floats_up_total"] == 0
        lost = [name for name in report["terms"] if row[name] is None]
        assert not lost or row["clients_trained"] == 0


def _report(program: Compiled, number: int):
    """What a run reports of its first round."""
    simulation = program.simulation
    given = simulation.put(simulation.inputs(0))
    return simulation.advance(simulation.init(given), given, 1)[1][number]


def test_without_a_budget_nothing_is_trained(programs):
    """The architecture with batch norm; the upload is finite nevertheless."""
    config, dataset = programs.config, programs.dataset
    method = build(programs.name)
    shared_dim = method.shared.feature_dim if method.shared else None
    net, shared = (
        models.build("contract_normed", num_classes=6, feature_dim=dim, image_shape=(8, 8, 1))
        for dim in (config.feature_dim, shared_dim or config.feature_dim)
    )
    both = Models(net, shared if method.shared else None)
    own = jax.tree.map(jnp.float32, methods.settings_of(config.method, config.method_settings))
    counts = jnp.tile(jnp.array([[3, 3, 3, 3, 3, 0]], jnp.int32), (7, 1))
    round = methods.Round(jnp.int32(0), jnp.float32(0.1), own, counts)
    rows = jnp.arange(20, dtype=jnp.int32)
    data = ClientData(jnp.asarray(dataset.images), jnp.asarray(dataset.labels), rows, jnp.int32(15))

    def update(key, budget):
        first = net.init(key)
        server = method.init_server(key, both, first)
        client = method.init_client(key, first, server, both, counts[0])
        down, _ = method.broadcast(server, round)
        settled = {"models": both, "method": method, "config": config, "budget": budget}
        trained, upload, info = local_update(key, client, down, data, round, **settled)
        return client, trained, (upload, info)

    compiled = jax.jit(update).lower(jax.random.key(0), jnp.int32(0)).compile(HASTY)
    before, after, (upload, info) = compiled(jax.random.key(0), jnp.int32(0))
    assert_same(before, after)
    assert_finite((upload, info["terms"]))
    assert info["num_steps"] == 0 and info["finite"]
    before, after, _ = compiled(jax.random.key(0), jnp.int32(1))
    assert not same(before, after)


def test_uploads_are_float32_and_the_same_for_all_architectures(programs):
    uploads = [event.result for event in programs.alone.log if event.hook == "upload"]
    shapes = {str((upload.each, upload.mean)) for upload in uploads}
    assert len(shapes) == 1
    for leaf in jax.tree.leaves(uploads[0].mean):
        assert leaf.dtype == jnp.float32
    for leaf in jax.tree.leaves(uploads[0].each):
        assert leaf.dtype == jnp.float32 or not jnp.issubdtype(leaf.dtype, jnp.inexact)


def _size(tree) -> int:
    """How many numbers with a fraction a tree has."""
    return sum(
        leaf.size for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)
    )


def test_floats_are_counted(programs):
    """As many as the trees hold; of sums by class, a vector of each class that a client has."""
    plan, config = programs.alone.simulation.plan, programs.config
    log = programs.alone.log
    upload = next(event.result for event in log if event.hook == "upload")
    down, floats_down = next(event.result for event in log if event.hook == "broadcast")
    size = _size((upload.each, upload.mean))
    method = build(programs.name)
    held = np.sum(plan.runs[0].class_counts > 0, axis=1)
    assert plan.added.floats_up <= size and plan.added.floats_down <= _size(down)
    up_total = down_total = 0
    for index, row in enumerate(programs.outcomes["plain"].rows):
        trains, arrives = participation.participants(
            keys.root(config.seed), index, 7, config.participation, config.dropout
        )
        assert trains.sum() == 5 and row["clients_trained"] == 5
        assert row["uploads_arrived"] == arrives.sum()
        if isinstance(upload.floats, int):
            assert row["floats_up"] == upload.floats * arrives.sum()
            assert upload.floats == size
        elif isinstance(upload.each, ClassSums):
            assert row["floats_up"] == upload.each.sums.shape[1] * np.sum(held * arrives)
        else:
            assert 0 < row["floats_up"] <= size * arrives.sum()
        assert row["floats_up"] <= plan.added.floats_up * arrives.sum()
        receivers = 7 if method.sent_to == "all" else 5
        if isinstance(floats_down, int):
            assert row["floats_down"] == floats_down * receivers
            assert floats_down == _size(down)
        else:
            assert 0 <= row["floats_down"] <= _size(down) * receivers
        assert row["floats_down"] <= plan.added.floats_down * receivers
        up_total, down_total = up_total + row["floats_up"], down_total + row["floats_down"]
        assert (row["floats_up_total"], row["floats_down_total"]) == (up_total, down_total)
        assert all(type(row[name]) is int for name in row if name.startswith("floats_"))


def test_the_evaluation_takes_in_what_was_sent(programs):
    method = build(programs.name)
    if method.receive is methods.method.keep:
        pytest.skip("nothing is received")
    hooks = [event.hook for event in programs.alone.log]
    evaluation = hooks[len(hooks) - hooks[::-1].index("aggregate") :]
    assert evaluation.pop(0) == "broadcast"
    evaluation = [hook for hook in evaluation if hook != "broadcast"]
    assert "loss" not in evaluation and "predict" in evaluation
    before = None
    for hook in evaluation:  # Each architecture receives before it predicts.
        assert hook != "predict" or before in ("receive", "predict")
        before = hook
    assert evaluation.count("receive") == len(programs.alone.simulation.plan.program.architectures)


class Watcher:
    """A display that asks for an end after the first round."""

    def __init__(self, stop):
        self.stop = stop
        self.rounds = []

    def plan(self, planned):
        pass

    def start(self, simulation, round_index=0):
        pass

    def add(self, step):
        self.rounds.append(step.round_index)
        if self.stop and step.round_index == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_stopped_run_goes_on_and_can_be_verified(programs, monkeypatch, tmp_path):
    """Begun on two devices, continued on four, and run again on two, if there are such programs."""
    known = {4: programs.four.simulation}
    fewer = 2 if programs.whole else 4
    known[fewer] = programs.two.simulation
    monkeypatch.setattr(planning, "make", lambda configs, _: known[configs[0].devices].plan)
    monkeypatch.setattr(driver, "compile_plan", lambda plan: known[len(plan.devices)])
    monkeypatch.setattr(record.report, "draw_curves", lambda *_: None)
    monkeypatch.setattr(record.report, "draw_prototypes", lambda *_: None)
    config, watcher = known[fewer].plan.program.config, Watcher(True)
    assert job.run(config, tmp_path, display=watcher)["status"] == "stopped"
    assert watcher.rounds == [1] and len(reading.read_rows(tmp_path)) == 1
    watcher = Watcher(False)
    assert job.resume(tmp_path, display=watcher, num_devices=4)["status"] == "finished"
    assert watcher.rounds == [2, 3]
    plain = programs.outcomes["plain"]
    assert reading.read_rows(tmp_path) == plain.rows
    files = reading.read_arrays(tmp_path)
    del files["clients.npz"]
    arrays = {name: array for own in files.values() for name, array in own.items()}
    assert plain.arrays[-1].keys() <= arrays.keys()
    assert_same(plain.arrays[-1], {name: arrays[name] for name in plain.arrays[-1]})
    assert len(arrays) == len(plain.arrays[-1]) + len(jax.tree.leaves(plain.nets))
    verified = verify.run(tmp_path, display=Watcher(False), num_devices=fewer)
    assert verified.identical and verified.reproduced and not verified.changes


def test_memory_is_expected_as_it_is_needed(programs):
    for program in (programs.alone, programs.two):
        simulation = program.simulation
        ratio = simulation.plan.memory.total() / simulation.bytes_per_device
        assert 0.8 <= ratio <= 1.4, simulation.plan.memory


def test_what_the_method_shows_is_recorded(programs):
    plain = programs.outcomes["plain"]
    method = build(programs.name)
    shown = method.show(plain.server)
    for name, array in shown.items():
        np.testing.assert_array_equal(plain.arrays[-1][name], array)
    assert_same(plain.nets, method.nets(plain.server))
    assert_finite((plain.arrays, plain.nets))
