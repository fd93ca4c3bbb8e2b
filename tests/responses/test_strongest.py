"""The strongest images are those that sorting all gives, for any order and batch size; nothing is changed."""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from facespec.data.batches import ImageBatch, apply_preset
from facespec.models.networks import FaceNetwork
from facespec.models.receptive import Window
from facespec.responses.strongest import Ranking, StrongestImages, find_strongest_images, locate_window, reduce_maps
from facespec.study.errors import StudyError
from facespec.study.presets import Preset
from toys import describe_state, make_network, seeded

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU here")
LAYERS = ["trunk.relu1", "branches.expression.relu2", "branches.identity.relu2"]
Entry = tuple[float, int, int, int]  # response, image, row, column


def build() -> FaceNetwork:
    """Weights, norms and so all responses are small whole numbers: exact in float32, in any order of adding."""
    network = make_network((4, 5), branch_after="conv1")
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(torch.randint(-2, 3, module.weight.shape, generator=seeded(3)))
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0
        network.trunk.conv1.weight[2] = -1.0  # a unit that is 0 for all images, which are not negative
    network.branches["identity"].train()
    return network


def draw_images(n: int) -> torch.Tensor:
    """Images of few grey levels, some of them equal."""
    images = torch.randint(0, 4, (n, 1, 9, 7), generator=seeded(5)).float()
    images[n // 2 :] = images[: n - n // 2].clone()
    return images


def sort_all(maps: np.ndarray, k: int, reduction: str = "max") -> list[list[Entry]]:
    """Per unit, the k strongest, by sorting all."""
    units = []
    for unit in range(maps.shape[1]):
        entries = []
        for image, unit_map in enumerate(maps[:, unit].astype(np.float64)):
            cells = [(-value, row, column) for (row, column), value in np.ndenumerate(unit_map)]
            response = unit_map.mean() if reduction == "mean" else unit_map.max()
            entries.append((-response, image, *min(cells)[1:]))
        units.append([(-response, *rest) for response, *rest in sorted(entries)[:k]])
    return units


def list_entries(strongest: StrongestImages) -> list[list[Entry]]:
    fields = (strongest.response, strongest.image, strongest.row, strongest.column)
    return [list(zip(*rows, strict=True)) for rows in zip(*(field.tolist() for field in fields), strict=True)]


def split(order: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    """Parts of the sizes, over and over."""
    start = 0
    for size in cycle(sizes):
        if start >= len(order):
            return
        yield order[start : start + size]
        start += size


@given(
    seed=st.integers(0, 999),
    shape=st.tuples(*(st.integers(1, most) for most in (13, 3, 3, 4))),
    k=st.integers(1, 6),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    levels=st.integers(1, 40),
    channels_last=st.booleans(),
)
@settings(max_examples=100)
def test_a_ranking_is_what_sorting_everything_gives(
    seed: int, shape: tuple[int, ...], k: int, sizes: list[int], levels: int, channels_last: bool
) -> None:
    """Few levels: ties between images and between cells are frequent."""
    generator = np.random.default_rng(seed)
    maps = generator.integers(-1, levels, shape).astype(np.float32)
    ranking = Ranking(k)
    for part in split(generator.permutation(len(maps)), sizes):
        batch = torch.from_numpy(maps[part])
        ranking.add(batch.contiguous(memory_format=torch.channels_last) if channels_last else batch, part)
    assert list_entries(ranking.strongest()) == sort_all(maps, k)


def test_by_hand() -> None:
    """An earlier result does not change when more images are added."""
    maps = torch.zeros((4, 2, 2, 3))
    maps[0, 0, 1, 2], maps[1, 0, 0, 1], maps[3, 0, 1, 0] = 5.0, 7.0, 5.0
    maps[3, 0, 0, 2] = 5.0  # above the other 5 of this map
    ranking = Ranking(3)
    ranking.add(maps[[3, 2]], np.array([30, 20]))
    early = ranking.strongest()
    ranking.add(maps[[1, 0]], np.array([10, 0]))
    strongest = ranking.strongest()
    assert list_entries(early) == [[(5.0, 30, 0, 2), (0.0, 20, 0, 0)], [(0.0, 20, 0, 0), (0.0, 30, 0, 0)]]
    assert list_entries(strongest) == [
        [(7.0, 10, 0, 1), (5.0, 0, 1, 2), (5.0, 30, 0, 2)],
        [(0.0, 0, 0, 0), (0.0, 10, 0, 0), (0.0, 20, 0, 0)],
    ]
    assert (strongest.response.dtype, strongest.image.dtype, strongest.row.dtype) == (np.float32, np.int64, np.int64)


def test_means_have_no_cell() -> None:
    """Maps of 2x2 cells: means are exact."""
    maps = np.random.default_rng(2).integers(0, 5, (11, 3, 2, 2)).astype(np.float32)
    ranking = Ranking(4, "mean")
    for part in split(np.arange(11)[::-1].copy(), [3]):
        ranking.add(torch.from_numpy(maps[part]), part)
    strongest = ranking.strongest()
    assert (strongest.row, strongest.column) == (None, None)
    by_mean, by_max = ([[entry[:2] for entry in unit] for unit in sort_all(maps, 4, how)] for how in ("mean", "max"))
    pairs = zip(strongest.response.tolist(), strongest.image.tolist(), strict=True)
    assert [list(zip(*pair, strict=True)) for pair in pairs] == by_mean != by_max


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_reductions(layout: torch.memory_format) -> None:
    maps = (torch.rand((3, 2, 5, 4), generator=seeded()) - 0.7).contiguous(memory_format=layout)
    np.testing.assert_array_equal(reduce_maps(maps), maps.numpy().max(axis=(2, 3)))
    np.testing.assert_allclose(reduce_maps(maps, "mean"), maps.numpy().mean(axis=(2, 3)), rtol=1e-5)


def test_memory_does_not_grow() -> None:
    ranking, maps = Ranking(3), torch.rand((40, 7, 6, 5), generator=seeded())
    sizes, batches = [], []
    for part in split(np.arange(40), [4]):
        batch = maps[part].clone()
        batches.append(weakref.ref(batch))
        ranking.add(batch, part)
        del batch
        arrays = [value for value in vars(ranking).values() if isinstance(value, np.ndarray)]
        sizes.append(sum(array.nbytes for array in arrays))
        assert all(array.base is None for array in arrays)
    assert set(sizes) == {7 * 3 * (4 + 8 + 8)}
    assert [reference() for reference in batches] == [None] * 10


def find(network: nn.Module, batches: Any, layers: Any = LAYERS, **changes: Any) -> dict[str, StrongestImages]:
    return find_strongest_images(network, batches, layers, **({"k": 4, "device": torch.device("cpu")} | changes))


def make_batches(images: torch.Tensor, order: np.ndarray, size: int) -> Iterator[ImageBatch]:
    return (ImageBatch(images[part], part) for part in split(order, [size]))


@pytest.mark.parametrize("size", [1, 4, 5, 100])
def test_all_layers_in_one_pass_for_any_order_and_batch_size(size: int) -> None:
    network, images = build().eval(), draw_images(23)
    with torch.no_grad():
        first = network.trunk(images)
        maps = {f"branches.{task}.relu2": network.branches[task][:-1](first) for task in network.tasks}
    maps[LAYERS[0]] = first
    network.branches["identity"].train()
    strongest = find(network, make_batches(images, np.random.default_rng(size).permutation(23), size))
    assert list(strongest) == LAYERS
    for name, layer in strongest.items():
        expected = sort_all(maps[name].numpy(), 4)
        assert list_entries(layer) == expected
        assert len({response for unit in expected for response, *_ in unit}) > 3
    assert list_entries(strongest[LAYERS[0]])[2] == [(0.0, i, 0, 0) for i in range(4)]


def test_responses_are_read_before_the_next_layer_works_in_place() -> None:
    """A ReLU in place would leave nothing below 0. The network may be any module."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True))
    strongest = find(network, make_batches(draw_images(5), np.arange(5), 5), ["0"], reduction="mean", k=5)
    assert (strongest["0"].response < 0).any()


FAILURES = {
    "layer": "this network has no layer 'trunk.relu9': did you mean 'trunk.relu1'? Allowed: 'trunk.conv1'",
    "map": "layer 'heads.identity': responses of shape (3, 5): no map in them. Use a convolution or its ReLU.",
    "response": "layer 'trunk.relu1': a response to image 4 is not finite.",
    "batches": "a damaged shard",
    "batch": "images of shape (7, 1, 1, 7)",
}


@pytest.mark.parametrize("failure", [None, *FAILURES])
def test_the_network_is_unchanged_also_after_a_refusal(failure: str | None) -> None:
    network, images = build(), draw_images(7)
    before = describe_state(network)
    layers = [*LAYERS, *{"layer": ["trunk.relu9"], "map": ["heads.identity"]}.get(failure or "", [])]
    if failure == "response":
        images[4, 0, 3, 3] = torch.nan

    def iterate() -> Iterator[ImageBatch]:
        yield from make_batches(images, np.arange(7), 3)
        if failure == "batches":
            raise StudyError("a damaged shard")
        if failure == "batch":
            yield ImageBatch(images[:, :, :1], np.arange(7))

    if failure is None:
        find(network, iterate(), layers)
    else:
        with pytest.raises(StudyError, match=re.escape(FAILURES[failure])):
            find(network, iterate(), layers)
    assert describe_state(network) == before
    network.eval()(draw_images(2))["identity"].sum().backward()  # can still be trained


def test_refusals() -> None:
    with pytest.raises(StudyError, match="no images to rank"):
        find(build(), [])
    with pytest.raises(StudyError, match="k is 0: a ranking has at least one place"):
        find(build(), make_batches(draw_images(3), np.arange(3), 2), k=0)
    with pytest.raises(StudyError, match="unknown reduction 'maxi': did you mean 'max'"):
        find(build(), make_batches(draw_images(3), np.arange(3), 2), reduction="maxi")


@GPU
def test_a_gpu_gives_the_same_ranking() -> None:
    on_cpu, on_gpu = (
        find(build(), make_batches(draw_images(23), np.arange(23), 5), device=torch.device(name))
        for name in ("cpu", "cuda")
    )
    assert {key: list_entries(s) for key, s in on_gpu.items()} == {key: list_entries(s) for key, s in on_cpu.items()}


@pytest.mark.parametrize("image", [(300, 300), (61, 90), (401, 333), (256, 256)])
@pytest.mark.parametrize("window", [Window(0, 38, 5, 9), Window(99, 100, 200, 224), Window(0, 224, 0, 224)])
def test_a_window_depends_on_the_located_pixels_and_no_other(image: tuple[int, int], window: Window) -> None:
    """Pixels outside change nothing in the window; pixels inside do, by the gradient of the resizing."""
    preset = Preset("vgg16", 224, 1, resize=256, shift=0, flip=False, grey_probability=0.2)
    stored = locate_window(window, preset, image)
    pixels = np.random.default_rng(1).integers(0, 256, (2, *image), dtype=np.uint8)
    pixels[1][stored.slices] = pixels[0][stored.slices]
    first, second = apply_preset(pixels, preset, None)[:, 0]
    assert torch.equal(first[window.slices], second[window.slices])
    floats = torch.zeros((1, 1, *image), requires_grad=True)
    target = [256 * side // min(image) for side in image]
    resized = functional.interpolate(floats, size=target, mode="bilinear", antialias=True)[0, 0]
    top, left = (round((side - 224) / 2) for side in target)
    resized[top : top + 224, left : left + 224][window.slices].sum().backward()
    mask = floats.grad[0, 0].numpy() > 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert stored == (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)


def test_without_resizing_the_window_is_the_same() -> None:
    preset = Preset("small", 48, 1, resize=None, shift=4, flip=True, grey_probability=0.0)
    assert locate_window(Window(1, 9, 3, 48), preset, (48, 48)) == Window(1, 9, 3, 48)
