"""Which runs and clients are on which device, and which of them train side by side there."""

import functools
from typing import Any, NamedTuple

import numpy as np

from protonorm_jax.engine import lockstep, participation
from protonorm_jax.planning import layout, tpu_forms
from protonorm_jax.planning.deal import Dealt

IN_TURN = ("cpu", "tpu")
"""Where clients and runs train one after the other unless told otherwise; on GPU they are vmapped.

A core has no use for more than one client's arithmetic at a time. A TPU's step takes as long as its
bytes take to move, and under `vmap` these are as many for each client; `tpu_forms` finds the
clients that go together nevertheless.
"""

WASTE_ON_TPU = 1.5
"""What `lockstep.WASTE` is on a TPU.

The lower it is, the more widths a batch has, each of which is a copy of the step to be compiled. A
TPU's compiler takes a minute and a half of processor time for one of ShuffleNet's.
"""

A_STEP_ON_GPU = 8.0
"""What a vmapped step costs on a GPU beside its clients, in clients, see `lockstep.choose_widths`.

It starts hundreds of kernels, most of which take no longer for more clients. On an H200 a step of
1, 5, 10, 20 and 40 clients took 0.46, 0.82, 1.1, 1.9 and 3.2 ms with ResNet-8, 2.4, 3.8, 4.5, 5.5
and 8.5 ms with MobileNetV2, 3.0, 4.4, 5.8, 7.4 and 11.7 ms with EfficientNet-B0: from five on they
lie on lines that stand for 7, 24 and 16.
"""


class Arrangement(NamedTuple):
    """Who is where.

    Attributes:
      runs_per_program: how many runs one call of the program advances.
      spread: of runs over devices.
      layouts: of each run.
      rooms: of each architecture, for those who train.
      work: who steps together with whom.
      widths: of each architecture, how its batches narrow in training.
      evaluation_widths: and in evaluation, where all clients are.
      participants: see `Program`.
    """

    runs_per_program: int
    spread: layout.Spread
    layouts: list[layout.Layout]
    rooms: list[layout.Room]
    work: list[layout.Work]
    widths: list[tuple[int, ...]]
    evaluation_widths: list[tuple[int, ...]]
    participants: int


def arrange(
    dealt: Dealt, num_devices: int, count: int, vmap_runs: int, platform: str
) -> Arrangement:
    """Puts runs and clients on devices.

    Args:
      dealt: the runs.
      num_devices: to use at most.
      count: runs in a program.
      vmap_runs: of these, how many a device trains in one vmapped program; 0 for all it has.
      platform: of the devices: `cpu`, `gpu` or `tpu`.
    """
    spread = layout.spread(count, num_devices, vmap_runs)
    names, asked = dict.fromkeys(dealt.architectures), dealt.config.vmap_clients
    if platform != "tpu" or asked:
        together = dict.fromkeys(names, asked or (1 if platform in IN_TURN else 0))
        return _arranged(dealt, spread, count, platform, together)
    image_shape = dealt.dataset.images.shape[1:]
    chosen = {name for name in names if tpu_forms.go_together(name, image_shape)}
    while True:  # Ends, as each time round fewer are chosen.
        together = {name: 0 if name in chosen else 1 for name in names}
        result = _arranged(dealt, spread, count, platform, together)
        if spread.vmap_runs > 1:  # Which asks for batches as wide as can be.
            return result
        better = tpu_forms.better_together(result.work, result.widths, image_shape)
        if not chosen - better:
            return result
        chosen &= better


def _arranged(
    dealt: Dealt, spread: layout.Spread, count: int, platform: str, together: dict[str, int]
) -> Arrangement:
    """Puts runs and clients on devices, with so many clients of each architecture vmapped."""
    layouts = [
        layout.arrange(
            dealt.architectures,
            steps,
            [dealt.step_cost[name] for name in dealt.architectures],
            num_devices=spread.client_devices,
            vmap_clients=together,
        )
        for steps in dealt.steps
    ]
    num_clients = len(dealt.architectures)
    wanted = np.array([share.config.participation for share in dealt.shares], np.float32)
    participants = participation.num_participants(wanted, num_clients).astype(int).tolist()
    rooms = [layout.room_of(one, max(participants), num_clients) for one in layouts[0].placements]

    def by_call(runs: list[Any]) -> list[list[Any]]:
        return [runs[i : i + count] for i in range(0, len(runs), count)]

    given = by_call(layouts), by_call(dealt.steps), spread
    work = layout.work_of(*given, by_call(participants))
    waste = WASTE_ON_TPU if platform == "tpu" else lockstep.WASTE
    a_step = A_STEP_ON_GPU if platform == "gpu" else 0.0
    choose = functools.partial(layout.choose_widths, waste=waste, a_step=a_step)
    widths = evaluation_widths = choose(work)
    if min(participants) < num_clients:
        evaluation_widths = choose(layout.work_of(*given))
    most = max(participants) if min(participants) == max(participants) else num_clients
    return Arrangement(count, spread, layouts, rooms, work, widths, evaluation_widths, most)
