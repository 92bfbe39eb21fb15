"""Which tests are a module's own: the arguments of pytest, those first that see most."""

ALIGNMENT = ("tests/thomson/test_alignment.py", "tests/thomson/test_properties.py")
FIRST_METHODS = ("tests/methods/test_golden.py", "tests/methods/test_methods.py")
ENGINE = (
    "tests/test_loop.py",
    *(
        f"tests/engine/test_simulate.py::{name}"
        for name in (
            "test_participation_and_dropout",
            "test_a_class_that_nobody_holds_stays_unknown",
            "test_divergence_stops_the_run_and_names_client_and_round",
            "test_a_run_among_others_has_the_bits_it_has_alone",
        )
    ),
)

ROOMS: dict[str, tuple[str, ...]] = {
    "keys.py": ("tests/test_keys.py",),
    "metrics.py": ("tests/test_metrics.py",),
    "partition.py": ("tests/test_partition.py",),
    "loop.py": ("tests/test_loop.py",),
    "thomson/alignment.py": ALIGNMENT,
    "thomson/descent.py": ALIGNMENT,
    "thomson/energies.py": (*ALIGNMENT, "tests/thomson/test_search.py"),
    "thomson/simplices.py": ALIGNMENT,
    "thomson/search.py": ("tests/thomson/test_search.py",),
    "engine/loops.py": ("tests/engine/test_loops.py",),
    "engine/lockstep.py": ("tests/engine/test_lockstep.py",),
    "engine/exchange.py": ("tests/engine/test_exchange.py",),
    "engine/batches.py": ("tests/engine/test_client.py",),
    "engine/client.py": ("tests/engine/test_client.py", "tests/test_loop.py"),
    "engine/evaluate.py": ENGINE,
    "engine/simulate.py": ENGINE,
    "methods/local.py": ("tests/test_loop.py",),
    "methods/lg_fedavg.py": ("tests/methods/test_lg_fedavg.py",),
    "methods/method.py": (*FIRST_METHODS, "tests/test_loop.py"),
    "methods/table.py": ("tests/methods/test_methods.py", "tests/methods/test_user_file.py"),
    "methods/fd.py": ("tests/methods/test_fd.py",),
    "methods/fedavg.py": (*FIRST_METHODS, "-k", "fedavg or golden or fixed"),
    "methods/fedgen.py": ("tests/methods/test_fedgen.py",),
    "methods/fedgh.py": ("tests/methods/test_fedgh.py",),
    "methods/fedkd.py": ("tests/methods/test_fedkd.py",),
    "methods/fedl2g.py": ("tests/methods/test_fedl2g.py",),
    "methods/fedmrl.py": ("tests/methods/test_fedmrl.py",),
    "methods/fedproto.py": FIRST_METHODS,
    "methods/fedtgp.py": (*FIRST_METHODS, "-k", "fedtgp"),
    "methods/fml.py": (*FIRST_METHODS, "-k", "fml"),
    "methods/protonorm.py": FIRST_METHODS,
    "methods/shared/averages.py": (*FIRST_METHODS, "-k", "fedavg or fml"),
    "methods/shared/class_table.py": ("tests/methods/test_class_table.py",),
    "methods/shared/clipping.py": ("tests/methods/test_methods.py", "-k", "fml"),
    "methods/shared/heads.py": ("tests/methods/test_lg_fedavg.py", "tests/methods/test_fedgh.py"),
    "methods/shared/linear.py": ("tests/methods/test_fedgen.py", "tests/methods/test_fedmrl.py"),
    "methods/shared/low_rank.py": ("tests/methods/test_fedkd.py",),
    "methods/shared/mentee.py": ("tests/methods/test_fedkd.py", "tests/methods/test_fedmrl.py"),
    "methods/shared/prototypes.py": FIRST_METHODS,
    "methods/shared/server_training.py": ("tests/methods/test_fedgh.py", *FIRST_METHODS),
}
