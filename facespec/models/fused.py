"""A faster forward and backward pass of a trunk in training: the same function as its modules, up to rounding.

On a CPU, a small network spends much of its time reading and writing maps. Two things are computed differently here:

- Batch norm, ReLU and 2x2 max-pool together. Batch norm with a weight of 0 or more keeps the order of numbers, so the
  pool can come first, and norm and ReLU run on a quarter of the map. The numbers that are not the largest of their four
  get a gradient only through mean and variance: one multiplication and one addition per number.
- A 3x3 convolution of one channel, as a 1x1 convolution of nine shifted copies. oneDNN's AVX2 kernel for the gradient
  of the weights of a single channel is five times slower than that [measured].
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional

aten: Any = torch.ops.aten


def run_fused(section: nn.Module, maps: torch.Tensor) -> torch.Tensor:
    """Run the modules of the sequence `section` on `maps`; gradients and running statistics are theirs, up to rounding.

    For training. Hooks of fused modules do not run. On other devices than the CPU, and for modules that are not as
    described above, the modules themselves run; so does a section that is not a sequence.
    """
    if not isinstance(section, nn.Sequential):
        result: torch.Tensor = section(maps)
        return result
    modules = list(section.children())
    while modules:
        first = modules[0]
        fused = 1
        if maps.device.type == "cpu" and _can_fuse(modules[:3], maps):
            maps, fused = norm_relu_pool(maps, first), 3  # type: ignore[arg-type]
        elif maps.device.type == "cpu" and isinstance(first, nn.Conv2d) and _has_one_channel(first):
            maps = convolve_patches(maps, first)
        else:
            maps = first(maps)
        modules = modules[fused:]
    return maps


def _can_fuse(modules: list[nn.Module], maps: torch.Tensor) -> bool:
    if [type(module) for module in modules] != [nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]:
        return False
    norm, pool = modules[0], modules[2]
    assert isinstance(norm, nn.BatchNorm2d) and isinstance(pool, nn.MaxPool2d)
    standard_pool = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode) == (2, 2, 0, 1, False)
    standard_norm = norm.affine and norm.track_running_stats and norm.momentum is not None
    large_enough = min(maps.shape[2:]) > 1
    return bool(norm.training and standard_norm and standard_pool and large_enough and (norm.weight >= 0).all())


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
        largest, indices = aten.max_pool2d_with_indices(maps, [2, 2], [2, 2])
        scale = weight * inverse_sd
        pooled = torch.addcmul(_per_channel(bias - mean * scale), largest, _per_channel(scale)).relu_()
        ctx.save_for_backward(maps, largest, indices, pooled, mean, inverse_sd, scale)
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        maps, largest, indices, pooled, mean, inverse_sd, scale = ctx.saved_tensors
        gradient = aten.threshold_backward(gradients[0], pooled, 0)
        bias_gradient = gradient.sum((0, 2, 3))
        weight_gradient = ((gradient * largest).sum((0, 2, 3)) - mean * bias_gradient) * inverse_sd
        # d/dmaps = scale * (gradient - mean(gradient) - normalised maps * mean(gradient * normalised maps)), where
        # the means are over all numbers of a channel, and the gradient is 0 except at the largest of each four
        count = maps.numel() // maps.shape[1]
        slope = -scale * inverse_sd * weight_gradient / count
        constant = -scale * bias_gradient / count - slope * mean
        maps_gradient = torch.addcmul(_per_channel(constant), maps, _per_channel(slope))
        maps_gradient = maps_gradient.contiguous(memory_format=torch.channels_last)
        flat = _flatten_channels_last(maps_gradient)
        offsets = _index_offsets(tuple(maps.shape))
        flat.scatter_add_(
            0,
            torch.add(offsets, _flatten_channels_last(indices), alpha=maps.shape[1]),
            _flatten_channels_last(gradient * _per_channel(scale)),
        )
        return maps_gradient, weight_gradient, bias_gradient, None, None


def _per_channel(values: torch.Tensor) -> torch.Tensor:
    return values.view(1, -1, 1, 1)


def _flatten_channels_last(maps: torch.Tensor) -> torch.Tensor:
    """(n, c, h, w) -> (n * h * w * c,), a view where `maps` has its channels last in memory."""
    return maps.permute(0, 2, 3, 1).reshape(-1)


@lru_cache(maxsize=8)
def _index_offsets(shape: tuple[int, int, int, int]) -> torch.Tensor:
    """For each pooled number, channels last: the flat index of its channel in the first pixel of its image."""
    n, channels, height, width = shape
    images = torch.arange(n) * (height * width * channels)
    offsets = images[:, None, None] + torch.arange(channels)
    return offsets.expand(n, (height // 2) * (width // 2), channels).reshape(-1)


def _has_one_channel(convolution: nn.Conv2d) -> bool:
    c = convolution
    geometry = c.in_channels, c.kernel_size, c.stride, c.padding, c.dilation, c.padding_mode
    return geometry == (1, (3, 3), (1, 1), (1, 1), (1, 1), "zeros")


def convolve_patches(maps: torch.Tensor, convolution: nn.Conv2d) -> torch.Tensor:
    """``convolution(maps)`` for one channel, 3x3 weights and padding 1: (n, 1, h, w) -> (n, units, h, w)."""
    height, width = maps.shape[2:]
    padded = functional.pad(maps[:, 0], (1, 1, 1, 1))
    shifted = [padded[:, down : down + height, right : right + width] for down in range(3) for right in range(3)]
    patches = torch.stack(shifted, dim=3).permute(0, 3, 1, 2)
    return functional.conv2d(patches, convolution.weight.reshape(-1, 9, 1, 1), convolution.bias)
