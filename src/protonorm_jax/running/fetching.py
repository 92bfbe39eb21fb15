"""What clients have learned, fetched from the devices: one client of each device at a time."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from protonorm_jax.engine import keeping
from protonorm_jax.engine.program import RunInputs, State
from protonorm_jax.planning import devices, inputs
from protonorm_jax.planning.plan import Plan
from protonorm_jax.running import programs
from protonorm_jax.types import Client


class Trained(NamedTuple):
    """What the clients of a run have learned.

    Attributes:
      sent: what the server sends them, a pytree of numpy arrays; None where no predictor looks at
        it.
      clients: of each its number and all that it keeps, numpy arrays, in the order of the places
        that they have on devices. To be used up before the training goes on.
    """

    sent: Any
    clients: Iterator[tuple[int, Client]]


class Fetcher:
    """Fetches what the clients of a run have learned; see `Simulation.trained`.

    Args:
      plan: whose.
      told: the shapes of what runs are told.
      shapes: of the states.
      whole: has every process get what all devices have.
    """

    def __init__(
        self, plan: Plan, told: RunInputs, shapes: State, whole: Callable[[Any], Any]
    ) -> None:
        self._plan, self._told, self._shapes, self._whole = plan, told, shapes, whole
        self._received: dict[int, Callable[..., Client]] = {}

    def __call__(self, states: State, given: Any, number: int) -> Trained:
        """What the clients of run `number` of a call have learned."""
        sent = self._send(states._replace(clients=()), given)
        place = inputs.place_of(self._plan, number)
        used = None
        if self._predicts_with_sent:
            here = jax.device_get(self._whole(sent))
            used = jax.tree.map(lambda leaf: leaf[place], here)
        return Trained(used, self._clients(states, given, sent, place))

    def _clients(
        self, states: State, given: Any, sent: Any, place: tuple[int, int]
    ) -> Iterator[tuple[int, Client]]:
        first, local = place
        everywhere, _ = programs.shardings(self._plan)
        members = [jax.device_get(self._whole(one.client_ids)) for one in given.members]
        for number, ids in enumerate(members):
            own = ids[first : first + self._plan.spread.client_devices, local]
            for slot in np.flatnonzero((own >= 0).any(axis=0)):
                at = devices.put((np.int32(local), np.int32(slot)), everywhere)
                found = self._receiving(number)(states.clients[number], sent, *at)
                here = jax.device_get(self._whole(found))
                for device in np.flatnonzero(own[:, slot] >= 0):
                    client = jax.tree.map(lambda leaf, i=first + device: leaf[i], here)
                    yield int(own[device, slot]), client

    @functools.cached_property
    def _sending(self) -> jax.stages.Lowered:
        """The program for what servers send."""
        rests = self._shapes._replace(clients=())
        return self._lowered(keeping.sent_runs, rests, self._told)

    @functools.cached_property
    def _send(self) -> Callable[..., Any]:
        return self._sending.compile()

    def _receiving(self, number: int) -> Callable[..., Client]:
        """The program for the clients of an architecture."""
        if number not in self._received:
            lowered = self._lowered(
                functools.partial(keeping.received, number=number),
                self._shapes.clients[number],
                self._sending.out_info,
                *(np.int32(0), np.int32(0)),
                in_axes=(0, 0, None, None),
            )
            self._received[number] = lowered.compile()
        return self._received[number]

    def _lowered(
        self, function: Callable[..., Any], *given: Any, **options: Any
    ) -> jax.stages.Lowered:
        mapped = programs.pmapped(self._plan, function, **options)
        with programs.promoting():
            return mapped.lower(*programs.shapes_of(given))

    @functools.cached_property
    def _predicts_with_sent(self) -> bool:
        program, shape = self._plan.program, self._plan.dataset.images.shape[1:]
        down = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype), self._sending.out_info
        )
        images = jax.ShapeDtypeStruct((1, *shape), np.float32)
        with programs.promoting():
            return any(
                keeping.predicts_with_sent(program, one, down, images)
                for one in program.architectures
            )
