"""Everything that is settled before anything is compiled: data, clients, devices, memory."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from protonorm_jax import keys, methods, models
from protonorm_jax.config import Config
from protonorm_jax.engine.program import Architecture, Program, client_shapes
from protonorm_jax.errors import UsageError
from protonorm_jax.methods import descent
from protonorm_jax.planning import (
    added,
    at_a_time,
    devices,
    layout,
    memory,
    shapes,
    starting,
    targets,
)
from protonorm_jax.planning.arrangement import IN_TURN, Arrangement, arrange
from protonorm_jax.planning.deal import Dealt, class_counts, deal, naming, shared_name
from protonorm_jax.planning.samples import DataSets
from protonorm_jax.types import Dataset, Model, Models, Partition, Scored

GIB = 2**30
ARRAYS_OF_ONE_PROGRAM = 200
"""With more arrays than this in the clients of all architectures together, a round is several
programs.

Compilers take their time for arrays rather than for numbers. Several programs are compiled side by
side and with less memory each. A call costs the host two milliseconds or more, by the number of
arrays, for which two cores have to stop computing: a round of `ht0` on 8 x 8 images takes 6 %
longer, on larger ones the same milliseconds; one of `tiny` would take 40 % longer.
"""


class PlannedRun(NamedTuple):
    """One run of a program.

    Attributes:
      config: its settings.
      partition: who holds which samples.
      scored: the samples that each client is scored on.
      names: of the clients, if they have any.
      notes: what there is to say of the samples, in words.
      class_counts: `[num_clients, num_classes]` int32, samples of each class that are trained on.
      layout: which client is where, on the devices of this run.
    """

    config: Config
    partition: Partition
    scored: Scored
    names: tuple[str, ...] | None
    notes: tuple[str, ...]
    class_counts: np.ndarray
    layout: layout.Layout


class Plan(NamedTuple):
    """Runs that share a compiled program.

    Attributes:
      program: the static part of the simulation.
      dataset: all samples.
      runs: in the order asked for; `runs_per_program` at a time.
      runs_per_program: how many runs one call of the program advances.
      architectures: `[num_clients]` names of models.
      devices: those to use.
      spread: of the runs over devices.
      efficiency: how well the devices are used.
      memory: expected need.
      added: what the method adds to local training.
      notes: what the settings of the first run's method come to, in words.
      initial: the nets that clients start with; None where they are drawn.
      shared_model: the name of the shared model, or `private`; None if the method has none.
    """

    program: Program
    dataset: Dataset
    runs: tuple[PlannedRun, ...]
    runs_per_program: int
    architectures: tuple[str, ...]
    devices: list[jax.Device]
    spread: layout.Spread
    efficiency: layout.Efficiency
    memory: memory.Memory
    added: added.Added
    notes: tuple[str, ...]
    initial: starting.Initial | None = None
    shared_model: str | None = None


def make(
    configs: Sequence[Config],
    dataset: Dataset | DataSets | None = None,
    *,
    runs_per_program: int = 0,
    vmap_runs: int = 0,
    target: targets.Target | None = None,
) -> Plan:
    """Loads the data, deals it to the clients, and runs and clients to the devices.

    Args:
      configs: one for each run; they differ in settings of `varied` only.
      dataset: used instead of loading `Config.data`; or where to get that from.
      runs_per_program: how many runs one call of the program advances. 0 chooses: of those that
        pay, see `at_a_time`, as many as are expected to fit into memory.
      vmap_runs: of these, how many a device trains in one vmapped program. 0 chooses: 1 on CPU
        and TPU, all that a device has on GPU.
      target: chips that are not there, to plan for in place of the devices that are.

    Raises:
      UsageError: a setting, file or data set that cannot be used, or too little memory.
    """
    dealt = deal(configs, dataset)
    config, started = dealt.config, starting.of(dealt)
    if target:
        chosen = target.choose(config.devices)
        free = target.chip.memory
    else:
        targets.leave_out_absent()
        devices.prepare_cpu(
            config.devices or min(devices.num_cores(), config.num_clients * len(configs))
        )
        chosen = devices.choose(config.devices)
        free = devices.free_bytes(chosen)
    platform = chosen[0].platform

    @functools.cache
    def planned(count: int) -> Plan:
        """The plan with `count` runs in a program."""
        arranged = arrange(dealt, len(chosen), count, vmap_runs, platform)
        return _plan_of(dealt, arranged, chosen)._replace(initial=started)

    vmap_runs = vmap_runs or (1 if platform in IN_TURN else 0)
    count = min(runs_per_program, len(configs))
    if not count:
        most = at_a_time.most(len(configs), len(chosen), vmap_runs)
        counts = at_a_time.choices(most, len(chosen))
        count = at_a_time.largest(counts, lambda count: planned(count).memory.total() <= free)
    result = planned(count)
    needed = result.memory
    check_memory(result, needed.total(), free, "an expected", f" ({needed.by_part()})")
    return result


def program_of(dealt: Dealt, arrangement: Arrangement, platform: str) -> Program:
    """The static part of the simulation.

    Raises:
      UsageError: a model that the method, the images or the settings do not allow.
    """
    config, method, dataset = dealt.config, dealt.method, dealt.dataset
    shared = shared_name(config, method, models.family(config.family))
    placements = arrangement.layouts[0].placements

    def build(field: str, name: str, placement: layout.Placement, feature_dim: int) -> Model:
        alone = placement.chunk == arrangement.spread.vmap_runs == 1
        with naming(field):
            return models.build(
                name,
                num_classes=dataset.num_classes,
                feature_dim=feature_dim,
                image_shape=dataset.images.shape[1:],
                form=_form(platform, alone),
                precision=config.precision,
                dropped_features=config.dropped_features,
            )

    architectures = []
    nets = [build("Config.family", one.architecture, one, config.feature_dim) for one in placements]
    by_name = {one.architecture: net for one, net in zip(placements, nets, strict=True)}
    _check_heads(method, config, by_name)
    _check_optimizer(method, config)
    for placement, private in zip(placements, nets, strict=True):
        both = Models(private)
        if shared == "private":
            both = Models(private, private)
        elif shared and method.shared:
            feature_dim = method.shared.feature_dim or config.feature_dim
            field = "Config.family" if config.shared_model == "family" else "Config.shared_model"
            both = Models(private, build(field, shared, placement, feature_dim))
        architectures.append(both)
    first = [one.architecture for one in placements].index(dealt.architectures[0])
    clients = [
        client_shapes(method, both, architectures[first], dataset.num_classes)
        for both in architectures
    ]
    return Program(
        config,
        method,
        tuple(
            Architecture(
                both,
                client,
                placement.chunk,
                room.clients,
                room.together,
                *widths,
            )
            for both, client, placement, room, *widths in zip(
                architectures,
                clients,
                placements,
                arrangement.rooms,
                arrangement.widths,
                arrangement.evaluation_widths,
                strict=True,
            )
        ),
        first,
        arrangement.spread.client_devices,
        arrangement.spread.vmap_runs,
        arrangement.participants,
        apart=len(jax.tree.leaves(clients)) > ARRAYS_OF_ONE_PROGRAM,
        tiled=platform == "tpu",
    )


def _plan_of(dealt: Dealt, arrangement: Arrangement, chosen: list[jax.Device]) -> Plan:
    """The plan for an arrangement on these devices."""
    program, spread = program_of(dealt, arrangement, chosen[0].platform), arrangement.spread
    chip = targets.CHIPS.get(chosen[0].device_kind)
    first = dealt.config
    own = methods.settings_of(first.method, first.method_settings)
    given = [shapes.of_hooks(program, one, dealt.dataset) for one in program.architectures]
    labels, num_classes = dealt.dataset.labels, dealt.dataset.num_classes
    runs = tuple(
        PlannedRun(
            *(share.config, share.partition, share.scored, share.names, share.notes),
            class_counts(share.config, share.partition, labels, num_classes),
            own,
        )
        for share, own in zip(dealt.shares, arrangement.layouts, strict=True)
    )
    return Plan(
        program=program,
        dataset=dealt.dataset,
        runs=runs,
        runs_per_program=arrangement.runs_per_program,
        architectures=dealt.architectures,
        devices=chosen[: spread.run_devices * spread.client_devices],
        spread=spread,
        efficiency=layout.efficiency(arrangement.work, arrangement.widths, dealt.step_cost),
        memory=memory.expected(
            program,
            dealt.dataset,
            spread,
            given=given,
            slots=[one.client_ids.shape[1] for one in arrangement.layouts[0].placements],
            lengths=layout.row_lengths(arrangement.layouts, dealt.partitions, dealt.scored),
            platform=chosen[0].platform,
            fast=chip.fast_memory if chip else 0,
        ),
        added=added.to_local_training(program, given),
        notes=tuple(methods.METHODS[first.method].notes(dealt.setup, own)),
        shared_model=shared_name(first, dealt.method, models.family(first.family)),
    )


def _form(platform: str, alone: bool) -> str:
    """The form of layers that is fast on a kind of device; see `models.layers.forms`."""
    if platform == "tpu":
        return "native"
    return "canonical" if platform == "cpu" and alone else "im2col"


def check_memory(plan: Plan, needed: int, free: int, how: str, parts: str = "") -> None:
    """Compares a need with what is free.

    Args:
      plan: whose.
      needed: bytes on each device.
      free: bytes on each device.
      how: the words before the amount, such as "an expected".
      parts: the words after it, which say what it is made of.

    Raises:
      UsageError: it does not fit.
    """
    if needed > free:
        config = plan.program.config
        runs = f"runs_per_program = {plan.runs_per_program}, " if len(plan.runs) > 1 else ""
        raise UsageError(
            f"memory must be >= {how} {needed / GIB:.2f} GiB{parts} on each device for {runs}"
            f"num_clients = {config.num_clients}, family = {config.family} and batch_size = "
            f"{config.batch_size}, got {free / GIB:.2f} GiB free"
        )


def _check_heads(method: methods.Method, config: Config, nets: Mapping[str, Model]) -> None:
    """Refuses models whose heads the method cannot exchange.

    Args:
      method: the federated method.
      config: of the run.
      nets: by the names of their architectures.

    Raises:
      UsageError: a head that is not linear, or two of unequal form.
    """
    if method.heads == "any":
        return
    for name, net in nets.items():
        if method.heads == "linear" and not net.linear_head:
            raise UsageError(
                f"Config.family must have models with a linear head for method {config.method}, "
                f"got {name}"
            )
    forms = {name: _head_form(net) for name, net in nets.items()}
    (one, form), *rest = forms.items()
    for other, another in rest:
        if another != form:
            raise UsageError(
                f"Config.family must have models with heads of one form for method "
                f"{config.method}, got {one} with {form} and {other} with {another}"
            )


def _check_optimizer(method: methods.Method, config: Config) -> None:
    """Refuses a choice of optimiser that a method with one of its own does not follow.

    Raises:
      UsageError: it makes its optimiser without what was asked for.
    """
    chosen = descent.of(config)
    asked = dataclasses.replace(chosen, clip_norm=None)  # Which is done before any optimiser.
    if asked == descent.Descent():
        return
    followed = []

    class Watched(descent.Descent):
        def along(self, learning_rate: Any) -> Any:
            followed.append(True)
            return chosen.along(learning_rate)

    def make() -> None:
        own = methods.settings_of(config.method, config.method_settings)
        counts = jnp.zeros((config.num_clients, 1), jnp.int32)
        method.optimizer(
            methods.Round(jnp.int32(0), jnp.float32(1), own, counts, descent=Watched())
        )

    jax.eval_shape(make)
    if not followed:
        (name, *_) = [
            field.name
            for field in dataclasses.fields(asked)
            if getattr(asked, field.name) != field.default
        ]
        raise UsageError(
            f"Config.{name} must be left out for method {config.method}, which has an optimizer of "
            f"its own, got {getattr(asked, name)!r}"
        )


def _head_form(net: Model) -> str:
    """The names and shapes of a head's parameters, as `bias [10], kernel [512, 10]`."""
    head = jax.eval_shape(net.init, jax.eval_shape(lambda: keys.root(0)))["params"]["head"]
    leaves = jax.tree_util.tree_leaves_with_path(head)
    return ", ".join(
        f"{'.'.join(entry.key for entry in path)} {list(leaf.shape)}" for path, leaf in leaves
    )
