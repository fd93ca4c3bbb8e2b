"""Windows are what cells see: by the published numbers of VGG16, by touching every pixel, and by gradients."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import skip_init

from facespec.models import trunks
from facespec.models.networks import FaceNetwork, build_network
from facespec.models.receptive import Reach, Window, compose_reach, compute_receptive_field
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock

BLOCKS = tuple((1,) * len(widths) for widths in trunks.VGG16_BLOCKS)  # widths change no window


def made(*, trunk: str = "small_vgg", branch_after: str | None = None, convolutions: int = 1) -> FaceNetwork:
    """A network in float64 whose weights are all positive: whatever reaches a cell raises it."""
    block = NetworkBlock(trunk=trunk, channels=[2, 3, 2], convolutions=convolutions, branch_after=branch_after)
    classes = {"expression": 7, "identity": 5}
    network = build_network(block, classes, channels=1, generator=torch.Generator().manual_seed(1)).double().eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.fill_(0.1)
    return network


def maps_of(network: FaceNetwork, name: str, images: torch.Tensor) -> torch.Tensor:
    kept: list[torch.Tensor] = []
    handle = network.get_submodule(name).register_forward_hook(lambda module, inputs, output: kept.append(output))
    network(images)
    handle.remove()
    return kept[0]


def box(seen: np.ndarray) -> Window:
    """The smallest window around the True pixels."""
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    return Window(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)


@pytest.mark.parametrize(
    ("name", "branch_after", "convolutions"),
    [
        ("trunk.conv1", None, 1),
        ("trunk.norm1", None, 1),
        ("trunk.pool1", None, 1),
        ("trunk.relu2", None, 1),
        ("trunk.relu3", None, 1),
        ("trunk.conv6", None, 2),
        ("trunk.relu2", "conv2", 1),
        ("branches.expression.pool2", "conv2", 1),
        ("branches.identity.relu3", "conv1", 1),
        ("branches.identity.conv4", "conv3", 2),
    ],
)
def test_a_cell_changes_with_every_pixel_of_its_window_and_no_other(
    name: str, branch_after: str | None, convolutions: int
) -> None:
    """Every pixel of a 19x11 image is raised in turn, so much that it wins in every max-pool it reaches."""
    network, (height, width) = made(branch_after=branch_after, convolutions=convolutions), (19, 11)
    touched = torch.ones((height * width + 1, 1, height, width), dtype=torch.float64)
    touched[:-1].view(height * width, -1).fill_diagonal_(1e6)
    with torch.no_grad():
        maps = maps_of(network, name, touched)[:, 0].numpy()
    field = compute_receptive_field(network, name)
    for row, column in itertools.product(*map(range, maps.shape[1:])):
        # where an image lies in a batch may decide the order of sums, and so the last bits
        unchanged = np.isclose(maps[:-1, row, column], maps[-1, row, column], rtol=1e-9, atol=1e-9)
        changed = ~unchanged.reshape(height, width)
        window = field.window(row, column, (height, width))
        assert window == box(changed) and changed[window.slices].all()


def convolution(kernel: int | tuple[int, int], **how: object) -> nn.Conv2d:
    """Of ones, without drawing any weight."""
    made = skip_init(nn.Conv2d, 1, 1, kernel, bias=False, dtype=torch.float64, **how)
    nn.init.ones_(made.weight)
    return made


def gradient_box(network: FaceNetwork, name: str, row: int, column: int, size: tuple[int, int]) -> Window:
    image = torch.ones((1, 1, *size), dtype=torch.float64, requires_grad=True)
    maps_of(network, name, image)[0, 0, row, column].backward()
    return box(image.grad[0, 0].numpy() > 0)


@pytest.mark.parametrize("branch_after", [None, "conv7"])
def test_gradients_reach_the_window_of_vgg16(branch_after: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Average pools instead of max-pools, as those pass the gradient to one pixel only; the window is the same."""
    monkeypatch.setattr(trunks, "VGG16_BLOCKS", BLOCKS)
    monkeypatch.setattr(trunks, "VGG16_WIDTH", 3)
    network = made(trunk="vgg16", branch_after=branch_after)
    own = "trunk" if branch_after is None else "branches.identity"
    names = ["trunk.conv1", "trunk.pool2", "trunk.relu5", f"{own}.conv10", f"{own}.relu13", f"{own}.pool5"]
    fields = {name: compute_receptive_field(network, name) for name in names}
    for path, module in list(network.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            section, _, child = path.rpartition(".")
            setattr(network.get_submodule(section), child, nn.AvgPool2d(2))
    for (name, field), (row, column) in itertools.product(fields.items(), [(0, 3), (2, 2)]):
        size = (97, 130)
        assert field.window(row, column, size) == gradient_box(network, name, row, column, size)


def test_the_published_numbers_of_vgg16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Araujo, Norris & Sim 2019, table of networks: VGG-16 has receptive field 212, stride 32 and padding 90."""
    monkeypatch.setattr(trunks, "VGG16_BLOCKS", BLOCKS)
    monkeypatch.setattr(trunks, "VGG16_WIDTH", 3)
    network = made(trunk="vgg16")
    field = compute_receptive_field(network, "trunk.pool5")
    assert field.down == field.across == Reach(212, 32, -90)
    sizes = [compute_receptive_field(network, f"trunk.conv{i}").down.size for i in range(1, 14)]
    assert sizes == [3, 5, 10, 14, 24, 32, 40, 60, 76, 92, 132, 164, 196]


@st.composite
def stacks(draw: st.DrawFn) -> list[nn.Module]:
    """Convolutions and average pools, unlike down and across."""
    pair = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))  # noqa: E731
    modules: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 3))):
        kernel, stride = draw(pair(1, 3)), draw(pair(1, 2))
        padding = tuple(draw(st.integers(0, side // 2)) for side in kernel)
        if draw(st.booleans()):
            modules.append(nn.AvgPool2d(kernel, stride, padding))
        else:
            modules.append(convolution(kernel, stride=stride, padding=padding, dilation=draw(pair(1, 2))))
    return modules


@given(modules=stacks(), place=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@settings(max_examples=40)
def test_windows_of_any_convolutions_and_pools(modules: list[nn.Module], place: tuple[float, float]) -> None:
    image = torch.ones((1, 1, 43, 38), dtype=torch.float64, requires_grad=True)
    maps = nn.Sequential(*modules)(image)
    row, column = (int(share * (side - 1)) for share, side in zip(place, maps.shape[2:], strict=True))
    maps[0, 0, row, column].backward()
    field = compose_reach(modules)
    window = field.window(row, column, (43, 38))
    # a dilated kernel has gaps, and where its border is clipped, the next pixel that counts may lie further in
    assume((window.bottom - window.top, window.right - window.left) == (field.down.size, field.across.size))
    assert window == box(image.grad[0, 0].numpy() > 0)


def test_by_hand() -> None:
    """Down: 5 wide from -1, then pairs two apart: 6 wide, from -1, 2 apart. Across: 3 wide, 3 apart; then as it is."""
    field = compose_reach([convolution((5, 3), stride=(1, 3), padding=(1, 0)), nn.ReLU(), nn.MaxPool2d((2, 1))])
    assert (field.down, field.across) == (Reach(6, 2, -1), Reach(3, 3, 0))
    assert field.window(0, 0, (17, 11)) == Window(top=0, bottom=5, left=0, right=3)
    assert field.window(2, 1, (17, 11)) == Window(top=3, bottom=9, left=3, right=6)
    assert field.window(7, 3, (17, 11)) == Window(top=13, bottom=17, left=9, right=11)
    picture = np.arange(17 * 11 * 3).reshape(17, 11, 3)
    np.testing.assert_array_equal(picture[Window(3, 9, 3, 6).slices], picture[3:9, 3:6])
    dilated = compose_reach([convolution(3, dilation=(2, 3)), nn.MaxPool2d(2, stride=1, dilation=(3, 1))])
    assert (dilated.down, dilated.across) == (Reach(8, 1, 0), Reach(8, 1, 0))


@pytest.mark.parametrize("cell", [(-1, 0), (0, -1), (9, 0), (0, 4)])
def test_a_cell_outside_the_map_is_refused(cell: tuple[int, int]) -> None:
    field = compose_reach([convolution((5, 3), stride=(2, 3), padding=(1, 0))])
    with pytest.raises(StudyError) as caught:
        field.window(*cell, (17, 11))
    assert str(caught.value) == f"cell ({cell[0]}, {cell[1]}) lies outside the map of an image of 17x11 px."


@pytest.mark.parametrize(
    ("name", "branch_after", "kind"),
    [
        ("trunk.average", None, "GlobalAverage"),
        ("heads.identity", None, "GlobalAverage"),
        ("branches.identity.average", "conv3", "GlobalAverage"),
        ("heads.identity", "conv3", "Linear"),
    ],
)
def test_what_has_no_map_has_no_window(name: str, branch_after: str | None, kind: str) -> None:
    with pytest.raises(StudyError) as caught:
        compute_receptive_field(made(branch_after=branch_after), name)
    assert str(caught.value) == (
        f"layer {name!r} has no receptive field: behind {kind}, units do not look through a window of fixed size."
    )


def test_unknown_layers_and_paddings_are_refused() -> None:
    with pytest.raises(StudyError, match=r"^this network has no layer 'trunk\.conv4': did you mean 'trunk\.conv"):
        compute_receptive_field(made(), "trunk.conv4")
    with pytest.raises(StudyError, match=r"^padding 'same' is not a number of pixels\.$"):
        compose_reach([convolution(3, padding="same")])
