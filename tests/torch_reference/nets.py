"""Client nets in plain PyTorch.

Written from the architectures as the papers and `protonorm_jax.models` have them; parameters and
results are those of our own models. NCHW, PyTorch's usual way; the memory format is the caller's.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


class Net(nn.Module):
    """A base, its output averaged (or stretched) to `feature_dim`, and a linear head."""

    def __init__(self, base: nn.Module, feature_dim: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.base = base
        self.feature_dim = feature_dim
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(feature_dim, num_classes)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Maps `[B, channels, H, W]` to features `[B, feature_dim]` and logits."""
        features = self.base(images)
        if features.shape[1] != self.feature_dim:
            features = functional.adaptive_avg_pool1d(features, self.feature_dim)
        return features, self.head(self.dropout(features))


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    depthwise: bool = False,
    activation: type[nn.Module] | None = None,
    epsilon: float = 1e-5,
) -> nn.Sequential:
    """A convolution without bias, a batch norm, and an activation if there is to be one."""
    convolution = nn.Conv2d(
        inputs,
        outputs,
        kernel,
        stride=stride,
        padding=kernel // 2,
        groups=inputs if depthwise else 1,
        bias=False,
    )
    last = [activation(inplace=True)] if activation else []
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs, eps=epsilon), *last)


def mean_over_image() -> nn.Sequential:
    """`[B, F, H, W]` to `[B, F]`."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def fedavg_cnn() -> nn.Module:
    """Two 5 x 5 convolutions without padding, each with a 2 x 2 maximum, and a layer of 512."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 5 * 5, 512),
        nn.ReLU(inplace=True),
    )


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            conv_norm(inputs, outputs, stride=stride, activation=nn.ReLU),
            conv_norm(outputs, outputs),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_norm(inputs, outputs, 1, stride=stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[B, inputs, H, W]` to `[B, outputs, H / stride, W / stride]`."""
        return functional.relu(self.shortcut(x) + self.branch(x), inplace=True)


class Bottleneck(nn.Module):
    """A 3 x 3 convolution, which has the stride, between two of 1 x 1, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        width = outputs // 4
        self.branch = nn.Sequential(
            conv_norm(inputs, width, 1, activation=nn.ReLU),
            conv_norm(width, width, stride=stride, activation=nn.ReLU),
            conv_norm(width, outputs, 1),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_norm(inputs, outputs, 1, stride=stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[B, inputs, H, W]` to `[B, outputs, H / stride, W / stride]`."""
        return functional.relu(self.shortcut(x) + self.branch(x), inplace=True)


def resnet(blocks: Sequence[int], widths: Sequence[int], block: type[nn.Module]) -> nn.Module:
    """A 7 x 7 stem with a 3 x 3 maximum, and stages of so many blocks and channels."""
    layers: list[nn.Module] = [
        conv_norm(3, 64, 7, stride=2, activation=nn.ReLU),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]
    inputs = 64
    for stage, (count, outputs) in enumerate(zip(blocks, widths, strict=True)):
        for number in range(count):
            layers.append(block(inputs, outputs, 2 if stage > 0 and number == 0 else 1))
            inputs = outputs
    return nn.Sequential(*layers, mean_over_image())


def resnet4() -> nn.Module:
    """One stage of one block."""
    return resnet((1,), (64,), BasicBlock)


def resnet6() -> nn.Module:
    """Two stages of one block."""
    return resnet((1, 1), (64, 128), BasicBlock)


def resnet8() -> nn.Module:
    """Three stages of one block."""
    return resnet((1, 1, 1), (64, 128, 256), BasicBlock)


def resnet50() -> nn.Module:
    """ResNet-50 (arXiv:1512.03385)."""
    return resnet((3, 4, 6, 3), (256, 512, 1024, 2048), Bottleneck)


class Inception(nn.Module):
    """Four branches side by side: 1 x 1, twice 1 x 1 and 3 x 3, and a 3 x 3 maximum and 1 x 1."""

    def __init__(self, inputs: int, channels: Sequence[int]) -> None:
        super().__init__()
        plain, before, wide, before_second, wide_second, pooled = channels
        self.branches = nn.ModuleList(
            [
                unit(inputs, plain, 1),
                nn.Sequential(unit(inputs, before, 1), unit(before, wide)),
                nn.Sequential(unit(inputs, before_second, 1), unit(before_second, wide_second)),
                nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), unit(inputs, pooled, 1)),
            ]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[B, inputs, H, W]` to `[B, channels of the branches together, H, W]`."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


def unit(inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1) -> nn.Module:
    """A convolution, a batch norm and a ReLU of GoogLeNet."""
    return conv_norm(inputs, outputs, kernel, stride=stride, activation=nn.ReLU, epsilon=1e-3)


def googlenet() -> nn.Module:
    """GoogLeNet (arXiv:1409.4842) with batch norm, without auxiliary heads."""
    stages = (
        (3, ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64))),
        (
            2,
            (
                (192, 96, 208, 16, 48, 64),
                (160, 112, 224, 24, 64, 64),
                (128, 128, 256, 24, 64, 64),
                (112, 144, 288, 32, 64, 64),
                (256, 160, 320, 32, 128, 128),
            ),
        ),
        (0, ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128))),
    )
    layers: list[nn.Module] = [
        unit(3, 64, 7, stride=2),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        unit(64, 64, 1),
        unit(64, 192),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
    ]
    inputs = 192
    for window, blocks in stages:
        for channels in blocks:
            layers.append(Inception(inputs, channels))
            inputs = channels[0] + channels[2] + channels[4] + channels[5]
        if window:
            layers.append(nn.MaxPool2d(window, stride=2, ceil_mode=True))
    return nn.Sequential(*layers, mean_over_image(), nn.Dropout(0.2))


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow; with a shortcut where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        widen = [conv_norm(inputs, width, 1, activation=nn.ReLU6)] if expansion > 1 else []
        self.branch = nn.Sequential(
            *widen,
            conv_norm(width, width, stride=stride, depthwise=True, activation=nn.ReLU6),
            conv_norm(width, outputs, 1),
        )
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[B, inputs, H, W]` to `[B, outputs, H / stride, W / stride]`."""
        return x + self.branch(x) if self.has_shortcut else self.branch(x)


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 of width 1 (arXiv:1801.04381), without its dropout."""
    # Expansion, channels, blocks, and stride of the first block.
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
    stages += ((6, 160, 3, 2), (6, 320, 1, 1))
    layers, inputs = [conv_norm(3, 32, stride=2, activation=nn.ReLU6)], 32
    for expansion, outputs, blocks, first_stride in stages:
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            layers.append(InvertedResidual(inputs, outputs, stride, expansion))
            inputs = outputs
    return nn.Sequential(
        *layers, conv_norm(inputs, 1280, 1, activation=nn.ReLU6), mean_over_image()
    )


class ShuffleBlock(nn.Module):
    """Filters one half of the channels beside the other half, and mixes the two."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.halves = stride == 1
        self.beside: nn.Module = nn.Identity()
        if stride > 1:  # Then both branches filter and see all channels.
            self.beside = nn.Sequential(
                conv_norm(inputs, inputs, stride=stride, depthwise=True),
                conv_norm(inputs, half, 1, activation=nn.ReLU),
            )
        self.branch = nn.Sequential(
            conv_norm(half if self.halves else inputs, half, 1, activation=nn.ReLU),
            conv_norm(half, half, stride=stride, depthwise=True),
            conv_norm(half, half, 1, activation=nn.ReLU),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[B, inputs, H, W]` to `[B, outputs, H / stride, W / stride]`."""
        first, second = x.chunk(2, dim=1) if self.halves else (x, x)
        pairs = torch.stack([self.beside(first), self.branch(second)], dim=2)
        return pairs.flatten(1, 2)  # Channels of the two in turns.


def shufflenet_v2() -> nn.Module:
    """ShuffleNetV2 of width 1 (arXiv:1807.11164)."""
    layers: list[nn.Module] = [
        conv_norm(3, 24, stride=2, activation=nn.ReLU),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]
    inputs = 24
    for outputs, blocks in ((116, 4), (232, 8), (464, 4)):
        for block in range(blocks):
            layers.append(ShuffleBlock(inputs, outputs, 2 if block == 0 else 1))
            inputs = outputs
    return nn.Sequential(*layers, conv_norm(inputs, 1024, 1, activation=nn.ReLU), mean_over_image())


class SqueezeExcitation(nn.Module):
    """Scales each channel by a number that all channels' means decide."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.factors = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.SiLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[B, channels, H, W]` to the same shape."""
        return x * self.factors(x)


class MBConv(nn.Module):
    """Widen, filter each channel, scale channels, narrow; with a shortcut where shapes allow."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, skip: float
    ) -> None:
        super().__init__()
        width = inputs * expansion
        widen = [conv_norm(inputs, width, 1, activation=nn.SiLU)] if expansion > 1 else []
        self.branch = nn.Sequential(
            *widen,
            conv_norm(width, width, kernel, stride=stride, depthwise=True, activation=nn.SiLU),
            SqueezeExcitation(width, max(1, inputs // 4)),
            conv_norm(width, outputs, 1),
        )
        self.has_shortcut = stride == 1 and inputs == outputs
        self.skip = skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[B, inputs, H, W]` to `[B, outputs, H / stride, W / stride]`.

        In training, each image skips the branch with probability `skip`.
        """
        y = self.branch(x)
        if not self.has_shortcut:
            return y
        if self.training and self.skip > 0:
            kept = 1 - self.skip
            y = y * (torch.rand(len(y), 1, 1, 1, device=y.device) < kept).to(y.dtype).div_(kept)
        return x + y


def efficientnet_b0() -> nn.Module:
    """EfficientNet-B0 (arXiv:1905.11946) with stochastic depth."""
    # Expansion, kernel, stride of the first block, channels, and blocks.
    stages = ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3))
    stages += ((6, 5, 1, 112, 3), (6, 5, 2, 192, 4), (6, 3, 1, 320, 1))
    total = sum(stage[-1] for stage in stages)
    layers, inputs = [conv_norm(3, 32, stride=2, activation=nn.SiLU)], 32
    for expansion, kernel, first_stride, outputs, blocks in stages:
        for block in range(blocks):
            stride, skip = first_stride if block == 0 else 1, 0.2 * (len(layers) - 1) / total
            layers.append(MBConv(inputs, outputs, kernel, stride, expansion, skip))
            inputs = outputs
    return nn.Sequential(*layers, conv_norm(inputs, 1280, 1, activation=nn.SiLU), mean_over_image())


class EncoderLayer(nn.Module):
    """Self-attention, then two linear layers for each token, each behind a norm and added."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.first_norm = nn.LayerNorm(width, eps=1e-6)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.second_norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[B, T, width]` to the same shape."""
        y = self.first_norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.second_norm(x))


class Encoder(nn.Module):
    """Adds learned positions to tokens; layers and a norm follow."""

    def __init__(self, length: int, width: int, layers: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.empty(1, length, width).normal_(std=0.02))
        encoders = (EncoderLayer(width, heads, hidden) for _ in range(layers))
        self.layers = nn.Sequential(*encoders, nn.LayerNorm(width, eps=1e-6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps `[B, length, width]` to the same shape."""
        return self.layers(x + self.positions)


class VisionTransformer(nn.Module):
    """A vision transformer (arXiv:2010.11929) without dropout."""

    def __init__(self, patch: int, layers: int, heads: int, width: int, hidden: int) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.cut = nn.Conv2d(3, width, patch, stride=patch)
        self.encoder = Encoder((32 // patch) ** 2 + 1, width, layers, heads, hidden)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps `[B, 3, 32, 32]` to `[B, width]`."""
        patches = self.cut(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches], dim=1)
        return self.encoder(tokens)[:, 0]


BASES = {
    "resnet4": (resnet4, 0.0),
    "resnet6": (resnet6, 0.0),
    "resnet8": (resnet8, 0.0),
    "resnet50": (resnet50, 0.0),
    "googlenet": (googlenet, 0.0),
    "mobilenet_v2": (mobilenet_v2, 0.0),
    "shufflenet_v2": (shufflenet_v2, 0.0),
    "efficientnet_b0": (efficientnet_b0, 0.2),
    "fedavg_cnn": (fedavg_cnn, 0.0),
    "tiny_vit": (lambda: VisionTransformer(4, 4, 4, 64, 128), 0.0),
    "vit_b_16": (lambda: VisionTransformer(16, 12, 12, 768, 3072), 0.0),
    "vit_b_32": (lambda: VisionTransformer(32, 12, 12, 768, 3072), 0.0),
}
"""Makes the base, and the rate of dropout before the head."""


def build(name: str, *, num_classes: int, feature_dim: int) -> Net:
    """Makes a net for 32 x 32 x 3 images; `name` is a key of `BASES`."""
    base, dropout = BASES[name]
    return Net(base(), feature_dim, num_classes, dropout)
