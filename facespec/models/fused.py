"""The training pass of a trunk: the same function as its modules one after the other, in fewer passes over its maps.

A small network on a CPU waits for memory between its convolutions. Two things are done otherwise here:

- batch norm, ReLU and 2x2 max-pool in one. Batch norm with a weight of 0 or more keeps the order of numbers, so the
  largest of four can be taken first, and the rest happens on a quarter of the map. Its gradient reaches the other three
  through mean and variance alone, which is one multiplication and one addition per number.
- a 3x3 convolution of one channel as a 1x1 convolution of nine shifted copies. oneDNN's AVX2 kernel for the gradient of
  the weights of a single channel is five times slower than that [measured].
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional

aten: Any = torch.ops.aten


def run_fused(section: nn.Module, maps: torch.Tensor) -> torch.Tensor:
    """What the sequence `section` returns for `maps`, up to rounding; gradients and running statistics too.

    For training: hooks of modules that are fused do not run. On other devices than the CPU, and where a module is not
    as described above, the module itself runs.
    """
    modules = list(section.children())
    while modules:
        first = modules[0]
        if maps.device.type == "cpu" and _fuses(modules[:3], maps):
            maps = norm_relu_pool(maps, first)  # type: ignore[arg-type]
            modules = modules[3:]
            continue
        thin = maps.device.type == "cpu" and isinstance(first, nn.Conv2d) and _has_one_channel(first)
        maps = convolve_patches(maps, first) if thin else first(maps)  # type: ignore[arg-type]
        modules = modules[1:]
    return maps


def _fuses(modules: list[nn.Module], maps: torch.Tensor) -> bool:
    if [type(module) for module in modules] != [nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]:
        return False
    norm, pool = modules[0], modules[2]
    assert isinstance(norm, nn.BatchNorm2d) and isinstance(pool, nn.MaxPool2d)
    described = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode) == (2, 2, 0, 1, False)
    averages = norm.affine and norm.track_running_stats and norm.momentum is not None
    return bool(norm.training and averages and described and min(maps.shape[2:]) > 1 and (norm.weight >= 0).all())


def norm_relu_pool(maps: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
    """``max_pool2d(relu(norm(maps)), 2)`` in training mode, for a `norm` whose weights are 0 or more.

    Parameters
    ----------
    maps : float tensor of shape (n, channels, height, width)
        Fastest with channels last in memory.
    norm : BatchNorm2d
        Affine, with running statistics, which are updated.

    Returns
    -------
    float tensor of shape (n, channels, height // 2, width // 2)
    """
    with torch.no_grad():
        assert norm.momentum is not None and norm.num_batches_tracked is not None
        mean, variance = torch.batch_norm_update_stats(maps, norm.running_mean, norm.running_var, norm.momentum)
        norm.num_batches_tracked.add_(1)
        inverse_sd = (variance + norm.eps).rsqrt()  # not sqrt: see docs/portability.md
    return _NormReluPool.apply(maps, norm.weight, norm.bias, mean, inverse_sd)


class _NormReluPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        weight, bias, mean, inverse_sd = values
        largest, places = aten.max_pool2d_with_indices(maps, [2, 2], [2, 2])
        scale = weight * inverse_sd
        pooled = torch.addcmul(_per_channel(bias - mean * scale), largest, _per_channel(scale)).relu_()
        ctx.save_for_backward(maps, largest, places, pooled, mean, inverse_sd, scale)
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        maps, largest, places, pooled, mean, inverse_sd, scale = ctx.saved_tensors
        gradient = aten.threshold_backward(gradients[0], pooled, 0)
        of_bias = gradient.sum((0, 2, 3))
        of_weight = ((gradient * largest).sum((0, 2, 3)) - mean * of_bias) * inverse_sd
        # d/dmaps = scale * (gradient - mean(gradient) - normalised maps * mean(gradient * normalised maps)), where
        # the means go over all numbers of a channel, and the gradient is 0 beside the largest of four
        count = maps.numel() // maps.shape[1]
        slope = -scale * inverse_sd * of_weight / count
        constant = -scale * of_bias / count - slope * mean
        of_maps = torch.addcmul(_per_channel(constant), maps, _per_channel(slope))
        of_maps = of_maps.contiguous(memory_format=torch.channels_last)
        flat = _channels_last(of_maps)
        offsets = _offsets(tuple(maps.shape))
        flat.scatter_add_(
            0,
            torch.add(offsets, _channels_last(places), alpha=maps.shape[1]),
            _channels_last(gradient * _per_channel(scale)),
        )
        return of_maps, of_weight, of_bias, None, None


def _per_channel(values: torch.Tensor) -> torch.Tensor:
    return values.view(1, -1, 1, 1)


def _channels_last(maps: torch.Tensor) -> torch.Tensor:
    """(n, c, h, w) -> (n * h * w * c,), a view where `maps` has its channels last in memory."""
    return maps.permute(0, 2, 3, 1).reshape(-1)


@lru_cache(maxsize=8)
def _offsets(shape: tuple[int, int, int, int]) -> torch.Tensor:
    """For each pooled number, channels last: the flat place of its channel in the first pixel of its image."""
    n, channels, height, width = shape
    images = torch.arange(n) * (height * width * channels)
    offsets = images[:, None, None] + torch.arange(channels)
    return offsets.expand(n, (height // 2) * (width // 2), channels).reshape(-1)


def _has_one_channel(convolution: nn.Conv2d) -> bool:
    described = (
        convolution.in_channels,
        convolution.kernel_size,
        convolution.stride,
        convolution.padding,
        convolution.dilation,
        convolution.padding_mode,
    )
    return described == (1, (3, 3), (1, 1), (1, 1), (1, 1), "zeros")


def convolve_patches(maps: torch.Tensor, convolution: nn.Conv2d) -> torch.Tensor:
    """``convolution(maps)`` for one channel, 3x3 weights and a margin of 1: (n, 1, h, w) -> (n, units, h, w)."""
    height, width = maps.shape[2:]
    padded = functional.pad(maps[:, 0], (1, 1, 1, 1))
    shifted = [padded[:, down : down + height, right : right + width] for down in range(3) for right in range(3)]
    patches = torch.stack(shifted, dim=3).permute(0, 3, 1, 2)
    return functional.conv2d(patches, convolution.weight.reshape(-1, 9, 1, 1), convolution.bias)
