"""The programs that the contract of a method is tested with: few, small, and each compiled once."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from compilation import HASTY
from protonorm_jax import methods, settings
from protonorm_jax.config import Config
from protonorm_jax.engine.program import State
from protonorm_jax.methods.method import Method, keep
from protonorm_jax.models import layers, registry
from protonorm_jax.planning import inputs, layout
from protonorm_jax.planning import plan as planning
from protonorm_jax.running import driver
from protonorm_jax.types import Dataset

HOOKS = ("broadcast", "receive", "loss", "upload", "aggregate", "predict")


class Plain(nn.Module):
    """One layer."""

    @nn.compact
    def __call__(self, x, context):
        del context
        return nn.relu(layers.Linear(512, name="fc")(layers.flatten(x)))


class Normed(nn.Module):
    """A convolution and batch norm."""

    @nn.compact
    def __call__(self, x, context):
        x = nn.relu(layers.conv_norm(x, context, 64, "conv", "norm", stride=2))
        return layers.global_average(x)


ARCHITECTURES = {
    "contract_plain": registry.Architecture(Plain, step_cost=1.0),
    "contract_normed": registry.Architecture(Normed, "normal", step_cost=1.0),
}


def probe(group: type, name: str) -> tuple[Any, Any]:
    """Two values of a setting between which results differ."""
    field = settings.fields(group)[name]
    if field.metadata["probe"] is not None:
        return field.metadata["probe"]
    if "choices" in field.metadata:
        return tuple(field.metadata["choices"][:2])
    if settings.field_type(group, name)[0] is bool:
        return False, True
    assert field.default, f"{name} needs a probe"
    return field.default, 2 * field.default


def config_of(name: str) -> Config:
    """Seven clients of two architectures, which no device count divides, or of one.

    Every setting of the method has the first of its two values.
    """
    group = methods.METHODS[name].settings
    shared = build(name).shared
    alone = shared is not None and shared.architecture == "private"
    return Config(
        method=name,
        method_settings={one: probe(group, one)[0] for one in settings.fields(group)},
        family="contract_normed" if alone else "contract_normed,contract_plain",
        num_clients=7,
        alpha=0.5,
        min_samples=5,
        rounds=3,
        batch_size=8,
        feature_dim=256,
        learning_rate=0.005,
        eval_batch_size=16,
        shuffle=False,
        participation=0.7,
        dropout=0.2,
        devices=1,
    )


def build(name: str, **changed: Any) -> Method:
    """The method, with the first probe value of each setting that is not `changed`."""
    group = methods.METHODS[name].settings
    values = {one: probe(group, one)[0] for one in settings.fields(group)}
    return methods.build(name, methods.Setup(6, 256, 7, 3, 8), values | changed)


class Event(NamedTuple):
    """A hook was traced.

    Attributes:
      hook: its name.
      result: of `upload` and `broadcast`, with shapes in the place of arrays.
    """

    hook: str
    result: Any


def watched(row: methods.Row, log: list[Event]) -> methods.Row:
    """The same row of the table, whose hooks write down that they are traced."""

    def one(hook, function):
        @functools.wraps(function)
        def traced(*arguments, **named):
            result = function(*arguments, **named)
            keep_result = hook in ("broadcast", "upload")
            log.append(Event(hook, jax.tree.map(_shape, result) if keep_result else None))
            return result

        return traced

    def factory(setup, fixed):
        method = row.factory(setup, fixed)
        hooks = {hook: getattr(method, hook) for hook in HOOKS}
        # That it is this very function says that nothing is received.
        hooks = {hook: function for hook, function in hooks.items() if function is not keep}
        return method._replace(**{hook: one(hook, given) for hook, given in hooks.items()})

    return row._replace(factory=factory)


def _shape(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    return leaf


class Outcome(NamedTuple):
    """What came of a run.

    Attributes:
      rows: of its evaluations.
      arrays: of each evaluation.
      nets: of the server, at the end.
      server: the state of the server, at the end.
      clients: the state of each client, flat, at the end.
    """

    rows: list[dict[str, Any]]
    arrays: list[dict[str, np.ndarray]]
    nets: dict[str, Any]
    server: Any
    clients: list[Any]


class Compiled(NamedTuple):
    """A program.

    Attributes:
      simulation: compiled.
      log: the hooks that were traced for it.
    """

    simulation: driver.Simulation
    log: list[Event]

    def outcomes(self) -> list[Outcome]:
        """Trains all runs."""
        plan = self.simulation.plan
        evaluations: list[list[driver.Evaluation]] = [[] for _ in plan.runs]
        states = None
        for step in driver.train(self.simulation):
            for number, event in step.news.items():
                if isinstance(event, Exception):
                    raise event
                evaluations[number].append(event)
            states = step.states
        here = jax.device_get(states)
        return [
            Outcome(
                [one.row for one in own],
                [one.arrays for one in own],
                own[-1].nets,
                server_of(self.simulation, here, number),
                clients_of(self.simulation, here, number),
            )
            for number, own in enumerate(evaluations)
        ]

    def evaluated_every(self, rounds: int) -> "Compiled":
        """The same program, of which fewer rounds are evaluated."""
        plan = self.simulation.plan
        config = plan.program.config.replace(eval_every=rounds)
        plan = plan._replace(program=plan.program._replace(config=config))
        return self._replace(simulation=self.simulation._replace(plan=plan))

    def littered(self) -> "Compiled":
        """The same program, with rubbish wherever there is neither a sample nor a client."""
        simulation = self.simulation
        last = simulation.plan.dataset.labels.shape[0] - 1

        def given(first):
            runs = simulation.inputs(first)
            members = []
            for one in runs.members:
                arrays = {}
                for rows, count in (("train", one.train_count), ("test", one.test_count.sum(-1))):
                    indices = getattr(one, rows)
                    beyond = np.arange(indices.shape[-1]) >= count[..., None]
                    rubbish = last - np.arange(indices.shape[-1], dtype=np.int32) % 7
                    arrays[rows] = np.where(beyond, rubbish, indices)
                members.append(one._replace(**arrays))
            return runs._replace(members=tuple(members))

        def init(runs, first=0):
            states = simulation.init(runs, first)
            clients = [
                jax.tree.map(functools.partial(_spoil, np.asarray(one.client_ids) < 0), client)
                for one, client in zip(runs.members, states.clients, strict=True)
            ]
            return states._replace(clients=tuple(clients))

        return self._replace(simulation=simulation._replace(inputs=given, init=init))


def _spoil(empty: np.ndarray, leaf: jax.Array) -> jax.Array:
    spoilt = np.where(empty[..., None], np.asarray(np.nan, leaf.dtype), np.asarray(leaf))
    return jax.device_put(spoilt, leaf.sharding)


def server_of(simulation: driver.Simulation, states: State, number: int) -> Any:
    """The server of a run."""
    place = inputs.place_of(simulation.plan, number)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[place], states.server)


def clients_of(simulation: driver.Simulation, states: State, number: int) -> list[Any]:
    """The clients of a run, in the order of their ids."""
    plan = simulation.plan
    device, local = inputs.place_of(plan, number)
    devices = slice(device, device + plan.spread.client_devices)
    found = {}
    placements = plan.runs[number].layout.placements
    for one, stacked in zip(placements, states.clients, strict=True):
        for (where, slot), client in np.ndenumerate(one.client_ids):
            found[int(client)] = jax.tree.map(
                lambda leaf, where=where, slot=slot: np.asarray(leaf)[devices][where, local, slot],
                stacked,
            )
    return [found[client] for client in range(len(plan.architectures))]


class Programs:
    """The programs of one method.

    Attributes:
      whole: whether there are programs for two devices and for vmapped clients, too, and those for
        equal bits are compiled as users compile them.
      config: of the plainest run.
      dataset: of which nobody holds the last class.
      changes: by what they are for, in what the runs of `alone` differ from `config`.
    """

    def __init__(self, name: str, dataset: Dataset, *, whole: bool = True) -> None:
        self.name = name
        self.whole = whole
        self.dataset = Dataset(dataset.images, dataset.labels, dataset.num_classes + 1, "gap")
        self.config = config_of(name)
        self.changes: dict[str, dict[str, Any]] = {
            "plain": {},
            "another seed": {"seed": 1},
            "all lost": {"dropout": 1.0},
            # Of equally many samples each, 3 batches and a half; the plain loop compiles two steps.
            "nothing lost": {"dropout": 0.0, "partition": "iid", "train_fraction": 0.825},
        }
        group = methods.METHODS[name].settings
        for one in settings.traced(group):
            self.changes[one] = {one: probe(group, one)[1]}

    def compile(self, changes, *, options=None, **arguments) -> Compiled:
        """Plans and compiles a program of runs that differ from `config` in these changes."""
        row, log = methods.METHODS[self.name], []
        lower = jax.stages.Lowered.compile
        try:
            methods.METHODS[self.name] = watched(row, log)
            configs = [self.config.replace(**change) for change in changes]
            plan = planning.make(configs, self.dataset, **arguments)
            log.clear()  # The memory was estimated by tracing, too.
            given = iter(
                (HASTY, options or (None if self.whole else HASTY))
            )  # First what makes the initial states.
            jax.stages.Lowered.compile = lambda lowered, _=None: lower(lowered, next(given))
            simulation = driver.compile_plan(plan)
            return Compiled(simulation, list(log))  # Others may call the hooks later.
        finally:
            jax.stages.Lowered.compile = lower
            methods.METHODS[self.name] = row

    @functools.cached_property
    def alone(self) -> Compiled:
        """All runs, on one device, one after the other."""
        changes = list(self.changes.values())
        return self.compile(changes, runs_per_program=len(changes))

    @functools.cached_property
    def two(self) -> Compiled:
        """The plain run on two devices; on four where not the whole contract is tested."""
        return self.compile([{"devices": 2}]) if self.whole else self.four

    @functools.cached_property
    def four(self) -> Compiled:
        """The plain run on four devices."""
        return self.compile([{"devices": 4}])

    @functools.cached_property
    def mapped(self) -> Compiled:
        """The first two runs and pairs of clients, vmapped; the batches do not narrow."""
        choose, layout.choose_widths = layout.choose_widths, lambda work, **_: [() for _ in work]
        try:
            return self.compile(
                [{**change, "vmap_clients": 2} for change in list(self.changes.values())[:2]],
                options=HASTY,
                runs_per_program=2,
                vmap_runs=2,
            )
        finally:
            layout.choose_widths = choose

    @functools.cached_property
    def outcomes(self) -> dict[str, Outcome]:
        """Of the runs of `alone`."""
        return dict(zip(self.changes, self.alone.outcomes(), strict=True))
