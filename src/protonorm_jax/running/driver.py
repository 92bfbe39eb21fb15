"""From a plan to finished runs: compilation, the loop over rounds, what comes of each."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from protonorm_jax import methods, metrics, report
from protonorm_jax.config import Config
from protonorm_jax.engine.program import RunInputs, State
from protonorm_jax.errors import UsageError
from protonorm_jax.planning import devices, inputs
from protonorm_jax.planning import plan as planning
from protonorm_jax.planning.plan import Plan
from protonorm_jax.running import fetching, programs
from protonorm_jax.running import progress as bars
from protonorm_jax.types import Dataset

# A call of the program ends after about so many seconds, that a request to stop is soon heard.
_SECONDS_A_CALL = 5.0


class Simulation(NamedTuple):
    """A compiled program, and the runs it is for.

    Attributes:
      plan: what was planned.
      inputs: `(first) -> inputs`, what distinguishes the runs `first` to `first +
        plan.runs_per_program`, leaves `[num_devices, runs_each, ...]`, numpy.
      put: a tree of such leaves on the devices.
      shapes: of the states.
      predictors: the names of those that the method has.
      predictor: the name of the method's own, see `methods.own_predictor`.
      init: `(inputs, first=0) -> states` before the first round, of the runs from `first` on.
      advance: `(states, inputs, num_rounds, evaluated=True) -> (states, reports)`, with a report
        for each place of a run, see `simulate.advance`; without an evaluation only its `diverged`.
        The states passed in are used up.
      nets: `(states) -> nets`, for each place of a run those that the method names.
      trained: `(states, inputs, number) -> Trained`, what the clients of run `number` of a call
        have learned; compiled when it is first called.
      features: `(states, inputs) -> features`, for each place of a run `[num_clients, each,
        feature_dim]`, see `simulate.features_of_runs`; compiled when it is called.
      bytes_per_device: memory that the program needs on each.
      compile_seconds: spent tracing and compiling.
    """

    plan: Plan
    inputs: Callable[[int], RunInputs]
    put: Callable[[Any], Any]
    shapes: State
    predictors: Sequence[str]
    predictor: str
    init: Callable[..., State]
    advance: Callable[..., tuple[State, list[dict[str, Any]]]]
    nets: Callable[[State], list[dict[str, Any]]]
    trained: Callable[[State, Any, int], fetching.Trained]
    features: Callable[[State, Any], list[np.ndarray]]
    bytes_per_device: int
    compile_seconds: float


class Evaluation(NamedTuple):
    """What is known of a run after an evaluated round.

    Attributes:
      row: the numbers, JSON-ready, see `metrics.row`.
      arrays: numpy arrays of the server, those that the method shows and those of its last
        aggregation: with prototypes `prototypes` `[C, D]` and `known` `[C]`, and `class_means`
        `[C, D]` before they were aligned or trained.
      seconds: spent running, compilation not counted.
      nets: of the server by name, pytrees of numpy arrays; empty but after the last round.
      correct: by name of a predictor, right predictions of every client in every part of the
        samples that it is scored on, `[num_clients, parts]` int32.
      features: after the last round, if `Config.keep_features` asks for them: `features` `[n, D]`
        float32 of test samples, their `labels` and the `clients` that hold them, `[n]` int32.
    """

    row: dict[str, Any]
    arrays: dict[str, np.ndarray]
    seconds: float
    nets: dict[str, Any]
    correct: dict[str, np.ndarray]
    features: dict[str, np.ndarray]

    def __repr__(self) -> str:
        return f"<Evaluation of round {self.row.get('round', 0)}: {_accuracies(self.row)}>"


class History(NamedTuple):
    """A finished run.

    Attributes:
      config: its settings, with the number of clients that there are.
      rows: one dict for each evaluated round.
      summary: last and best figures, the yardstick and the times.
      arrays: of the last evaluation.
      nets: of the server, by name.
    """

    config: Config
    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    arrays: dict[str, np.ndarray]
    nets: dict[str, Any]

    def __repr__(self) -> str:
        rounds = f"{self.summary.get('rounds', 0)} rounds"
        return f"<History of {self._title()}, {rounds}: {_accuracies(self.summary)}>"

    def _repr_html_(self) -> str:
        return report.history_html(self._title(), self.rows, self.summary)

    def _title(self) -> str:
        config = self.config
        return f"{config.method} on {config.data}, {config.num_clients} clients ({config.family})"


class Step(NamedTuple):
    """Where the runs of one call of the program stand.

    Attributes:
      states: on the devices; used up when the training goes on.
      round_index: rounds finished.
      seconds: spent running.
      news: by index into `plan.runs`, the evaluation of this round if there is one; or, once for
        a run that cannot go on, why.
      inputs: what the runs are told, on the devices.
    """

    states: State
    round_index: int
    seconds: float
    news: dict[int, Evaluation | UsageError]
    inputs: Any = None


def run(
    config: Config,
    *,
    dataset: Dataset | None = None,
    on_start: Callable[[Simulation], None] | None = None,
    on_evaluation: Callable[[Evaluation], None] | None = None,
    progress: bool = False,
) -> History:
    """Runs a whole simulation.

    Args:
      config: all settings.
      dataset: used instead of loading `config.data`.
      on_start: called once everything is compiled.
      on_evaluation: called after every evaluated round.
      progress: whether to show a bar, in a terminal or a notebook.

    Raises:
      UsageError: a setting, file or data set that cannot be used, too little memory, or a loss
        that is not finite.
    """
    rows, last = [], Evaluation({}, {}, 0.0, {}, {}, {})
    with bars.bar(config.rounds, wanted=progress) as bar:
        simulation = prepare([config], dataset)
        if on_start:
            on_start(simulation)
        for step in train(simulation):
            for event in step.news.values():
                if isinstance(event, UsageError):
                    raise event
                rows.append(event.row)
                last = event
                if on_evaluation:
                    on_evaluation(event)
            bar.show(step.round_index, _accuracies(last.row))
    ended = summary(simulation, 0, rows, last.seconds)
    settled = simulation.plan.runs[0].config
    return History(settled, rows, ended, last.arrays, last.nets)


def _accuracies(values: Mapping[str, Any]) -> str:
    """The accuracies in a row or summary, in words."""
    return ", ".join(
        f"{name} accuracy {accuracy:.3f}"
        for name in (*metrics.predictors(values), "majority")
        if (accuracy := values.get(metrics.column(name))) is not None
    )


def summary(
    simulation: Simulation, index: int, rows: list[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    """Sums up run `index`, finished or not.

    Args:
      simulation: compiled.
      index: into `plan.runs`.
      rows: of its evaluations.
      seconds: spent running.
    """
    return {
        "method": simulation.plan.runs[index].config.method,
        "predictor": simulation.predictor,
        **metrics.summary(rows, simulation.predictor),
        **majority(simulation.plan, index),
        "seconds": seconds,
        "compile_seconds": simulation.compile_seconds,
    }


def majority_accuracy(plan: Plan, index: int) -> float | None:
    """The yardstick of run `index` on the samples that it is scored on first; None without any."""
    return next(iter(majority(plan, index).values()))


def majority(plan: Plan, index: int) -> dict[str, float | None]:
    """The yardsticks of run `index`, see `metrics.majority`."""
    run, dataset = plan.runs[index], plan.dataset
    return metrics.majority(run.partition, run.scored, dataset.labels, dataset.num_classes)


def train(simulation: Simulation, first: int = 0, start: Step | None = None) -> Iterator[Step]:
    """Trains the runs of one call of the program side by side to their end.

    Args:
      simulation: compiled.
      first: index of the first of the runs; a multiple of `plan.runs_per_program`.
      start: where to go on, instead of the beginning.

    Yields:
      A step after each call of the program: at evaluations, checkpoints, and in between where
      that takes long.
    """
    plan = simulation.plan
    config = plan.program.config
    indices = range(first, min(first + plan.runs_per_program, len(plan.runs)))
    going = list(indices)
    began = time.perf_counter()
    given = simulation.put(simulation.inputs(first))
    if start is None:
        start = Step(simulation.init(given, first), 0, 0.0, {})
    states, done, before = start.states, start.round_index, start.seconds
    most = 1  # Rounds in a call.
    while done < config.rounds and going:
        rounds = min(_until_stop(config, done), devices.agree(most))
        done += rounds
        evaluated = done % config.eval_every == 0 or done == config.rounds
        call = time.perf_counter()
        states, reports = simulation.advance(states, given, rounds, evaluated)
        now = time.perf_counter()
        most = max(1, int(_SECONDS_A_CALL * rounds / (now - call)))
        last = done == config.rounds
        nets = simulation.nets(states) if last else [{} for _ in reports]
        kept = simulation.features(states, given) if last and config.keep_features else None
        news: dict[int, Evaluation | UsageError] = {}
        for index in list(going):
            report = reports[index - first]
            try:
                check_finite(plan.runs[index].config, report)
            except UsageError as failure:
                going.remove(index)
                news[index] = failure
                continue
            if evaluated:
                row = metrics.row(done, report, plan.runs[index].scored)
                features = {} if kept is None else _features(plan, index, kept[index - first])
                news[index] = Evaluation(
                    row,
                    _arrays(report),
                    before + now - began,
                    nets[index - first],
                    report["correct"],
                    features,
                )
        yield Step(states, done, before + now - began, news, given)


def _features(plan: Plan, index: int, found: np.ndarray) -> dict[str, np.ndarray]:
    """Of run `index` the features of test samples, see `Evaluation`.

    Args:
      plan: whose.
      index: into `plan.runs`.
      found: `[num_clients, each, feature_dim]`.
    """
    scored, most = plan.runs[index].scored, plan.runs[index].config.keep_features
    there = np.arange(found.shape[1]) < scored.counts[:, :1]
    # One of each client, then a second one, and so on, up to as many as were asked for.
    places, clients = (axis[:most] for axis in np.nonzero(there.T))
    order = np.lexsort((places, clients))
    places, clients = places[order], clients[order]
    labels = plan.dataset.labels[scored.rows[clients, places]]
    return {
        "features": found[clients, places],
        "labels": labels.astype(np.int32),
        "clients": clients.astype(np.int32),
    }


def _until_stop(config: Config, done: int) -> int:
    """Rounds to the next evaluation, checkpoint, or the end."""
    left = [config.rounds - done, config.eval_every - done % config.eval_every]
    if config.checkpoint_every:
        left.append(config.checkpoint_every - done % config.checkpoint_every)
    return min(left)


def prepare(
    configs: Sequence[Config], dataset: Dataset | None = None, **settings: Any
) -> Simulation:
    """Plans and compiles, see `plan.make` for arguments and errors."""
    return compile_plan(planning.make(configs, dataset, **settings))


def compile_plan(plan: Plan) -> Simulation:
    """Puts the data on the devices and compiles all programs ahead of time.

    Raises:
      UsageError: too little memory.
    """
    devices.make_room_for_programs()
    program = plan.program
    everywhere, by_device = programs.shardings(plan)
    samples = devices.put(programs.samples_of(plan.dataset), everywhere)

    def put(tree: Any) -> Any:
        return devices.put(tree, by_device)

    start = time.perf_counter()
    told = programs.told_shapes(plan)
    compiled = programs.compile_all(plan, told)
    # Every process gets what all devices have to say.
    several = jax.process_count() > 1
    whole = jax.jit(lambda tree: tree, out_shardings=everywhere) if several else lambda tree: tree
    compile_seconds = time.perf_counter() - start
    needed = compiled.needed.total()
    planning.check_memory(plan, needed, devices.free_bytes(plan.devices), "")
    places = [inputs.place_of(plan, number) for number in range(plan.runs_per_program)]

    def fetch(tree: Any) -> list[Any]:
        """What a tree with leaves `[num_devices, runs_each, ...]` has of each run, as numpy."""
        here = jax.device_get(whole(jax.block_until_ready(tree)))
        return [jax.tree.map(lambda leaf, place=place: leaf[place], here) for place in places]

    def init(given: Any, first: int = 0) -> State:
        if not inputs.starts_with_given(plan):
            return compiled.init(given)
        return compiled.init(given, put(inputs.initial_of_call(plan, inputs.of_call(plan, first))))

    def run_advance(
        states: State, given: Any, num_rounds: int, evaluated: bool = True
    ) -> tuple[State, list[dict[str, Any]]]:
        states, report = compiled.advance(states, given, samples, num_rounds, evaluated)
        return states, fetch(report if evaluated else {"diverged": report["diverged"]})

    def nets(states: State) -> list[dict[str, Any]]:
        return fetch(program.method.nets(states.server))

    def features(states: State, given: Any) -> list[np.ndarray]:
        return fetch(
            programs.compiled(programs.features(plan, told, compiled.shapes))(
                states, given, samples
            )
        )

    return Simulation(
        plan,
        functools.partial(inputs.of_call, plan),
        put,
        compiled.shapes,
        compiled.predictors,
        methods.own_predictor(program.method, compiled.predictors),
        init,
        run_advance,
        nets,
        fetching.Fetcher(plan, told, compiled.shapes, whole),
        features,
        needed,
        compile_seconds,
    )


def check_finite(config: Config, report: dict[str, Any]) -> None:
    """Stops a run that has diverged.

    Raises:
      UsageError: a client's loss or upload was not finite; names the first round and client.
    """
    diverged = report["diverged"]
    if (diverged < 0).all():
        return
    first = diverged[diverged >= 0].min()
    client = int(np.flatnonzero(diverged == first)[0])
    raise UsageError(
        f"loss must be finite, got a value that is not from client {client} in round {first + 1}; "
        f"learning_rate = {config.learning_rate} may be too high"
    )


def _arrays(report: dict[str, Any]) -> dict[str, np.ndarray]:
    """The server's arrays after a call, see `Evaluation`."""
    made = {name: value for name, value in report["server"].items() if np.ndim(value) > 0}
    return made | {name: np.asarray(value) for name, value in report["shown"].items()}
