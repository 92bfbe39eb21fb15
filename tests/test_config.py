"""Settings: their digest, and what is refused."""

import pytest

from protonorm_jax.config import Config, from_dict
from protonorm_jax.errors import UsageError


def test_config_round_trip_and_digest():
    config = Config(alpha=1, scale=20, align="reference", shuffle=False)
    assert config.alpha == 1.0 and isinstance(config.alpha, float)
    assert from_dict(config.to_dict()) == config
    assert from_dict(config.to_dict()).digest() == config.digest() != Config().digest()
    assert hash(config) == hash(from_dict(config.to_dict()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0}, "Config.alpha must be > 0, got 0.0"),
        ({"alpha": float("inf")}, "Config.alpha must be finite, got inf"),
        ({"num_clients": 0}, "Config.num_clients must be >= 1, got 0"),
        ({"num_clients": True}, "Config.num_clients must be an integer, got True"),
        ({"rounds": 2.0}, "Config.rounds must be an integer, got 2.0"),
        ({"proximity": -1}, "Config.proximity must be >= 0, got -1.0"),
        ({"scale": 0}, "Config.scale must be > 0, got 0.0"),
        ({"seed": 2**32}, "Config.seed must be <= 4294967295, got 4294967296"),
        ({"data": None}, "Config.data must be text, got None"),
        ({"collect": "never"}, "Config.collect must be one of after, before, during, got 'never'"),
    ],
)
def test_config_errors_name_field_rule_and_value(settings, message):
    with pytest.raises(UsageError) as caught:
        Config(**settings)
    assert str(caught.value) == message
