"""Heatmaps borrow the network and give it back; faces are explained a batch at a time; what cannot be is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from facespec.analyses.heatmaps import compute_heatmaps, iterate_heatmaps
from facespec.data.batches import Preset, apply_preset
from facespec.data.chunks import FaceChunk, FaceSetDescription
from facespec.data.faceset import FaceSet, write_faceset
from facespec.models.layers import find_last_convolution
from facespec.models.networks import FaceNetwork, build_network
from facespec.study.errors import StudyError
from facespec.study.params import NetworkBlock
from facespec.study.vocabulary import Task

pytestmark = pytest.mark.usefixtures("one_thread")

TASKS = ("expression", "identity")
PRESET = Preset("toy", 17, 1, resize=None, shift=0, flip=False, grey_probability=0.0)
CPU = torch.device("cpu")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU here")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made(branch_after: str | None = None) -> FaceNetwork:
    block = NetworkBlock(trunk="small_vgg", channels=[4, 6], convolutions=2, branch_after=branch_after)
    network = build_network(block, {"expression": 7, "identity": 5}, channels=1, generator=seeded(1)).train()
    network(faces_like(9))  # batch norm has seen images: modes differ
    return network.eval()


def faces_like(n: int) -> torch.Tensor:
    return torch.rand((n, 1, 17, 11), generator=seeded(2)) * 2 - 1


def classes(n: int) -> dict[str, torch.Tensor]:
    draw = seeded(5)
    return {"expression": torch.randint(7, (n,), generator=draw), "identity": torch.randint(5, (n,), generator=draw)}


def both(name: str) -> dict[str, str]:
    return dict.fromkeys(TASKS, name)


def last(network: FaceNetwork) -> dict[str, str]:
    return {task: find_last_convolution(network, task) for task in TASKS}


class Refusing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, responses: torch.Tensor) -> torch.Tensor:
        return responses.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("a gradient came below the layer")


class Wall(nn.Module):
    def forward(self, responses: torch.Tensor) -> torch.Tensor:
        return Refusing.apply(responses)


def test_nothing_below_the_layer_gets_a_gradient() -> None:
    network, faces = made(), faces_like(3).requires_grad_()
    network.trunk.relu2 = Wall()
    with pytest.raises(RuntimeError, match="a gradient came below the layer"):
        network(faces)["identity"].sum().backward()
    network.zero_grad()
    for names in (both("trunk.relu2"), {"expression": "trunk.pool1", "identity": "trunk.relu4"}):
        compute_heatmaps(network, faces, names, classes(3))
        compute_heatmaps(network, faces.detach(), names, classes(3))
    assert faces.grad is None and all(parameter.grad is None for parameter in network.parameters())


WRONG: dict[str, Any] = {
    "nothing": {},
    "layer": {"layers": both("trunk.nowhere")},
    "no map": {"layers": both("trunk.average")},
    "image": {"images": torch.zeros(3, 1, 1, 1)},
    "class": {"targets": classes(3) | {"identity": torch.full((3,), 9)}},
}


@pytest.mark.parametrize("case", WRONG)
def test_the_network_comes_back_as_it_was(case: str) -> None:
    """No hook remains, and what was trained still is, also after an error within."""
    network = made()
    network.trunk.conv1.weight.requires_grad_(False)
    wanted = {name: (parameter.requires_grad, parameter.clone()) for name, parameter in network.named_parameters()}
    given = {"images": faces_like(3), "layers": both("trunk.relu3"), "targets": classes(3)} | WRONG[case]
    try:
        compute_heatmaps(network, **given)
        assert not WRONG[case]
    except StudyError:
        assert WRONG[case]
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == wanted[name][0] == (name != "trunk.conv1.weight")
        assert torch.equal(parameter, wanted[name][1]) and parameter.grad is None


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_where_gradients_are_off_maps_are_the_same(context: Any) -> None:
    network = made()
    wanted = compute_heatmaps(network, faces_like(3), last(network), classes(3))
    with context():
        got = compute_heatmaps(network, faces_like(3), last(network), classes(3))
        assert not torch.is_grad_enabled()
    assert all(torch.equal(got[task], wanted[task]) for task in TASKS)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    """Thirteen noisy faces of 17x17 px in shards of five."""
    images = np.random.Generator(np.random.PCG64(3)).integers(0, 256, (13, 17, 17), dtype=np.uint8)
    labels = pd.DataFrame({"stimulus": [f"{i:02d}" for i in range(13)]})
    labels = labels.assign(split="test", identity="", expression="", view="", session="")
    chunk, description = FaceChunk(images, labels), FaceSetDescription("probe", 5, None, {"source": "toy"})
    return write_faceset(tmp_path_factory.mktemp("heatmaps") / "faces", [chunk], description)


ORDER = np.array([12, 3, 3, 0, 7, 1, 11])


def collected(network: FaceNetwork, faces: FaceSet, **changes: Any) -> dict[str, np.ndarray]:
    targets: Mapping[str, np.ndarray | None] = changes.pop("targets", {t: c.numpy() for t, c in classes(7).items()})
    how = {"preset": PRESET, "batch_size": 3, "device": CPU} | changes
    found = list(iterate_heatmaps(network, faces, ORDER, last(network), targets, **how))
    return {task: np.concatenate([batch[task] for batch in found]) for task in targets}


@pytest.mark.parametrize("targets", ["labelled", "predicted"])
def test_faces_are_explained_in_their_order_whatever_the_batches(faces: FaceSet, targets: str) -> None:
    network = made()
    own = classes(7) if targets == "labelled" else dict.fromkeys(TASKS)
    wanted = compute_heatmaps(network, apply_preset(faces.images(ORDER), PRESET, None), last(network), own)
    given = {task: None if target is None else target.numpy() for task, target in own.items()}
    for batch_size in (1, 2, 3, 7, 100):
        for task, maps in collected(network, faces, targets=given, batch_size=batch_size).items():
            assert maps.shape == (7, 8, 8) and maps.dtype == np.float32
            np.testing.assert_allclose(maps, wanted[task], rtol=1e-4, atol=1e-8)


def test_the_same_bits_twice(faces: FaceSet) -> None:
    first, again = collected(made(), faces), collected(made(), faces)
    assert all(first[task].tobytes() == again[task].tobytes() for task in TASKS)


def test_one_batch_at_a_time_and_the_mode_comes_back(faces: FaceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    network, read = made().train(), []
    network.trunk.norm1.eval()
    images = FaceSet.images
    monkeypatch.setattr(FaceSet, "images", lambda self, indices: read.append(len(indices)) or images(self, indices))
    found = iterate_heatmaps(
        network, faces, ORDER, last(network), dict.fromkeys(TASKS), preset=PRESET, batch_size=3, device=CPU
    )
    assert len(next(found)["identity"]) == 3 and read == [3] and not network.training
    found.close()  # the reader has seen enough
    assert network.training and not network.trunk.norm1.training


@GPU
def test_a_gpu_makes_the_same_maps(faces: FaceSet) -> None:
    """Close to float32 sums in another order; full float32 is assumed, so TF32 is off."""
    network = made()
    here, there = collected(network, faces), collected(network, faces, device=torch.device("cuda"))
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}
    for task in TASKS:
        np.testing.assert_allclose(there[task], here[task], rtol=2e-3, atol=2e-3 * here[task].max())


def asked(network: FaceNetwork, layers: Mapping[str, str], targets: Mapping[str, torch.Tensor | None]) -> Any:
    return compute_heatmaps(network, faces_like(3), layers, targets)


LAYERS = (
    "'trunk.conv1', 'trunk.norm1', 'trunk.relu1', 'trunk.conv2', 'trunk.norm2', 'trunk.relu2', 'trunk.pool1', "
    "'trunk.conv3', 'trunk.norm3', 'trunk.relu3', 'trunk.conv4', 'trunk.norm4', 'trunk.relu4', 'trunk.average', "
    "'heads.expression', 'heads.identity'."
)
ELSEWHERE, ONE = "branches.identity.relu3", {"expression": None}
REFUSED: dict[str, tuple[Any, str]] = {
    "unknown layer": (
        lambda: asked(made(), both("trunk.relu9"), classes(3)),
        f"this network has no layer 'trunk.relu9': did you mean 'trunk.relu4'? Allowed: {LAYERS}",
    ),
    "unknown task": (
        lambda: asked(made(), {"identities": "trunk.relu4"}, {"identities": None}),
        "this network does not know task 'identities': did you mean 'identity'? Allowed: 'expression', 'identity'.",
    ),
    "no map": (
        lambda: asked(made(), both("trunk.average"), classes(3)),
        "layer 'trunk.average' has responses of shape (3, 6): no map in them.",
    ),
    "another task's layer": (
        lambda: asked(made("conv2"), {"expression": ELSEWHERE}, ONE),
        "the head of 'expression' does not read layer 'branches.identity.relu3': its maps would be empty.",
    ),
    "another task's layer, run": (
        lambda: asked(made("conv2"), both(ELSEWHERE), classes(3)),
        "the head of 'expression' does not read layer 'branches.identity.relu3': its maps would be empty.",
    ),
    "another task's layer, in a graph": (
        lambda: asked(made("conv2"), {Task.EXPRESSION: ELSEWHERE, Task.IDENTITY: "trunk.relu1"}, classes(3)),
        "the head of 'expression' does not read layer 'branches.identity.relu3': its maps would be empty.",
    ),
    "no task": (
        lambda: asked(made(), {}, {}),
        "layers for [] and targets for []: name at least one task, and each in both.",
    ),
    "a task without a layer": (
        lambda: asked(made(), {Task.IDENTITY: "trunk.relu4"}, classes(3)),
        "layers for ['identity'] and targets for ['expression', 'identity']: name at least one task, and each in both.",
    ),
    "too few classes": (
        lambda: asked(made(), both("trunk.relu4"), classes(2)),
        "targets of 'expression': torch.int64 of shape (2,), expected int64 (3,).",
    ),
    "no classes": (
        lambda: asked(made(), both("trunk.relu4"), {**classes(3), "identity": torch.zeros(3)}),
        "targets of 'identity': torch.float32 of shape (3,), expected int64 (3,).",
    ),
    "class above": (
        lambda: asked(made(), both("trunk.relu4"), {**classes(3), "identity": torch.tensor([1, 5, 0])}),
        "targets of 'identity' lie in 0 ... 5; the head has 5 classes, from 0.",
    ),
    "class below": (
        lambda: asked(made(), both("trunk.relu4"), {**classes(3), "identity": torch.tensor([1, -1, 4])}),
        "targets of 'identity' lie in -1 ... 4; the head has 5 classes, from 0.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_heatmap_is_refused(case: str) -> None:
    do, wanted = REFUSED[case]
    with pytest.raises(StudyError) as caught:
        do()
    assert str(caught.value) == wanted


def test_every_face_needs_a_class(faces: FaceSet) -> None:
    with pytest.raises(StudyError) as caught:
        collected(made(), faces, targets={"expression": None, "identity": np.zeros(8, dtype=np.int64)})
    assert str(caught.value) == "targets of 'identity': 8 classes for 7 images."


def test_no_image_no_map(faces: FaceSet) -> None:
    maps = compute_heatmaps(made(), faces_like(0), both("trunk.relu3"), classes(0))
    assert {task: tuple(own.shape) for task, own in maps.items()} == dict.fromkeys(TASKS, (0, 8, 5))
    none = np.array([], dtype=np.int64)
    found = iterate_heatmaps(
        made(), faces, none, both("trunk.relu3"), dict.fromkeys(TASKS), preset=PRESET, batch_size=3, device=CPU
    )
    assert list(found) == []
