"""Trunks: vgg16 is torchvision's, number by number; dropout and pooling compute what they should."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.vgg import VGG, cfgs, make_layers

from facespec.models import trunks
from facespec.models.networks import FaceNetwork
from facespec.models.trunks import Dropout, FixedGrid, GlobalAverage, build_sections, find_smallest_image, measure_width
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock
from toys import make_network, random_images, seeded

VGG16 = NetworkBlock(trunk="vgg16", channels=[3], convolutions=1, branch_after=None)
SMALL = NetworkBlock(trunk="small_vgg", channels=[4, 6, 10], convolutions=2, branch_after=None)


@pytest.fixture(scope="module")
def networks() -> tuple[FaceNetwork, VGG]:
    """Our vgg16 and torchvision's, with the same weights in the same memory (half a gigabyte, once)."""
    ours = make_network(trunk="vgg16", classes={"identity": 5}, channels=3)
    with torch.device("meta"):
        theirs = VGG(make_layers(cfgs["D"], batch_norm=False), num_classes=5, init_weights=False)
    weights = zip(theirs.state_dict(), ours.state_dict().values(), strict=True)  # both are in depth order
    theirs.load_state_dict(dict(weights), assign=True)
    return ours, theirs.eval()


@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (2, 3, 33, 50), (1, 3, 224, 224)])
def test_vgg16_is_torchvisions(networks: tuple[FaceNetwork, VGG], shape: tuple[int, ...]) -> None:
    """The same weights give the same logits, also if the last map is not 7x7 and is averaged to it.

    Heads start near 0; logits are compared relative to their size, to float32 sums of thousands of terms.
    """
    ours, theirs = networks
    images = random_images(*shape)
    with torch.inference_mode():
        logits, maps = theirs(images), theirs.features(images)
        scale = float(logits.abs().max())
        torch.testing.assert_close(ours(images)["identity"], logits, rtol=1e-4, atol=1e-4 * scale)
        ours_maps = ours.trunk[: len(theirs.features)](images)
        torch.testing.assert_close(ours_maps, maps, rtol=1e-4, atol=1e-4 * float(maps.max()))
    assert scale > 0 and logits.std() > 0


def test_vgg16_has_torchvisions_size(networks: tuple[FaceNetwork, VGG]) -> None:
    """torchvision documents 138,357,544 parameters with 1,000 classes; ours has 5."""
    assert sum(p.numel() for p in networks[0].parameters()) == 138_357_544 - 995 * 4097


def test_vgg16_names_its_layers() -> None:
    with torch.device("meta"):
        names = list(build_sections(VGG16, channels=3))
    assert [name for name in names if name.startswith("conv")] == [f"conv{i}" for i in range(1, 14)]
    assert [names[names.index(f"pool{i}") - 1] for i in range(1, 6)] == ["relu2", "relu4", "relu7", "relu10", "relu13"]
    assert names[-8:] == ["grid", "flatten", "fc6", "relu_fc6", "dropout_fc6", "fc7", "relu_fc7", "dropout_fc7"]
    assert (measure_width(VGG16), find_smallest_image(VGG16)) == (4096, 32)


def test_the_small_trunk_has_no_pool_after_its_last_block() -> None:
    """Two pools for three blocks, so that 17x11 px end as 4x2 responses per unit."""
    maps, shapes = random_images(2), []
    for name, module in make_network((4, 6, 10), convolutions=2).trunk.named_children():
        maps = module(maps)
        if name.startswith("relu"):
            shapes.append(tuple(maps.shape))
    assert shapes == [(2, 4, 17, 11)] * 2 + [(2, 6, 8, 5)] * 2 + [(2, 10, 4, 2)] * 2
    assert maps.shape == (2, 10)
    assert (measure_width(SMALL), find_smallest_image(SMALL), name) == (10, 4, "average")


def test_no_relu_works_in_place() -> None:
    """A response that was recorded before a ReLU must not change."""
    with torch.device("meta"):
        for block in (SMALL, VGG16):
            assert not [m for m in build_sections(block, channels=1).values() if isinstance(m, nn.ReLU) and m.inplace]


def test_the_global_average_is_the_mean_over_the_map() -> None:
    maps = torch.tensor([[[[1.0, 2.0, 3.0]], [[4.0, 5.0, 9.0]]], [[[0.0, 0.0, 3.0]], [[-1.0, 1.0, 0.0]]]])
    assert torch.equal(GlobalAverage()(maps), torch.tensor([[2.0, 6.0], [1.0, 0.0]]))


def test_a_map_of_the_size_of_the_grid_is_unchanged_and_others_are_averaged() -> None:
    maps = torch.rand((2, 3, 7, 7), generator=seeded())
    assert FixedGrid(7)(maps) is maps
    means = maps[:, :, :6, :4].unflatten(3, (2, 2)).unflatten(2, (2, 3)).mean(dim=(3, 5))
    torch.testing.assert_close(FixedGrid(2)(maps[:, :, :6, :4]), means)


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_dropout_zeroes_its_share_and_preserves_the_mean(share: float) -> None:
    """Within 4 sd of 40,000 independent draws; the others are scaled up."""
    dropout = Dropout(share).train()
    dropout.generator = seeded()
    responses = dropout(torch.full((200, 200), 3.0))
    zeros = (responses == 0).float().mean()
    assert abs(zeros - share) < 4 * (share * (1 - share) / 40_000) ** 0.5
    torch.testing.assert_close(responses[responses != 0].unique(), torch.tensor([3 / (1 - share)]))


def test_dropout_draws_from_its_generator_alone() -> None:
    ones, dropout = torch.ones(50), Dropout()
    assert torch.equal(dropout.eval()(ones), ones)
    with pytest.raises(StudyError, match=r"call network\.draw_from\(generator\) before training, or network\.eval\(\)"):
        dropout.train()(ones)
    dropout.generator = seeded(3)
    first, second = dropout(ones), dropout(ones)
    assert not torch.equal(first, second)
    dropout.generator = seeded(3)
    assert torch.equal(dropout(ones), first)


def test_every_dropout_of_a_network_draws_from_one_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trunks, "VGG16_WIDTH", 16)
    monkeypatch.setattr(trunks, "VGG16_BLOCKS", ((2,),) * 5)
    network, images = make_network(trunk="vgg16").train(), random_images(2, 1, 32, 32)
    generator = seeded(3)
    network.draw_from(generator)
    assert [m.generator for m in network.modules() if isinstance(m, Dropout)] == [generator, generator]
    assert not torch.equal(network(images)["identity"], network(images)["identity"])
    network.draw_from(None)
    with pytest.raises(StudyError, match="draw_from"):
        network(images)
