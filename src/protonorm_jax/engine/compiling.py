"""How the programs of nets must be compiled."""


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
    return options
