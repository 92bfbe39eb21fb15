"""The programs of a plan: traced one after the other, compiled side by side, called in turn.

A round is one program, or for nets that take long to compile several, see `Program.apart`.
"""

import concurrent.futures
import contextlib
import functools
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from protonorm_jax.engine import exchange, simulate
from protonorm_jax.engine.compiling import compiler_options as compiler_options
from protonorm_jax.engine.program import Samples, State
from protonorm_jax.planning import devices, inputs, memory, need
from protonorm_jax.planning.need import Need
from protonorm_jax.planning.plan import Plan
from protonorm_jax.types import Dataset, Images

# The shortest and the longest time between two looks at whether a program has ended.
_NAPS = 0.00002, 0.001


class Uncompiled(NamedTuple):
    """A program that is not compiled yet.

    Attributes:
      name: `init` makes the first states; `rounds` advances and evaluates; where a round is several
        programs they are `open`, `clients NET` (training and evaluation), `close` and `score`.
      number: of the architecture, for those of one.
      lowered: for `jax` to compile.
      options: for the compiler.
      every_round: whether it is called once in every round, and not once for several.
      arguments: the names of all arrays that it is given, in their order.
    """

    name: str
    number: int | None
    lowered: jax.stages.Lowered
    options: dict[str, bool | str]
    every_round: bool
    arguments: tuple[str, ...]


def traced(plan: Plan, told: Any) -> Iterator[Uncompiled]:
    """The programs of a plan, the dearest first among those of the clients.

    Of shapes alone: they need no device, and what is compiled ahead is what is run.

    Args:
      plan: whose.
      told: of runs, see `inputs.of_call`; or the shapes of that.
    """
    init = _Tracer(plan)
    initial = (inputs.initial_shapes(plan, told),) if inputs.starts_with_given(plan) else ()
    first = init.lower("init", simulate.init_runs, told, *initial)
    yield first._replace(every_round=False)
    states, samples = first.lowered.out_info, samples_of(plan.dataset)
    lower = _Tracer(plan, options_of(plan)).lower
    program = plan.program
    if not program.apart:
        rounds = lower(
            "rounds",
            simulate.advance_runs,
            *(states, told, samples, np.int32(1), np.bool_(True)),
            in_axes=(0, 0, None, None, None),
            donate_argnums=0,
        )
        yield rounds._replace(every_round=False)
        return
    rests = states._replace(clients=())
    opened = lower("open", simulate.open_runs, rests, told)
    yield opened
    now = opened.lowered.out_info
    results: dict[int, Any] = {}
    for number in _dearest_first(plan):
        clients = lower(
            "clients",
            simulate.clients_runs,
            *(states.clients[number], rests, told, now, samples, np.bool_(True), np.bool_(True)),
            number=number,
            in_axes=(0, 0, 0, 0, None, None, None),
            donate_argnums=0,
        )
        yield clients
        results[number] = clients.lowered.out_info[1]
    outputs, hits = zip(*(results[number] for number in sorted(results)), strict=True)
    yield lower("close", simulate.close_runs, rests, told, now, outputs, donate_argnums=0)
    yield lower("score", simulate.score_runs, hits, rests, told)._replace(every_round=False)


class _Tracer:
    """Traces functions of a plan's program on all of its devices."""

    def __init__(self, plan: Plan, options: dict[str, bool | str] | None = None) -> None:
        self._plan = plan
        self._options = options or {}

    def lower(
        self,
        name: str,
        function: Callable[..., Any],
        *given: Any,
        number: int | None = None,
        **options: Any,
    ) -> Uncompiled:
        """`function(program, [number,] *given)`, traced on shapes of `given`."""
        fixed = () if number is None else (number,)
        mapped = pmapped(self._plan, function, *fixed, **options)
        if number is not None:
            name = f"{name} {self._plan.runs[0].layout.placements[number].architecture}"
        with promoting():
            lowered = mapped.lower(*shapes_of(given))
        names = _names_of(function, 1 + len(fixed), given)
        return Uncompiled(name, number, lowered, self._options, True, names)


def _names_of(function: Callable[..., Any], first: int, given: Sequence[Any]) -> tuple[str, ...]:
    """The names of all arrays that a function is given from the first of these arguments on."""
    own = list(inspect.signature(function).parameters)[first:]
    return tuple(
        name + jax.tree_util.keystr(place)
        for name, one in zip(own, given, strict=False)
        for place, _ in jax.tree_util.tree_leaves_with_path(one)
    )


def _dearest_first(plan: Plan) -> Sequence[int]:
    """The numbers of the architectures, those with most to compile first."""

    def arrays(number: int) -> int:
        return len(jax.tree.leaves(plan.program.architectures[number].client))

    return sorted(range(len(plan.program.architectures)), key=arrays, reverse=True)


class Programs(NamedTuple):
    """The programs of a plan, ready to be called.

    Attributes:
      init: `(inputs, *initial) -> states`, with what private models start with, see
        `inputs.starts_with_given`.
      advance: `(states, inputs, samples, num_rounds, evaluated) -> (states, report)`, all on the
        devices; the states passed in are used up. `num_rounds` and `evaluated` are plain. Without
        an evaluation the report has what a stopped run must say, `diverged`, and maybe more.
      shapes: of the states.
      predictors: names of the method's predictors.
      needed: of each device.
    """

    init: Callable[..., State]
    advance: Callable[..., tuple[State, dict[str, Any]]]
    shapes: State
    predictors: Sequence[str]
    needed: Need


def compile_all(plan: Plan, told: Any) -> Programs:
    """Compiles the programs of a plan, as many at a time as there are cores.

    Args:
      plan: whose.
      told: see `traced`.
    """
    found: list[tuple[Uncompiled, concurrent.futures.Future]] = []
    with several_at_a_time() as pool:
        found.extend((one, pool.submit(compiled, one)) for one in traced(plan, told))
        made = {(one.name, one.number): future.result() for one, future in found}
    named = {(one.name.split()[0], one.number): made[one.name, one.number] for one, _ in found}
    lowered = {one.name: one.lowered for one, _ in found}
    states = shapes_of(lowered["init"].out_info)
    if plan.program.apart:
        advance = _in_turn(plan, named)
        correct = lowered["score"].out_info["correct"]
    else:
        advance = _at_once(plan, named["rounds", None])
        correct = lowered["rounds"].out_info[1]["correct"]
    needs = {key: need.of(one) for key, one in named.items() if key[0] != "init"}
    return Programs(
        named["init", None], advance, states, list(correct), needed_together(plan, needs, states)
    )


@contextlib.contextmanager
def several_at_a_time() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    """A pool to compile in; whoever is interrupted does not wait for what has not begun."""
    pool = concurrent.futures.ThreadPoolExecutor(devices.num_cores())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def needed_together(
    plan: Plan, needs: Mapping[tuple[str, int | None], Need], states: State
) -> Need:
    """What the programs of a round need of a device, one of them running at a time.

    Args:
      plan: whose.
      needs: of each by its kind (`rounds`; or `open`, `clients`, `close`, `score`) and the
        number of its architecture.
      states: their shapes, `[num_devices, runs_each, ...]`.
    """
    tiled = plan.devices[0].platform == "tpu"
    here = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), states)
    clients = [memory.num_bytes(one, tiled=tiled) for one in here.clients]
    uploads = {key: one.results for key, one in needs.items() if key[0] == "clients"}
    code = sum(one.code for one in needs.values())
    found = []
    for (kind, number), one in needs.items():
        beside = 0
        if kind != "rounds":  # That one is given all there is.
            beside = sum(clients) - (0 if number is None else clients[number])
        if kind == "clients":
            beside += sum(uploads.values()) - one.results
        found.append(one._replace(arguments=one.arguments + beside, code=code))
    return max(found, key=Need.total)


def compiled(one: Uncompiled) -> jax.stages.Compiled:
    """A program, compiled."""
    return one.lowered.compile(one.options or None)


def _at_once(plan: Plan, program: Callable[..., Any]) -> Callable[..., Any]:
    """`Programs.advance` where all is one program."""
    everywhere, _ = shardings(plan)

    def advance(states: Any, given: Any, samples: Any, num_rounds: int, evaluated: bool) -> Any:
        scalars = devices.put((np.int32(num_rounds), np.bool_(evaluated)), everywhere)
        states, report = program(states, given, samples, *scalars)
        # Waiting also keeps two programs with collectives from being in flight at once.
        wait(states.round_index)
        return states, report

    return advance


def _in_turn(plan: Plan, programs: Mapping[tuple[str, int | None], Any]) -> Callable[..., Any]:
    """`Programs.advance` where a round is several programs."""
    everywhere, _ = shardings(plan)
    numbers = range(len(plan.program.architectures))
    flags = {flag: devices.put(np.bool_(flag), everywhere) for flag in (False, True)}

    def advance(states: Any, given: Any, samples: Any, num_rounds: int, evaluated: bool) -> Any:
        clients, rests = list(states.clients), states._replace(clients=())
        opened: Any = None
        report: dict[str, Any] = {}

        def call(number: int, training: bool, last: bool) -> tuple[Any, Any]:
            """What comes of training, or of an evaluation, of the clients of an architecture."""
            clients[number], results = programs["clients", number](
                *(clients[number], rests, given, opened, samples, flags[training], flags[last])
            )
            return results

        for turn in range(num_rounds):
            opened = programs["open", None](rests, given)
            last = turn + 1 == num_rounds
            outputs = tuple(call(number, True, last)[0] for number in numbers)
            rests, report = programs["close", None](rests, given, opened, outputs)
            wait(rests.round_index)
        if evaluated:
            hits = tuple(call(number, False, True)[1] for number in numbers)
            report = report | programs["score", None](hits, rests, given)
        else:
            report = report | {"diverged": rests.diverged}
        return rests._replace(clients=tuple(clients)), report

    return advance


def wait(array: jax.Array) -> None:
    """Waits until an array is there, in naps, between which Python sees signals.

    A nap is a tenth of the time waited so far, so that a short round is not waited for longer than
    it takes.
    """
    began = time.perf_counter()
    while not array.is_ready():  # type: ignore[attr-defined]
        waited = time.perf_counter() - began
        time.sleep(min(max(waited / 10, _NAPS[0]), _NAPS[1]))


def have_one_course(first: Plan, second: Plan) -> bool:
    """Whether two plans on the same data compute the same, round by round, as far as both go.

    Asked of the programs as they are before compilation, and of what they are told of their runs.

    Args:
      first: of two that differ in the number of rounds.
      second: the other one.
    """
    told = [inputs.of_call(plan, 0) for plan in (first, second)]
    leaves = [jax.tree.leaves_with_path(one) for one in told]
    same = len(leaves[0]) == len(leaves[1]) and all(
        name == other and np.array_equal(leaf, another)
        for (name, leaf), (other, another) in zip(*leaves, strict=True)
    )
    return same and texts(first, told[0]) == texts(second, told[1])


def texts(plan: Plan, told: Any) -> list[str]:
    """The programs of a plan, traced but not compiled."""
    return [one.lowered.as_text() for one in traced(plan, told)]


def features(plan: Plan, told: Any, states: Any) -> Uncompiled:
    """The program for `Config.keep_features`.

    Args:
      plan: whose.
      told: see `traced`.
      states: or their shapes.
    """
    config = plan.program.config
    each = -(-config.keep_features // config.num_clients)
    each = min(each, max(int(run.scored.counts[:, 0].max()) for run in plan.runs))
    infer = pmapped(plan, simulate.features_of_runs, each, in_axes=(0, 0, None))
    given = states, told, samples_of(plan.dataset)
    with promoting():
        lowered = infer.lower(*shapes_of(given))
    names = _names_of(simulate.features_of_runs, 2, given)
    return Uncompiled("features", None, lowered, {}, False, names)


def told_shapes(plan: Plan) -> Any:
    """The shapes of what a program is told of its runs, see `inputs.of_call`."""
    return shapes_of(inputs.of_call(plan, 0))


def options_of(plan: Plan) -> dict[str, bool | str]:
    """See `compiler_options`; of the program that advances runs."""
    return compiler_options(plan.program.config.precision, plan.devices[0].platform)


def samples_of(dataset: Dataset) -> Any:
    """`Samples` of numpy arrays."""
    return Samples(Images.of(dataset.images), dataset.labels)  # type: ignore[arg-type]


def shardings(plan: Plan) -> tuple[jax.sharding.NamedSharding, jax.sharding.NamedSharding]:
    """Of what all devices have whole, and of what each has its part of."""
    mesh = jax.sharding.Mesh(np.array(plan.devices), (exchange.AXIS,))
    specs = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(exchange.AXIS)
    everywhere, by_device = (jax.sharding.NamedSharding(mesh, spec) for spec in specs)
    return everywhere, by_device


def shapes_of(tree: Any) -> Any:
    """Shapes and dtypes of a tree of arrays, or of what has both.

    Of such a kind that `jax.pmap` takes them for those of all processes together.
    """
    return jax.tree.map(lambda leaf: jax.core.ShapedArray(leaf.shape, leaf.dtype), tree)


def pmapped(plan: Plan, function: Callable[..., Any], *fixed: Any, **options: Any) -> Any:
    """`function(plan.program, *fixed, ...)` on all devices of a plan."""
    return jax.pmap(
        functools.partial(function, plan.program, *fixed),
        axis_name=exchange.AXIS,
        devices=plan.devices,
        **options,
    )


def promoting() -> contextlib.AbstractContextManager:
    """Traces as by default: optax is not made for strict types, nor need a user's method be."""
    return jax.numpy_dtype_promotion("standard")
