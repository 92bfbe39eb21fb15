"""How the programs of nets must be compiled."""

import os

_CHOICE_OF_KERNELS = "xla_gpu_autotune_level"


def compiler_options(precision: str, platform: str) -> dict[str, bool | str]:
    """What XLA must do otherwise than it would.

    Args:
      precision: see `Config`.
      platform: of the devices.
    """
    options: dict[str, bool | str] = {}
    if precision == "bfloat16":
        # Otherwise XLA leaves out roundings to bfloat16 where it can, which depends on the layout
        # of the clients; the bits would differ with the number of devices.
        options["xla_allow_excess_precision"] = False
    if platform == "gpu":
        # Choosing what to fuse with a product for Triton ends the process (a failed check in
        # jaxlib 0.11.2) where a convolution is made of windows.
        options["xla_gpu_enable_triton_gemm"] = False
        # Of the kernels that a library has for a product XLA would take the one that was fastest
        # while it compiled: compiled again, the program would have other bits.
        if _CHOICE_OF_KERNELS not in os.environ.get("XLA_FLAGS", ""):
            options[_CHOICE_OF_KERNELS] = "0"
    return options
