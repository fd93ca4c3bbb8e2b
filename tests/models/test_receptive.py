"""Receptive fields: by the published numbers of VGG16, by changing every pixel, by gradients, and by hand."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import skip_init

from facespec.models import trunks
from facespec.models.networks import FaceNetwork
from facespec.models.receptive import Reach, Window, compose_reach, compute_receptive_field
from facespec.study.errors import StudyError
from toys import make_network


def build(*, trunk: str = "small_vgg", branch_after: str | None = None, convolutions: int = 1) -> FaceNetwork:
    """A network in float64 with positive weights: every pixel that reaches a cell increases its response."""
    network = make_network((2, 3, 2), trunk=trunk, branch_after=branch_after, convolutions=convolutions).double()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.fill_(0.1)
    return network


@pytest.fixture
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """VGG16 with one unit per layer: the number of units changes no window."""
    monkeypatch.setattr(trunks, "VGG16_BLOCKS", tuple((1,) * len(widths) for widths in trunks.VGG16_BLOCKS))
    monkeypatch.setattr(trunks, "VGG16_WIDTH", 3)


def compute_maps(network: FaceNetwork, name: str, images: torch.Tensor) -> torch.Tensor:
    outputs: list[torch.Tensor] = []
    handle = network.get_submodule(name).register_forward_hook(lambda module, inputs, output: outputs.append(output))
    network(images)
    handle.remove()
    return outputs[0]


def find_box(mask: np.ndarray) -> Window:
    """The smallest window around the True pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return Window(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)


@pytest.mark.parametrize(
    ("name", "branch_after", "convolutions"),
    [
        ("trunk.conv1", None, 1),
        ("trunk.norm1", None, 1),
        ("trunk.pool1", None, 1),
        ("trunk.relu3", None, 1),
        ("trunk.conv6", None, 2),
        ("trunk.relu2", "conv2", 1),
        ("branches.expression.pool2", "conv2", 1),
        ("branches.identity.conv4", "conv3", 2),
    ],
)
def test_a_cell_changes_with_every_pixel_of_its_window_and_no_other(
    name: str, branch_after: str | None, convolutions: int
) -> None:
    """Every pixel of a 19x11 image is increased in turn, so much that it is the maximum of every pool it reaches."""
    network, (height, width) = build(branch_after=branch_after, convolutions=convolutions), (19, 11)
    images = torch.ones((height * width + 1, 1, height, width), dtype=torch.float64)
    images[:-1].view(height * width, -1).fill_diagonal_(1e6)
    with torch.no_grad():
        maps = compute_maps(network, name, images)[:, 0].numpy()
    field = compute_receptive_field(network, name)
    for row, column in itertools.product(*map(range, maps.shape[1:])):
        # the order of sums, and so the last bits, may depend on the image's index in the batch
        unchanged = np.isclose(maps[:-1, row, column], maps[-1, row, column], rtol=1e-9, atol=1e-9)
        changed = ~unchanged.reshape(height, width)
        window = field.window(row, column, (height, width))
        assert window == find_box(changed) and changed[window.slices].all()


def make_convolution(kernel: int | tuple[int, int], **options: object) -> nn.Conv2d:
    """Of ones; draws no weights."""
    module = skip_init(nn.Conv2d, 1, 1, kernel, bias=False, dtype=torch.float64, **options)
    nn.init.ones_(module.weight)
    return module


@pytest.mark.usefixtures("_narrow")
@pytest.mark.parametrize("branch_after", [None, "conv7"])
def test_gradients_reach_the_window_of_vgg16(branch_after: str | None) -> None:
    """With average pools for max-pools, as those pass the gradient to one pixel only; the window is the same."""
    network = build(trunk="vgg16", branch_after=branch_after)
    section = "trunk" if branch_after is None else "branches.identity"
    names = ["trunk.conv1", "trunk.pool2", "trunk.relu5", f"{section}.conv10", f"{section}.relu13", f"{section}.pool5"]
    fields = {name: compute_receptive_field(network, name) for name in names}
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            network.set_submodule(name, nn.AvgPool2d(2))
    for (name, field), (row, column) in itertools.product(fields.items(), [(0, 3), (2, 2)]):
        image = torch.ones((1, 1, 97, 130), dtype=torch.float64, requires_grad=True)
        compute_maps(network, name, image)[0, 0, row, column].backward()
        assert field.window(row, column, (97, 130)) == find_box(image.grad[0, 0].numpy() > 0)


@pytest.mark.usefixtures("_narrow")
def test_the_published_numbers_of_vgg16() -> None:
    """Araujo, Norris & Sim 2019, table of networks: VGG-16 has receptive field 212, stride 32 and padding 90."""
    network = build(trunk="vgg16")
    field = compute_receptive_field(network, "trunk.pool5")
    assert field.down == field.across == Reach(212, 32, -90)
    sizes = [compute_receptive_field(network, f"trunk.conv{i}").down.size for i in range(1, 14)]
    assert sizes == [3, 5, 10, 14, 24, 32, 40, 60, 76, 92, 132, 164, 196]


@st.composite
def draw_modules(draw: st.DrawFn) -> list[nn.Module]:
    """Convolutions and average pools, different down and across."""

    def draw_pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    modules: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 3))):
        kernel, stride = draw_pair(1, 3), draw_pair(1, 2)
        padding = tuple(draw(st.integers(0, side // 2)) for side in kernel)
        if draw(st.booleans()):
            modules.append(nn.AvgPool2d(kernel, stride, padding))
        else:
            modules.append(make_convolution(kernel, stride=stride, padding=padding, dilation=draw_pair(1, 2)))
    return modules


@given(modules=draw_modules(), position=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@settings(max_examples=40)
def test_windows_of_any_convolutions_and_pools(modules: list[nn.Module], position: tuple[float, float]) -> None:
    image = torch.ones((1, 1, 43, 38), dtype=torch.float64, requires_grad=True)
    maps = nn.Sequential(*modules)(image)
    row, column = (int(share * (side - 1)) for share, side in zip(position, maps.shape[2:], strict=True))
    maps[0, 0, row, column].backward()
    field = compose_reach(modules)
    window = field.window(row, column, (43, 38))
    # a dilated kernel has gaps: if the window is clipped in one, the next pixel with a weight lies further inside
    assume((window.bottom - window.top, window.right - window.left) == (field.down.size, field.across.size))
    assert window == find_box(image.grad[0, 0].numpy() > 0)


def test_by_hand() -> None:
    """Down: 5 wide from -1, then pairs: 6 wide, from -1, 2 apart. Across: 3 wide, 3 apart; the pool changes nothing."""
    modules = [make_convolution((5, 3), stride=(1, 3), padding=(1, 0)), nn.ReLU(), nn.MaxPool2d((2, 1))]
    field = compose_reach(modules)
    assert (field.down, field.across) == (Reach(6, 2, -1), Reach(3, 3, 0))
    assert field.window(0, 0, (17, 11)) == Window(top=0, bottom=5, left=0, right=3)
    assert field.window(2, 1, (17, 11)) == Window(top=3, bottom=9, left=3, right=6)
    assert field.window(7, 3, (17, 11)) == Window(top=13, bottom=17, left=9, right=11)
    image = np.arange(17 * 11 * 3).reshape(17, 11, 3)
    np.testing.assert_array_equal(image[Window(3, 9, 3, 6).slices], image[3:9, 3:6])
    dilated = compose_reach([make_convolution(3, dilation=(2, 3)), nn.MaxPool2d(2, stride=1, dilation=(3, 1))])
    assert (dilated.down, dilated.across) == (Reach(8, 1, 0), Reach(8, 1, 0))


@pytest.mark.parametrize("cell", [(-1, 0), (0, -1), (9, 0), (0, 4)])
def test_a_cell_outside_the_map_is_refused(cell: tuple[int, int]) -> None:
    field = compose_reach([make_convolution((5, 3), stride=(2, 3), padding=(1, 0))])
    with pytest.raises(StudyError, match=re.escape(f"cell {cell} lies outside the map of an image of 17x11 px")):
        field.window(*cell, (17, 11))


@pytest.mark.parametrize(
    ("name", "branch_after", "kind"),
    [
        ("trunk.average", None, "GlobalAverage"),
        ("heads.identity", None, "GlobalAverage"),
        ("branches.identity.average", "conv3", "GlobalAverage"),
        ("heads.identity", "conv3", "Linear"),
    ],
)
def test_a_layer_without_a_map_is_refused(name: str, branch_after: str | None, kind: str) -> None:
    with pytest.raises(StudyError, match=f"layer '{re.escape(name)}' has no receptive field: behind {kind}"):
        compute_receptive_field(build(branch_after=branch_after), name)


def test_unknown_layers_and_paddings_are_refused() -> None:
    with pytest.raises(StudyError, match=r"^this network has no layer 'trunk\.conv4': did you mean 'trunk\.conv"):
        compute_receptive_field(build(), "trunk.conv4")
    with pytest.raises(StudyError, match=r"^padding 'same' is not a number of pixels\.$"):
        compose_reach([make_convolution(3, padding="same")])
