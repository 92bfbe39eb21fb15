"""What a convolution and its gradients are, window by window, in numpy."""

import numpy as np


def places(shape, kernel_size, stride):
    """For each place in the kernel, where in the padded image the windows have it."""
    for row in range(kernel_size):
        for column in range(kernel_size):
            reach = [1 + stride * (count - 1) for count in shape]
            yield (
                (row, column),
                np.s_[:, row : row + reach[0] : stride, column : column + reach[1] : stride],
            )


class Convolution:
    """A convolution and its two gradients, window by window."""

    def __init__(self, x, kernel, stride, padding):
        self.size, self.stride, self.padding = len(kernel), stride, padding
        self.x_shape, self.depthwise = x.shape, kernel.shape[2] == 1 and x.shape[3] > 1
        self.shape = [(n + 2 * padding - self.size) // stride + 1 for n in x.shape[1:3]]

    def padded(self, x):
        return np.pad(x, ((0, 0), *[(self.padding, self.padding)] * 2, (0, 0)))

    def output(self, x, kernel):
        padded = self.padded(x)
        parts = places(self.shape, self.size, self.stride)
        if self.depthwise:
            return sum(padded[where] * kernel[tap][0] for tap, where in parts)
        return sum(padded[where] @ kernel[tap] for tap, where in parts)

    def x_gradient(self, kernel, gradient):
        result = self.padded(np.zeros(self.x_shape))
        for tap, where in places(self.shape, self.size, self.stride):
            matrix = kernel[tap]
            result[where] += gradient * matrix[0] if self.depthwise else gradient @ matrix.T
        inner = slice(self.padding, -self.padding or None)
        return result[:, inner, inner]

    def kernel_gradient(self, x, gradient, kernel_shape):
        result, padded = np.zeros(kernel_shape), self.padded(x)
        for tap, where in places(self.shape, self.size, self.stride):
            if self.depthwise:
                result[tap][0] = (padded[where] * gradient).sum((0, 1, 2))
            else:
                result[tap] = np.tensordot(padded[where], gradient, ((0, 1, 2), (0, 1, 2)))
        return result

    def gradients(self, x, kernel, gradient):
        return (
            self.x_gradient(kernel, gradient),
            self.kernel_gradient(x, gradient, kernel.shape),
        )
