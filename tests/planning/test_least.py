"""What is counted from shapes, held against what compiled programs take."""

import jax
import pytest

from protonorm_jax.config import Config
from protonorm_jax.planning import least
from protonorm_jax.planning import plan as planning
from protonorm_jax.planning.targets import Chip
from protonorm_jax.running import ahead

pytestmark = pytest.mark.usefixtures("hastily")

CONFIG = Config(
    family="mlp", method="fedtgp", num_clients=4, feature_dim=8, batch_size=8, rounds=2, devices=1
)
CHIP = Chip(2**34, 1e9, 1e9, 10**9)


@pytest.fixture(scope="module")
def plan(small_set):
    return planning.make([CONFIG], small_set)


def test_it_is_little_less_than_what_is_compiled(plan):
    *_, compiled = ahead.compile_ahead(plan)
    found = least.of_round(plan, None)
    assert 0.7 < found.flops / compiled.round.flops <= 1
    assert 0 < found.bytes < compiled.round.bytes
    assert found.seconds is found.hours is None


def test_the_bound_is_that_of_what_takes_longer(plan, small_set):
    found = least.of_round(plan, CHIP)
    assert found.seconds == found.flops / 1e9 > found.bytes / 1e9
    assert found.hours == found.seconds * 2 / 3600
    slow = least.of_round(plan, CHIP._replace(bandwidth=1.0))
    assert slow.seconds == slow.bytes and slow[:2] == found[:2]
    runs = [CONFIG.replace(seed=seed, rounds=2) for seed in range(3)]
    several = least.of_round(planning.make(runs, small_set), CHIP)
    assert several.hours == several.seconds * 2 * 3 / 3600  # One at a time.


def test_parameters_beyond_fast_memory_are_moved_in_every_step(plan):
    client = plan.program.architectures[0].client
    size = sum(4 * leaf.size for leaf in jax.tree.leaves(client.params))
    steps = sum(-(-int(count) // 8) for count in plan.runs[0].partition.train_count)
    roomy, tight = (
        least.of_round(plan, CHIP._replace(fast_memory=fast)) for fast in (size, size - 100)
    )
    assert tight.bytes - roomy.bytes == pytest.approx(2 * 100 * steps)
