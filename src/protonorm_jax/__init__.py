"""Heterogeneous federated learning with prototype alignment and upscaling, in JAX."""

__version__ = "0.1.0"
