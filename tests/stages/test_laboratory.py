"""A laboratory: five pictures per person in a folder tree, a torchvision network with its weights, all analyses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torchvision.models import squeezenet1_1

from facespec.data.faceset import FaceSet
from facespec.figures.style import settle_layout, use_study_style
from facespec.stages import data, figures, heatmaps, init
from facespec.stages.faces_check import check_faces
from facespec.stages.figure_list import FIGURES
from facespec.study.maps import MapSet
from facespec.study.paths import Paths
from facespec.study.tables import ACCURACY, PREFERRED, UNITS, VERDICTS
from facespec.study.tables_lesions import LESIONS
from facespec.study.vocabulary import NETWORKS
from toys import TINY, Analyse, FitNetworks

pytestmark = pytest.mark.pipeline

PEOPLE, PICTURES = 6, 5
LAYERS = ("network.features.3.squeeze", "network.features.6.squeeze")
MY_NETWORKS = """
import torch
from torch import nn
from torchvision.models import squeezenet1_1

class FromGrey(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images.expand(-1, 3, -1, -1))

def load(classes):
    network = squeezenet1_1(num_classes=classes)
    network.load_state_dict(torch.load(f"{FOLDER}/{classes}.pth", weights_only=True))
    return FromGrey(network)

def expression():
    return load(7)

def identity():
    return load(9)

def joint():
    return load(16)
"""


def write_folders(directory: Path, faces: FaceSet) -> None:
    """A folder per person; pictures higher than wide."""
    for number in range(PEOPLE * PICTURES):
        person, picture = divmod(number, PICTURES)
        path = directory / f"Person_{person}" / f"{picture:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(faces.images(np.array([number]))[0]).resize((40, 50)).save(path, quality=95)


def lay_out_figure(figure: Figure, stem: Path) -> None:
    """A third of the work of `save_figure`, with all that can go wrong with strange numbers and names."""
    with use_study_style():
        settle_layout(figure)
    stem.with_suffix(".png").parent.mkdir(exist_ok=True)
    stem.with_suffix(".png").touch()


@pytest.fixture(scope="module")
def laboratory(
    tiny_study: Path, fit_networks: FitNetworks, analyse: Analyse, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Paths, list[str]]:
    """Its study, as the two commands of docs/networks.md make it, and what `init` and the faces' check said."""
    directory, said = tmp_path_factory.mktemp("laboratory"), list[str]()
    write_folders(directory / "people", FaceSet.open(tiny_study / "data" / "expression"))
    with torch.random.fork_rng():
        for classes in (7, 9, 16):
            torch.manual_seed(classes)
            torch.save(squeezenet1_1(num_classes=classes).state_dict(), directory / f"{classes}.pth")
    (directory / "my.py").write_text(MY_NETWORKS.replace("{FOLDER}", str(directory)))
    settings = [
        *(setting for setting in TINY if not setting.startswith(("seeds", "preferred", "decoding.identity"))),
        "seeds=[5]",
        f"network.layers=[{', '.join(LAYERS)}]",
        f"data.identity.source={directory / 'people'}",
        f"decoding.identity_people={PEOPLE}",
        f"decoding.identity_test={PEOPLE}",
        "preferred.steps=2",
        "preferred.starts=1",
    ]
    paths = Paths(directory / "study")
    params = init.run(paths.root, settings=settings, networks=directory / "my.py", report=said.append)
    data.build(paths, params.data, sources={}, workers=1)
    check_faces(paths, params, report=said.append)
    fit_networks(paths, params)
    heatmaps.run(paths, params, device="cpu")
    analyse(paths, params)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "save_figure", lay_out_figure)
        figures.run(paths)
    return paths, said


def test_the_door_says_what_it_found(laboratory: tuple[Paths, list[str]]) -> None:
    paths, said = laboratory
    for network in NETWORKS:
        assert any(line.startswith(f"{network}: 2 convolutions, trunk.{LAYERS[0]}") for line in said)
    faces = FaceSet.open(paths.faces("identity"))
    assert faces.source == "people"
    assert faces.labels.groupby(["identity", "split"]).size().unstack().to_numpy().tolist() == [[1, 4]] * PEOPLE


def test_every_figure_and_verdict_is_there(laboratory: tuple[Paths, list[str]]) -> None:
    paths, _ = laboratory
    assert all(paths.figure(name, "png").is_file() for name in FIGURES)
    assert set(VERDICTS.read(paths.verdicts.with_suffix(".csv"))["claim"]) == {f"C{number}" for number in range(1, 10)}
    rows = ACCURACY.read(paths.table("accuracy")).query("figure == 'S1B' and tested_on == 'identity'")
    assert set(rows["source"]) == {"people"} and set(rows["n"]) == {PEOPLE}


def test_its_layers_are_analysed(laboratory: tuple[Paths, list[str]]) -> None:
    paths, _ = laboratory
    units = UNITS.read(paths.table("depth_units")).groupby(["trained_on", "layer"])["unit"].nunique()
    assert sorted(set(units)) == [16, 32] and len(units) == 2 * 4  # three networks and the untrained one
    assert PREFERRED.read(paths.table("preferred")).groupby("layer")["unit"].nunique().tolist() == [16, 32]
    lesioned = LESIONS.read(paths.table("lesions"))
    assert set(lesioned["layer"]) == {f"trunk.{layer}" for layer in LAYERS}
    assert MapSet.open(paths.heatmaps).maps("joint", "identity", 5).std() > 0
