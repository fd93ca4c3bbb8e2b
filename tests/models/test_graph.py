"""Networks cut behind a layer: where the cut lies, how nodes are grouped, and that the cut computes the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.nn import functional

from facespec.models import trunks
from facespec.models.graph import NetworkCut, cut_network
from facespec.models.networks import FaceNetwork
from facespec.study.errors import StudyError
from toys import Foreign, make_network, random_images, randomise_norms

Steps = Callable[[Any, torch.Tensor], Any]


def build(**options: Any) -> FaceNetwork:
    return randomise_norms(make_network(**options))


def make_foreign(steps: Steps, **parts: Callable[[], nn.Module]) -> Foreign:
    """A network of common parts and others."""
    common: dict[str, Callable[[], nn.Module]] = {
        "conv": lambda: nn.Conv2d(1, 4, 3),
        "norm": lambda: nn.BatchNorm2d(4),
        "relu": nn.ReLU,
        "next": lambda: nn.Conv2d(4, 4, 3, padding=1),
        "head": lambda: nn.Linear(4, 3),
    }
    network = randomise_norms(Foreign(steps, **common | parts))
    network.gate = nn.Parameter(torch.tensor([0.5, -1, 2, 0.1])[:, None, None])
    return network


def classify(network: Any, maps: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"only": network.head(maps.mean(dim=(2, 3)))}


def list_names(nodes: Iterable[fx.Node]) -> list[str]:
    """What nodes call, if modules."""
    return [str(node.target) if node.op == "call_module" else "-" for node in nodes]


def run_all(cut: NetworkCut, images: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        above = (*cut.unitwise, *cut.mixers, *cut.downstream)
        return cut.compute_logits(cut.run(above, cut.run_below(images), free=False))


def assert_computes(cut: NetworkCut, network: nn.Module) -> None:
    """To the last bits of float32, which folded batch norms change."""
    with torch.no_grad():
        torch.testing.assert_close(run_all(cut, random_images()), network(random_images()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "node"),
    [
        ("trunk.conv1", "trunk.relu1"),
        ("trunk.norm1", "trunk.relu1"),
        ("trunk.relu1", "trunk.relu1"),
        ("branches.identity.pool1", "branches.identity.pool1"),
        ("branches.identity.conv2", "branches.identity.relu2"),
        ("branches.identity.average", "branches.identity.average"),
        ("heads.identity", "heads.identity"),
    ],
)
def test_the_cut_lies_behind_norm_and_rectifier(layer: str, node: str) -> None:
    network = build(branch_after="conv1")
    cut = cut_network(network, layer)
    assert list_names([cut.node]) == [node] and cut.module(cut.node) is not network.get_submodule(node)
    assert_computes(cut, network)


POOL, AVERAGE, HEADS = ["trunk.pool1"], ["trunk.average"], ["heads.expression", "heads.identity"]


@pytest.mark.parametrize(
    ("layer", "groups"),
    [
        ("trunk.conv1", (POOL, POOL, ["trunk.conv2"], ["trunk.relu2", "trunk.average", *HEADS], [])),
        ("trunk.norm1", (POOL, POOL, ["trunk.conv2"], ["trunk.relu2", "trunk.average", *HEADS], [])),
        ("trunk.conv2", (AVERAGE, AVERAGE, HEADS, [], [])),
        ("trunk.average", ([], AVERAGE, HEADS, [], [])),
        ("heads.identity", ([], ["heads.identity"], [], [], ["heads.expression"])),
    ],
)
def test_nodes_of_a_trunk(layer: str, groups: tuple[list[str], ...]) -> None:
    network = build()
    cut = cut_network(network, layer)
    got = cut.unitwise, cut.frontier, cut.mixers, cut.downstream, cut.skip_inputs
    assert tuple(list_names(nodes) for nodes in got) == groups
    assert set(cut.run_below(random_images())) == {cut.node, *cut.skip_inputs}
    assert_computes(cut, network)


def test_nodes_of_branches() -> None:
    """All branches read a layer of the trunk; a layer of a branch is not read by the other branch."""
    tasks, network = ("expression", "identity"), build(branch_after="conv1")
    cut = cut_network(network, "trunk.conv1")
    assert list_names(cut.below)[1:] == ["trunk.conv1", "trunk.relu1"]  # behind the check of the images
    assert list_names(cut.unitwise) == list_names(cut.frontier) == [f"branches.{task}.pool1" for task in tasks]
    assert list_names(cut.mixers) == [f"branches.{task}.conv2" for task in tasks]
    cut = cut_network(network, "branches.identity.conv2")
    assert (list_names(cut.mixers), list_names(cut.skip_inputs), cut.downstream) == (HEADS[1:], HEADS[:1], ())
    assert list_names(cut.unitwise) == list_names(cut.frontier) == ["branches.identity.average"]


def test_nodes_of_vgg16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flattening is unitwise; dropout too, in evaluation mode."""
    monkeypatch.setattr(trunks, "VGG16_WIDTH", 8)
    monkeypatch.setattr(trunks, "VGG16_BLOCKS", ((2, 3), (3, 2), (2, 3, 3), (2, 3, 2), (3, 2, 3)))
    network = build(trunk="vgg16")
    cut = cut_network(network, "trunk.conv13")
    assert list_names(cut.unitwise) == ["trunk.pool5", "trunk.grid", "trunk.flatten"]
    assert (list_names(cut.frontier), list_names(cut.mixers)) == (["trunk.flatten"], ["trunk.fc6"])
    cut = cut_network(network, "trunk.fc6")
    names = list_names([cut.node, *cut.unitwise, *cut.mixers])
    assert names == ["trunk.relu_fc6", "trunk.dropout_fc6", "trunk.fc7"]


OTHER_MIXERS: dict[str, Steps] = {  # a unit's contribution cannot be subtracted
    "sum": lambda n, x: classify(n, (maps := n.conv(x)) + n.next(n.relu(maps))),
    "mean": lambda n, x: {"only": n.conv(x).mean(dim=1).flatten(1)},
    "flat": lambda n, x: {"only": n.conv(x).flatten(2).mean(dim=2)},
    "groups": lambda n, x: classify(n, n.groups(n.conv(x))),
    "reflected": lambda n, x: classify(n, n.reflected(n.conv(x))),
    "same": lambda n, x: classify(n, n.same(n.conv(x))),
    "output": lambda n, x: {"only": (maps := n.conv(x)), "other": n.next(maps)},
    # not a mixer, but the result depends on the order of its readers
    "in place": lambda n, x: classify(n, n.next(maps := n.conv(x)) * n.next(n.swish(n.identity(maps)))),
    "function in place": lambda n, x: classify(
        n, n.next(maps := n.conv(x)) * n.next(functional.relu(n.identity(maps), True))
    ),
    "keyword in place": lambda n, x: classify(
        n, n.next(maps := n.conv(x)) * n.next(functional.relu(n.identity(maps), inplace=True))
    ),
}


@pytest.mark.parametrize("name", OTHER_MIXERS)
def test_if_another_node_mixes_units_all_nodes_above_are_downstream(name: str) -> None:
    network = make_foreign(
        OTHER_MIXERS[name],
        groups=lambda: nn.Conv2d(4, 4, 3, groups=2),
        same=lambda: nn.Conv2d(4, 4, 3, padding="same"),
        reflected=lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        identity=nn.Identity,
        swish=lambda: nn.Hardswish(inplace=True),
    )
    cut = cut_network(network, "conv")
    assert (list_names([cut.node]), cut.frontier, cut.unitwise, cut.mixers) == (["conv"], (cut.node,), (), ())
    assert all(node in cut.downstream or node.op == "output" for node in cut.node.users)
    assert_computes(cut, network)


def test_rectifiers_and_pools_may_be_functions() -> None:
    network = make_foreign(
        lambda n, x: {"only": n.flat(torch.flatten(functional.max_pool2d(functional.relu(n.norm(n.conv(x))), 4), 1))},
        flat=lambda: nn.Linear(4 * 3 * 2, 3),
    )
    cut = cut_network(network, "conv")
    assert (cut.node.target, list_names(cut.mixers)) == (functional.relu, ["flat"])
    assert [node.target for node in cut.unitwise] == [functional.max_pool2d, torch.flatten]
    assert_computes(cut, network)


def test_norms_are_folded_in_the_cut_but_not_in_the_network() -> None:
    network = build()
    before = network.trunk.conv1.weight.clone()
    cut = cut_network(network, "trunk.conv2")
    assert not any("norm" in name for name in list_names(cut.node.graph.nodes))
    assert torch.equal(network.trunk.conv1.weight, before) and network.trunk.conv1.bias is None
    at_norm = cut_network(network, "trunk.norm1")
    assert [name for name in list_names(at_norm.node.graph.nodes) if "norm" in name] == ["trunk.norm1"]


def test_the_cut_evaluates_whatever_the_mode_of_the_network() -> None:
    """Dropout and norms have modes."""
    network = make_foreign(
        lambda n, x: classify(n, n.drop(n.next(n.pool(n.norm(n.pool(n.relu(n.conv(x)))))))),
        drop=nn.Dropout,
        pool=lambda: nn.AvgPool2d(2),
    )
    cut = cut_network(network.train(), "next")
    first = run_all(cut, random_images())
    assert network.drop.training and network.norm.training
    assert_computes(cut, network.eval())
    network.train()
    assert torch.equal(run_all(cut, random_images())["only"], first["only"])


def test_other_arguments_of_forward_have_their_defaults() -> None:
    class Optional(Foreign):
        def forward(self, images: torch.Tensor, scale: Any = 2, *more: Any, pair: Any = (1, 2), **rest: Any) -> Any:
            if rest.get("odd") or more or scale is None:
                raise AssertionError
            return {"only": self.head(self.conv(images).mean(dim=(2, 3))) * scale * pair[1]}

    network = Optional(classify, conv=lambda: nn.Conv2d(1, 4, 3), head=lambda: nn.Linear(4, 3))
    assert_computes(cut_network(network, "conv"), network)


def test_results_that_depend_on_weights_alone_are_no_skip_inputs() -> None:
    """They have no row per image."""
    network = make_foreign(lambda n, x: classify(n, torch.sigmoid(n.gate) * n.relu(n.norm(n.conv(x))) * n.gate))
    cut = cut_network(network, "conv")
    assert cut.skip_inputs == ()
    assert_computes(cut, network)


def test_numbers_below_that_nodes_above_read_are_refused() -> None:
    """The number of images differs when lesions share a batch."""
    network = make_foreign(lambda n, x: {"only": n.conv(x).view(x.size(0), -1)})
    message = r"step 'size' below the layer gives int, .* Instead of x\.view\(n, -1\), write x\.flatten\(1\)"
    with pytest.raises(StudyError, match=message):
        cut_network(network, "conv").run_below(random_images())


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        (lambda n, x: n.head(n.conv(x).mean(dim=(2, 3))), "Tensor"),
        (lambda n, x: [n.head(n.conv(x).mean(dim=(2, 3)))], "list"),
        (lambda n, x: {"only": [n.head(n.conv(x).mean(dim=(2, 3)))]}, "dict"),
    ],
)
def test_the_output_must_be_a_dict_of_logits(steps: Steps, kind: str) -> None:
    message = f"the network returns (immutable_)?{kind}: a dict of logits is needed, task -> tensor"
    with pytest.raises(StudyError, match=message):
        run_all(cut_network(make_foreign(steps), "conv"), random_images())
