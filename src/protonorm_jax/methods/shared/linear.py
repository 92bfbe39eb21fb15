"""Linear layers that methods have beside their models."""

import jax


def draw(key: jax.Array, inputs: int, outputs: int) -> dict[str, jax.Array]:
    """Draws a layer: `kernel` `[inputs, outputs]` and `bias` `[outputs]` float32.

    Both are uniform in +-1/sqrt(inputs), as PyTorch has it.
    """
    kernel_key, bias_key = jax.random.split(key)
    bound = 1 / inputs**0.5
    return {
        "kernel": jax.random.uniform(kernel_key, (inputs, outputs), minval=-bound, maxval=bound),
        "bias": jax.random.uniform(bias_key, (outputs,), minval=-bound, maxval=bound),
    }
