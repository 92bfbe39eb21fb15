"""Runs of a plan in the plain loop, and how close the engine must come."""

import jax
import jax.numpy as jnp
import numpy as np

from protonorm_jax import keys, loop, methods, models, settings
from protonorm_jax.config import rates
from protonorm_jax.engine import participation
from protonorm_jax.engine.client import num_steps
from protonorm_jax.methods import descent
from protonorm_jax.methods.method import Method
from protonorm_jax.planning.plan import Plan


def federate(plan: Plan, index: int = 0) -> loop.Trace:
    """What the plain loop makes of a run of a plan, none of whose uploads is lost."""
    config, parts = plan.runs[index].config, plan.runs[index].partition
    dataset, root = plan.dataset, keys.root(config.seed)
    sizes = {"num_classes": dataset.num_classes, "feature_dim": config.feature_dim}

    def build(name, **other):
        return models.build(name, image_shape=dataset.images.shape[1:], **sizes | other)

    built = {name: build(name) for name in models.family(config.family)}

    def client(number):
        model = built[plan.architectures[number]]
        key = jax.random.split(keys.derive(root, keys.Stream.CLIENT_INIT, number))[0]
        rows = parts.train[number, : parts.train_count[number]]
        cuts = range(config.batch_size, len(rows), config.batch_size)
        batches = [
            (dataset.images[some] / np.float32(127.5) - 1, dataset.labels[some])
            for some in np.split(rows, cuts)
        ]
        return model, jax.jit(model.init)(key), batches

    asked = plan.program.method.shared
    shared_dim = asked.feature_dim if asked else None
    common = build(models.shared_model(config.family), feature_dim=shared_dim or config.feature_dim)
    chances = jnp.float32(config.participation), jnp.float32(0)
    method, parts_of_steps = plan.program.method, (config.stragglers, config.straggler_work)
    traced = settings.traced(methods.METHODS[config.method].settings)
    counts = num_steps(parts.train_count, config, method.reserve)
    rounds = [(root, index, config.num_clients) for index in range(config.rounds)]
    takes_part = [
        participation.participants(*one, *chances)[0]
        & ~participation.failing(*one, jnp.float32(config.failures))
        for one in rounds
    ]
    # As `budget_of` has it, by hand.
    steps = [
        np.ceil(participation.work(*one, *parts_of_steps) * counts).astype(int) for one in rounds
    ]
    return loop.federate(
        _compiled(method),
        [client(number) for number in range(config.num_clients)],
        rounds=config.rounds,
        learning_rate=config.learning_rate,
        settings={name: config.method_settings[name] for name in traced},
        seed=config.seed,
        shared=(common._replace(init=jax.jit(common.init)), None),
        batch_size=config.batch_size,
        participants=np.stack(takes_part),
        steps=np.stack(steps),
        descent=descent.of(config),
        schedule=rates(config.schedule, config.rounds),
        augment=config.augment,
        **sizes,
    )


def _compiled(method: Method) -> Method:
    """The same with each hook that the plain loop calls in one program, not in one an operation.

    Of which a round has hundreds, and compiling each takes longer than compiling them together.
    """
    return method._replace(
        init_server=jax.jit(method.init_server, static_argnums=1),
        init_client=jax.jit(method.init_client, static_argnums=3),
        receive=jax.jit(method.receive, static_argnums=2),
        upload=jax.jit(method.upload, static_argnames="models"),
    )


def check(ours, wanted, tolerance=1e-4):
    """Asserts that the leaves of two trees agree, relative to the greatest number of each."""

    def one(ours, wanted):
        ours, wanted = np.asarray(ours), np.asarray(wanted)
        assert ours.shape == wanted.shape
        scale = max(1.0, np.abs(wanted).max()) if wanted.size else 1.0
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=tolerance * scale)

    jax.tree.map(one, ours, wanted)
