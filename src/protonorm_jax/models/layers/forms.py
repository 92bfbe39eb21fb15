"""The forms in which layers are computed: equal numbers to rounding, each the fastest somewhere."""

import jax

FORMS = ("auto", "canonical", "im2col", "native")
"""`canonical` for one client at a time on CPU; `im2col` for clients under `vmap` on CPU, and for
GPU; `native`, the stock operations, for TPU, whose compiler is made for them; `auto` goes by the
default backend."""

_BY_BACKEND = {"cpu": "canonical", "tpu": "native"}


def chosen(form: str) -> str:
    """The form itself, or for `auto` that of the default backend."""
    return _BY_BACKEND.get(jax.default_backend(), "im2col") if form == "auto" else form
