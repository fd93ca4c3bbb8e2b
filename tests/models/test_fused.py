"""The fused pass of training gives what the modules give one after the other: values, gradients, statistics."""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from facespec.models import fused
from facespec.models.fused import convolve_patches, norm_relu_pool, run_fused
from toys import seeded


@pytest.fixture(autouse=True)
def _restore_random_state() -> Iterator[None]:
    """torch's modules draw their first weights from the global random state."""
    with torch.random.fork_rng(devices=[]):
        yield


def make_section(channels: tuple[int, ...] = (1, 3, 5), *, seed: int = 3) -> nn.Sequential:
    """Convolution, norm, ReLU and pool per pair of channels, float64, with weights that are no round numbers."""
    generator = seeded(seed)
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (inputs, units) in enumerate(itertools.pairwise(channels), start=1):
        modules[f"conv{number}"] = nn.Conv2d(inputs, units, 3, padding=1, bias=number % 2 == 0)
        modules[f"norm{number}"] = nn.BatchNorm2d(units)
        modules[f"relu{number}"] = nn.ReLU()
        modules[f"pool{number}"] = nn.MaxPool2d(2)
    section = nn.Sequential(modules).double()
    with torch.no_grad():
        for parameter in section.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            if parameter.ndim == 1:
                parameter.abs_()
    return section.train()


def draw_images(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def run_once(run: Any, section: nn.Sequential, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output, gradients of images and parameters, and statistics after one pass."""
    section, images = copy.deepcopy(section), images.clone().requires_grad_()
    output = run(section, images)
    weights = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)
    (output * weights).sum().backward()
    gradients = {f"d {name}": parameter.grad for name, parameter in section.named_parameters()}
    return {"output": output.detach(), "d images": images.grad, **gradients, **dict(section.named_buffers())}


def assert_same(section: nn.Sequential, images: torch.Tensor) -> None:
    expected = run_once(lambda modules, maps: modules(maps), section, images)
    torch.testing.assert_close(run_once(run_fused, section, images), expected, rtol=1e-9, atol=1e-9)


@settings(max_examples=25)
@given(
    n=st.integers(2, 4),
    height=st.integers(4, 17),
    width=st.integers(4, 11),
    seed=st.integers(0, 999),
    channels_last=st.booleans(),
)
def test_values_gradients_and_statistics_are_those_of_the_modules(
    n: int, height: int, width: int, seed: int, channels_last: bool
) -> None:
    section = make_section(seed=seed)
    if channels_last:
        section.to(memory_format=torch.channels_last)
    assert_same(section, draw_images(n, 1, height, width, seed=seed))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the fused functions, in the order in which they were called."""
    names: list[str] = []
    for name in ("norm_relu_pool", "convolve_patches"):
        original = getattr(fused, name)
        monkeypatch.setattr(fused, name, lambda *args, f=original, name=name: names.append(name) or f(*args))
    return names


def test_what_is_fused(calls: list[str]) -> None:
    run_fused(make_section(), draw_images(2, 1, 17, 11))
    assert calls == ["convolve_patches", "norm_relu_pool", "norm_relu_pool"]


@pytest.mark.parametrize(
    "change",
    [
        lambda section: section.norm1.weight.data[1].fill_(-0.5),
        lambda section: setattr(section.norm1, "momentum", None),
        lambda section: section.eval(),
        lambda section: setattr(section.pool1, "kernel_size", 3),
        lambda section: setattr(section.pool1, "ceil_mode", True),
    ],
    ids=["negative weight", "no momentum", "evaluation", "overlapping pool", "ceiling"],
)
def test_other_norms_and_pools_run_as_modules(change: Any, calls: list[str]) -> None:
    section = make_section((1, 3))
    change(section)
    assert_same(section, draw_images(3, 1, 9, 6))
    assert "norm_relu_pool" not in calls


def test_a_map_too_small_for_the_pool_raises_the_error_of_the_pool() -> None:
    with pytest.raises(RuntimeError, match="too small"):
        run_fused(make_section((1, 3)), draw_images(3, 1, 1, 6))


@pytest.mark.parametrize(
    "change",
    [
        {"stride": 2},
        {"padding": 0},
        {"dilation": 2},
        {"padding_mode": "reflect"},
        {"kernel_size": 5},
        {"in_channels": 2},
    ],
)
def test_other_convolutions_run_as_modules(change: dict[str, Any], calls: list[str]) -> None:
    options = {"in_channels": 1, "out_channels": 3, "kernel_size": 3, "padding": 1} | change
    assert_same(nn.Sequential(nn.Conv2d(**options).double()), draw_images(2, options["in_channels"], 9, 8))
    assert calls == []


def test_of_equal_numbers_the_first_gets_the_gradient() -> None:
    """As with the modules."""
    norm = make_section((1, 3)).norm1
    maps = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    maps[1] += 1
    maps.requires_grad_()
    norm_relu_pool(maps, norm)[1].sum().backward()
    window = maps.grad[1, :, :2, :2].reshape(3, 4)
    assert (window[:, 0] != window[:, 1]).all() and (window[:, 1:] == window[:, 1:2]).all()


def test_patches_of_a_single_pixel_by_hand() -> None:
    """The response to one bright pixel is the weights, turned by 180 degrees, around it."""
    convolution = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    convolution.weight.data = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    image = torch.zeros(1, 1, 5, 4)
    image[0, 0, 2, 1] = 1
    expected = torch.zeros(5, 4)
    expected[1:4, 0:3] = torch.tensor([[9.0, 8, 7], [6, 5, 4], [3, 2, 1]])
    assert torch.equal(convolve_patches(image, convolution)[0, 0], expected)


def test_the_same_input_gives_the_same_bits(one_thread: None) -> None:
    section, images = make_section().float(), draw_images(8, 1, 24, 24).float()
    first, second = run_once(run_fused, section, images), run_once(run_fused, section, images)
    assert all(torch.equal(first[name], second[name]) for name in first)
