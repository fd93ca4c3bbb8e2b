"""The strongest images are those that sorting all of them would give, whatever comes when; nothing is left behind."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from facespec.data.batches import ImageBatch, Preset, apply_preset
from facespec.models.networks import FaceNetwork, build_network
from facespec.models.receptive import Window
from facespec.responses.strongest import Ranking, Strongest, find_strongest_images, locate_window, reduce_maps
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock

CPU = torch.device("cpu")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU here")
NO_MAP = "responses of shape (3, %d): no map in them. Use a convolution or its ReLU."
LAYERS = ["trunk.relu1", "branches.expression.relu2", "branches.identity.relu2"]


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made() -> FaceNetwork:
    """Weights, norms and so all responses are small whole numbers: exact in float32, in any order of adding."""
    block = NetworkBlock(trunk="small_vgg", channels=[4, 5], convolutions=1, branch_after="conv1")
    network = build_network(block, {"expression": 7, "identity": 3}, channels=1, generator=seeded()).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(torch.randint(-2, 3, module.weight.shape, generator=seeded(3)))
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.0
        network.trunk.conv1.weight[2] = -1.0  # for images that are not negative, a unit that is never driven
    network.branches["identity"].train()
    return network


def pictures(n: int) -> torch.Tensor:
    """Images of few grey levels, of which some are equal."""
    images = torch.randint(0, 4, (n, 1, 9, 7), generator=seeded(5)).float()
    images[n // 2 :] = images[: n - n // 2].clone()
    return images


def sorted_by_hand(maps: np.ndarray, k: int, reduction: str = "max") -> list[list[tuple[float, int, int, int]]]:
    """Per unit, (response, image, row, column) of the k strongest, by sorting all."""
    found = []
    for unit in range(maps.shape[1]):
        entries = []
        for image, own in enumerate(maps[:, unit].astype(np.float64)):
            cells = [(-value, row, column) for (row, column), value in np.ndenumerate(own)]
            response = own.mean() if reduction == "mean" else own.max()
            entries.append((-response, image, *min(cells)[1:]))
        found.append([(-response, *rest) for response, *rest in sorted(entries)[:k]])
    return found


def as_lists(found: Strongest) -> list[list[tuple[float, int, int, int]]]:
    fields = (found.response, found.image, found.row, found.column)
    return [list(zip(*(own[unit].tolist() for own in fields), strict=True)) for unit in range(len(found.image))]


def cut(order: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    """Into parts of the sizes, over and over."""
    start = 0
    while start < len(order):
        size = sizes[0]
        yield order[start : start + size]
        start, sizes = start + size, [*sizes[1:], size]


@given(
    seed=st.integers(0, 999),
    shape=st.tuples(*(st.integers(1, most) for most in (13, 3, 3, 4))),
    k=st.integers(1, 6),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    levels=st.integers(1, 40),
    last=st.booleans(),
)
@settings(max_examples=150)
def test_a_ranking_is_what_sorting_everything_gives(
    seed: int, shape: tuple[int, ...], k: int, sizes: list[int], levels: int, last: bool
) -> None:
    """Few levels: ties between images and between cells are the rule."""
    generator = np.random.default_rng(seed)
    maps = generator.integers(-1, levels, shape).astype(np.float32)
    ranking = Ranking(k)
    for part in cut(generator.permutation(len(maps)), sizes):
        own = torch.from_numpy(maps[part])
        ranking.add(own.contiguous(memory_format=torch.channels_last) if last else own, part)
    assert as_lists(ranking.strongest()) == sorted_by_hand(maps, k)


def test_by_hand() -> None:
    maps = torch.zeros((4, 2, 2, 3))
    maps[0, 0, 1, 2], maps[1, 0, 0, 1], maps[3, 0, 1, 0] = 5.0, 7.0, 5.0
    maps[3, 0, 0, 2] = 5.0  # above the other 5 of this map
    ranking = Ranking(3)
    ranking.add(maps[[3, 2]], np.array([30, 20]))
    ranking.add(maps[[1, 0]], np.array([10, 0]))
    assert as_lists(ranking.strongest()) == [
        [(7.0, 10, 0, 1), (5.0, 0, 1, 2), (5.0, 30, 0, 2)],
        [(0.0, 0, 0, 0), (0.0, 10, 0, 0), (0.0, 20, 0, 0)],
    ]
    found = ranking.strongest()
    assert (found.response.dtype, found.image.dtype, found.row.dtype) == (np.float32, np.int64, np.int64)


def test_an_earlier_answer_stays_when_more_images_come() -> None:
    ranking = Ranking(2)
    ranking.add(torch.ones((1, 1, 2, 2)), np.array([8]))
    early = ranking.strongest()
    ranking.add(torch.full((1, 1, 2, 2), 3.0), np.array([9]))
    assert as_lists(early) == [[(1.0, 8, 0, 0)]]
    assert as_lists(ranking.strongest()) == [[(3.0, 9, 0, 0), (1.0, 8, 0, 0)]]


def test_means_have_no_place() -> None:
    """Maps of 2x2 quarters: means are exact."""
    maps = np.random.default_rng(2).integers(0, 5, (11, 3, 2, 2)).astype(np.float32)
    ranking = Ranking(4, "mean")
    for part in cut(np.arange(11)[::-1].copy(), [3]):
        ranking.add(torch.from_numpy(maps[part]), part)
    found = ranking.strongest()
    assert (found.row, found.column) == (None, None)
    expected = [[entry[:2] for entry in unit] for unit in sorted_by_hand(maps, 4, "mean")]
    pairs = zip(found.response.tolist(), found.image.tolist(), strict=True)
    assert [list(zip(*pair, strict=True)) for pair in pairs] == expected
    assert expected != [[entry[:2] for entry in unit] for unit in sorted_by_hand(maps, 4)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_reductions(layout: torch.memory_format) -> None:
    maps = (torch.rand((3, 2, 5, 4), generator=seeded()) - 0.7).contiguous(memory_format=layout)
    np.testing.assert_array_equal(reduce_maps(maps), maps.numpy().max(axis=(2, 3)))
    np.testing.assert_allclose(reduce_maps(maps, "mean"), maps.numpy().mean(axis=(2, 3)), rtol=1e-5)


def test_what_is_held_does_not_grow() -> None:
    ranking, maps = Ranking(3), torch.rand((40, 7, 6, 5), generator=seeded())
    sizes, alive = [], []
    for part in cut(np.arange(40), [4]):
        own = maps[part].clone()
        alive.append(weakref.ref(own))
        ranking.add(own, part)
        del own
        sizes.append(sum(value.nbytes for value in vars(ranking).values() if isinstance(value, np.ndarray)))
        assert all(value.base is None for value in vars(ranking).values() if isinstance(value, np.ndarray))
    assert set(sizes) == {7 * 3 * (4 + 8 + 8)}
    assert [ref() for ref in alive] == [None] * 10


def ask(network: FaceNetwork, seen: Any, layers: Any = LAYERS, **changes: Any) -> dict[str, Strongest]:
    return find_strongest_images(network, seen, layers, **({"k": 4, "device": CPU} | changes))


def in_batches(images: torch.Tensor, order: np.ndarray, size: int) -> Iterator[ImageBatch]:
    return (ImageBatch(images[part], part) for part in cut(order, [size]))


@pytest.mark.parametrize("size", [1, 4, 5, 100])
def test_all_layers_in_one_pass_in_any_order(size: int) -> None:
    network, images = made(), pictures(23)
    network.eval()
    with torch.no_grad():
        first = network.trunk(images)
        maps = {LAYERS[0]: first} | {
            f"branches.{task}.relu2": network.branches[task][:-1](first) for task in network.tasks
        }
    network.branches["identity"].train()
    order = np.random.default_rng(size).permutation(23)
    found = ask(network, in_batches(images, order, size))
    assert list(found) == LAYERS
    for name, own in found.items():
        expected = sorted_by_hand(maps[name].numpy(), 4)
        assert as_lists(own) == expected
        assert len({response for unit in expected for response, *_ in unit}) > 3  # not all alike
    assert as_lists(found[LAYERS[0]])[2] == [(0.0, i, 0, 0) for i in range(4)]


def test_responses_are_read_when_they_are_made() -> None:
    """A ReLU in place comes after the norm and would leave nothing below 0."""
    network = made()
    network.trunk.relu1.inplace = True
    found = ask(network, in_batches(pictures(5), np.arange(5), 5), ["trunk.norm1"], reduction="mean", k=5)
    assert (found["trunk.norm1"].response < 0).any()


def state(network: FaceNetwork) -> tuple[Any, ...]:
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules()]
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    return hooks, [module.training for module in network.modules()], weights


@pytest.mark.parametrize("broken", ["nothing", "a layer", "a map", "a response", "the images", "a batch"])
def test_the_network_comes_back_as_it_was(broken: str) -> None:
    network, images = made(), pictures(7)
    before = state(network)
    layers = {"a layer": [*LAYERS, "trunk.relu9"], "a map": [*LAYERS, "heads.identity"]}.get(broken, LAYERS)
    if broken == "a response":
        images[4, 0, 3, 3] = torch.nan

    def seen() -> Iterator[ImageBatch]:
        yield from in_batches(images, np.arange(7), 3)
        if broken == "the images":
            raise StudyError("a damaged shard")
        if broken == "a batch":
            yield ImageBatch(images[:, :, :1], np.arange(7))

    if broken == "nothing":
        ask(network, seen(), layers)
    else:
        with pytest.raises(StudyError) as caught:
            ask(network, seen(), layers)
        assert {
            "a layer": "this network has no layer 'trunk.relu9': did you mean 'trunk.relu1'? Allowed: 'trunk.conv1'",
            "a map": f"layer 'heads.identity': {NO_MAP % 3}",
            "a response": "layer 'trunk.relu1': a response to image 4 is not finite.",
            "the images": "a damaged shard",
            "a batch": "images of shape (7, 1, 1, 7)",
        }[broken] in str(caught.value)
    after = state(network)
    assert after[:2] == before[:2] and set(after[0]) == {0}
    assert all(torch.equal(tensor, before[2][name]) for name, tensor in after[2].items())
    network.eval()(pictures(2))["identity"].sum().backward()  # training goes on


def test_refusals() -> None:
    with pytest.raises(StudyError) as caught:
        ask(made(), [])
    assert str(caught.value) == "no images to rank."
    with pytest.raises(StudyError) as caught:
        ask(made(), in_batches(pictures(3), np.arange(3), 2), k=0)
    assert str(caught.value) == "k is 0: a ranking has at least one place."
    with pytest.raises(StudyError) as caught:
        ask(made(), in_batches(pictures(3), np.arange(3), 2), reduction="maxi")
    assert (
        str(caught.value)
        == "layer 'trunk.relu1': unknown reduction 'maxi': did you mean 'max'? Allowed: 'max', 'mean'."
    )
    with pytest.raises(StudyError) as caught:
        reduce_maps(torch.ones((3, 2)), "mean")
    assert str(caught.value) == NO_MAP % 2


@GPU
def test_a_gpu_gives_the_same_ranking() -> None:
    images = pictures(23)
    here = ask(made(), in_batches(images, np.arange(23), 5))
    there = ask(made(), in_batches(images, np.arange(23), 5), device=torch.device("cuda"))
    assert {name: as_lists(own) for name, own in there.items()} == {name: as_lists(own) for name, own in here.items()}


@pytest.mark.parametrize("image", [(300, 300), (48, 48), (61, 90), (401, 333), (256, 256)])
@pytest.mark.parametrize("window", [Window(0, 38, 5, 9), Window(99, 100, 200, 224), Window(0, 224, 0, 224)])
def test_the_way_back_through_resizing_and_cropping(image: tuple[int, int], window: Window) -> None:
    """What lies outside changes no pixel of the window; what lies inside does, by the gradient of the resizing."""
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
    seen = floats.grad[0, 0].numpy() > 0
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    assert stored == (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)


def test_images_taken_as_they_are_need_no_way_back() -> None:
    preset = Preset("small", 48, 1, resize=None, shift=4, flip=True, grey_probability=0.0)
    assert locate_window(Window(1, 9, 3, 48), preset, (48, 48)) == Window(1, 9, 3, 48)
