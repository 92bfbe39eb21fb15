"""Which tests are a module's own: the arguments of pytest, those first that see most."""

ALIGNMENT = "tests/thomson/test_alignment.py"
STEPS = "tests/thomson/test_steps.py"
OF_ENERGIES = "energy_sums or forces_keep or coincide or angle or bound or settings or close_pairs"
OF_SIMPLICES = "simplex or single or few or ties or masked"
SETTINGS = "tests/methods/test_settings.py"
FIRST_METHODS = (SETTINGS, "tests/methods/test_methods.py", "tests/methods/test_golden.py")
PROTOTYPES = (
    *FIRST_METHODS,
    *("-k", "proto or ablation or upscaling or distance or settings"),
)
AGREES = "tests/test_loop.py::test_the_engine_agrees_with_the_loop_in_hooks_of_no_method"
ENGINE = (
    *(
        f"tests/engine/test_simulate.py::{name}"
        for name in (
            "test_participation_and_dropout",
            "test_who_fails_and_who_is_slow",
            "test_who_is_away_keeps_what_they_have",
            "test_a_class_that_nobody_holds_stays_unknown",
            "test_the_first_round_of_a_divergence_is_kept",
            "test_a_run_among_others_has_the_bits_it_has_alone",
        )
    ),
    AGREES,
)

ROOMS: dict[str, tuple[str, ...]] = {
    "keys.py": ("tests/test_keys.py",),
    "metrics.py": ("tests/test_metrics.py",),
    "partition.py": (
        *("tests/test_partition.py", "tests/planning/test_samples.py"),
        "tests/data/test_partitions.py",
    ),
    "loop.py": ("tests/test_loop.py", "-k", "not as_users_set_it"),
    "thomson/energies.py": (ALIGNMENT, STEPS, "-k", OF_ENERGIES),
    "thomson/simplices.py": (ALIGNMENT, "-k", OF_SIMPLICES),
    "thomson/descent.py": (STEPS, ALIGNMENT, "-k", "steps or descent or few or ties"),
    "thomson/alignment.py": (ALIGNMENT, "-k", f"not ({OF_ENERGIES}) or settings or told or apart"),
    "thomson/search.py": ("tests/thomson/test_search.py",),
    "engine/loops.py": ("tests/engine/test_loops.py",),
    "engine/lockstep.py": ("tests/engine/test_lockstep.py",),
    "engine/exchange.py": ("tests/engine/test_exchange.py",),
    "engine/augment.py": ("tests/engine/test_augment.py",),
    "engine/batches.py": ("tests/engine/test_batches.py",),
    "engine/client.py": ("tests/engine/test_client.py", AGREES),
    "engine/evaluate.py": ("tests/engine/test_batches.py",),
    "engine/draws.py": ("tests/engine/test_draws.py",),
    "engine/cohort.py": ("tests/engine/test_cohort.py",),
    "engine/absent.py": ("tests/engine/test_absent.py",),
    "engine/participation.py": ENGINE[:2],
    "engine/compiling.py": ("tests/running/test_tpu_programs.py", "-k", "effort"),
    "engine/program.py": ENGINE,
    "engine/rounds.py": ENGINE,
    "engine/simulate.py": (*ENGINE, "tests/running/test_programs.py"),
    "engine/keeping.py": ("tests/running/test_kept_models.py", "-k", "predict or named"),
    "methods/local.py": ("tests/test_loop.py",),
    "methods/lg_fedavg.py": ("tests/methods/test_lg_fedavg.py",),
    "methods/method.py": ("tests/methods/test_methods.py",),
    "methods/table.py": (
        *("tests/methods/test_methods.py", "tests/methods/test_user_file.py"),
        *("-k", "row or setting or mistake or factories or another_content"),
    ),
    "methods/descent.py": ("tests/methods/test_descent.py",),
    "methods/fd.py": (SETTINGS, "tests/methods/test_fd.py"),
    "methods/fedavg.py": (*FIRST_METHODS, "-k", "fedavg or settings"),
    "methods/fedgen.py": (SETTINGS, "tests/methods/test_fedgen.py"),
    "methods/fedgh.py": (SETTINGS, "tests/methods/test_fedgh.py"),
    "methods/fedkd.py": (SETTINGS, "tests/methods/test_fedkd.py"),
    "methods/fedl2g.py": (SETTINGS, "tests/methods/test_fedl2g.py"),
    "methods/fedmrl.py": (SETTINGS, "tests/methods/test_fedmrl.py"),
    "methods/fedproto.py": PROTOTYPES,
    "methods/fedtgp.py": (*FIRST_METHODS, "-k", "fedtgp or settings"),
    "methods/fml.py": (*FIRST_METHODS, "-k", "fml or settings"),
    "methods/protonorm.py": PROTOTYPES,
    "methods/shared/averages.py": (*FIRST_METHODS, "-k", "fedavg or fml"),
    "methods/shared/class_table.py": ("tests/methods/test_class_table.py",),
    "methods/shared/clipping.py": ("tests/methods/test_methods.py", "-k", "clip"),
    "methods/shared/heads.py": ("tests/methods/test_lg_fedavg.py", "tests/methods/test_fedgh.py"),
    "methods/shared/linear.py": ("tests/methods/test_fedgen.py", "tests/methods/test_fedmrl.py"),
    "methods/shared/low_rank.py": ("tests/methods/test_fedkd.py",),
    "methods/shared/mentee.py": ("tests/methods/test_fedkd.py", "tests/methods/test_fedmrl.py"),
    "methods/shared/prototypes.py": PROTOTYPES,
    "methods/shared/server_training.py": ("tests/methods/test_server_training.py",),
}
