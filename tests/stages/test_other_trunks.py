"""A tiny study with a torchvision model: what the pipeline trains and tabulates, and what it refuses at the door."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from facespec.data.faceset import FaceSet
from facespec.models.layers import list_layers
from facespec.stages import depth, heatmaps, init, lesions, preferred, train
from facespec.stages.network_files import load_network
from facespec.study.errors import StudyError
from facespec.study.maps import MapSet
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.tables import HEATMAPS, PREFERRED, UNITS
from facespec.study.tables_lesions import LESION_RANKING
from facespec.study.vocabulary import NETWORKS
from toys import FitNetworks, change_params

LAYERS = ["layer4.1.conv1", "layer4.1.conv2"]
RESPONSES = {("trunk.layer4.1.relu", 19), ("trunk.layer4.1.bn2", 20)}


@pytest.fixture(scope="module")
def study(
    tiny_study: Path, params: Params, fit_networks: FitNetworks, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Paths, Params]:
    """Faces of the tiny study, and the networks of one seed, trained as briefly as possible."""
    paths = Paths(tmp_path_factory.mktemp("resnet") / "study")
    shutil.copytree(tiny_study, paths.root)
    params = change_params(params, "network", trunk="resnet18", layers=LAYERS)
    params = change_params(params, "train", epochs=1)
    params = change_params(params, "finetune", epochs=1)
    params = change_params(params, "preferred", steps=1, starts=1)
    params = params.model_copy(update={"seeds": [5]})
    fit_networks(paths, params)
    return paths, params


def test_a_second_training_gives_the_same_bits(study: tuple[Paths, Params], tmp_path: Path) -> None:
    paths, params = study
    again = Paths(tmp_path / "again")
    again.root.mkdir()
    (again.root / "data").symlink_to(paths.root / "data")
    train.run(again, params, network=NETWORKS[0], seed=5, device="cpu")
    file = paths.checkpoint("train", NETWORKS[0], 5)
    assert again.checkpoint("train", NETWORKS[0], 5).read_bytes() == file.read_bytes()


def test_heatmaps_have_the_size_of_the_last_map(study: tuple[Paths, Params]) -> None:
    paths, params = study
    heatmaps.run(paths, params, device="cpu")
    assert set(HEATMAPS.read(paths.table("heatmaps"))["layer"]) == {"trunk.maps"}
    maps = MapSet.open(paths.heatmaps).maps("joint", "identity", 5)
    assert maps.shape[1:] == (1, 1)  # of 32 px


def test_units_of_the_chosen_layers_are_analysed(study: tuple[Paths, Params]) -> None:
    paths, params = study
    depth.run(paths, params, device="cpu")
    table = UNITS.read(paths.table("depth_units"))
    assert set(zip(table["layer"], table["depth"], strict=True)) == RESPONSES
    assert table.groupby("layer")["unit"].nunique().to_dict() == {"trunk.layer4.1.relu": 512, "trunk.layer4.1.bn2": 512}


def test_stimuli_of_the_chosen_layers_are_optimised(study: tuple[Paths, Params]) -> None:
    paths, params = study
    params = change_params(params, "network", layers=LAYERS)
    preferred.run(paths, params, device="cpu")
    table = PREFERRED.read(paths.table("preferred"))
    assert set(zip(table["layer"], table["depth"], strict=True)) == RESPONSES
    negative = table[(table["kind"] == "image") & (table["response"] < 0)]
    assert set(negative["layer"]) <= {"trunk.layer4.1.bn2"}  # what a block adds has no rectifier
    assert negative["reason"].str.startswith("below 0").all()


def test_the_chosen_layers_are_lesioned(study: tuple[Paths, Params]) -> None:
    paths, params = study
    lesions.run(paths, params, device="cpu", workers=1)
    ranking = LESION_RANKING.read(paths.table("lesion_ranking"))
    assert set(zip(ranking["layer"], ranking["depth"], strict=True)) == {
        ("trunk.layer4.1.conv1", 19),
        ("trunk.layer4.1.conv2", 20),
    }


def test_networks_of_a_seed_begin_with_the_untrained_trunk(study: tuple[Paths, Params]) -> None:
    paths, _ = study
    network = load_network(paths, "untrained", "untrained", 5).network
    assert [layer.name for layer in list_layers(network)] == [f"trunk.{name}" for name in LAYERS]
    faces = FaceSet.open(paths.faces("probe"), role="probe")
    assert (network.channels, network.width) == (faces.channels, 512)
    assert np.isfinite(network.heads["identity"].weight.detach().numpy()).all()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["network.trunk=resnet81"], "did you mean 'resnet18'"),
        (["network.trunk=alexnet"], "alexnet takes images of 63 px or more, got 48 px"),
        (
            ["network.trunk=resnet18", "network.layers=[conv9]"],
            "resnet18 has no convolution 'conv9': did you mean 'conv1'",
        ),
        (["network.trunk=resnet18", "network.weights=none.pth"], "none.pth: no such file"),
        (["network.layers=[conv9]"], "small_vgg has no convolution 'conv9'"),
    ],
)
def test_init_refuses_what_cannot_be_trained(tmp_path: Path, settings: list[str], problem: str) -> None:
    with pytest.raises(StudyError, match=problem):
        init.run(tmp_path / "study", settings=settings)
    assert not (tmp_path / "study").exists()


def test_units_that_cannot_be_lesioned_are_refused_before_training(tmp_path: Path) -> None:
    """In DenseNet, units are concatenated with others before a norm, behind which a silent one would wake."""
    trunk = "network.trunk=densenet121"
    with pytest.raises(StudyError, match=r"61 of 120 convolutions of densenet121 cannot be lesioned.*\[features.conv0"):
        init.run(tmp_path / "study", settings=[trunk])
    init.run(tmp_path / "study", settings=[trunk, "network.layers=[features.denseblock1.denselayer1.conv1]"])
