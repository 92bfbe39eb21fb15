"""The settings of all methods, written down: a default that changes changes what users get."""

import pytest

from protonorm_jax import methods, settings
from protonorm_jax.errors import UsageError

# Name: default, whether traced, the rule, what the published code does where that is another, and
# the range where it is tuned.
TABLE = """
protonorm.proximity: 10.0, traced, least 0, tuned 0.1 100 log
protonorm.distance: mse, choices mse squared
protonorm.scale: 80.0, traced, above 0, tuned 1 200 log
protonorm.upscale: True
protonorm.align: auto, choices auto thomson simplex reference none, published reference
protonorm.weighting: uniform, choices uniform samples
protonorm.collect: after, choices after before during, published before
fedproto.proximity: 10.0, traced, least 0, tuned 0.1 100 log
fedproto.distance: mse, choices mse squared
fedproto.weighting: uniform, choices uniform samples
fedproto.collect: after, choices after before during, published during
fedavg.statistics: average, choices average local, published local
fml.private_weight: 0.5, traced, least 0, most 1, tuned 0.1 1 linear
fml.shared_weight: 0.5, traced, least 0, most 1, tuned 0.1 1 linear
fml.clip: 10.0, traced, above 0
fml.detach: False
fedtgp.proximity: 10.0, traced, least 0, tuned 0.1 100 log
fedtgp.distance: mse, choices mse squared
fedtgp.margin: 100.0, traced, above 0, tuned 0.1 200 log
fedtgp.server_epochs: 100, least 1
fedtgp.collect: after, choices after before, published before
fd.weight: 1.0, traced, least 0, tuned 0.05 20 log
fd.targets: softmax, choices softmax raw, published raw
fedgh.server_learning_rate: 0.01, traced, above 0, tuned 0.001 1 log
fedgh.server_epochs: 1, least 1
fedkd.mentee_learning_rate: 0.01, traced, above 0, tuned 0.001 0.3 log
fedkd.energy_start: 0.95, traced, above 0, most 1
fedkd.energy_end: 0.98, traced, above 0, most 1
fedkd.low_rank: smaller, choices smaller all, published all
fedmrl.mentee_dim: 0, least 0
fedmrl.projection: kept, choices kept reset, published reset
fedgen.noise_dim: 32, least 1
fedgen.hidden_dim: 512, least 1
fedgen.generator_learning_rate: 0.1, traced, above 0, tuned 0.001 1 log
fedgen.server_epochs: 100, least 1
fedgen.send_trained: True, published False
fedl2g.guide: feature, choices feature logit
fedl2g.warmup: 0, least 0
fedl2g.study_batches: 1, least 1
fedl2g.quiz_batches: 1, least 1
fedl2g.server_learning_rate: 0.01, traced, above 0, tuned 0.001 100 log
""".strip()


def told(name, field):
    """A setting as the table has it."""
    rule, parts = field.metadata, [str(field.default)]
    parts += ["traced"] * rule["traced"]
    parts += [f"{bound} {rule[bound]}" for bound in ("above", "least", "most") if bound in rule]
    parts += [f"choices {' '.join(rule['choices'])}"] if "choices" in rule else []
    parts += [f"published {rule['reference']}"] if rule["reference"] is not None else []
    parts += [f"tuned {' '.join(map(str, rule['tune']))}"] if rule["tune"] else []
    return f"{name}: {', '.join(parts)}"


def test_all_settings_are_as_written_down():
    ours = [
        told(f"{method}.{name}", field)
        for method, row in methods.METHODS.items()
        for name, field in settings.fields(row.settings).items()
    ]
    assert sorted(ours) == sorted(TABLE.splitlines())


@pytest.mark.parametrize(
    ("bound", "refused", "accepted"),
    [("above", 0.0, 1e-30), ("least", -1e-6, 0.0), ("most", 1 + 1e-6, 1.0)],
)
def test_bounds_are_where_they_are_said_to_be(bound, refused, accepted):
    """Of numbers; those of whole numbers below."""

    @settings.group
    class Group:
        value: float = settings.setting(0.5, "", **{bound: 1 if bound == "most" else 0})

    assert settings.check("mine", Group, "value", accepted) == accepted
    with pytest.raises(UsageError, match=r"^mine\.value must be [<>]=? [01], got "):
        settings.check("mine", Group, "value", refused)


def test_counts_begin_with_what_is_least():
    for method, row in methods.METHODS.items():
        for name, field in settings.fields(row.settings).items():
            if isinstance(field.default, int) and "least" in field.metadata:
                least = field.metadata["least"]
                assert settings.complete(method, row.settings, {name: least})[name] == least
                with pytest.raises(UsageError, match=rf"^{method}\.{name} must be >= {least}, "):
                    settings.complete(method, row.settings, {name: least - 1})
