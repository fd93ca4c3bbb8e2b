"""Heads fitted to networks of a user's own in a tiny study: what stands for training, and what analyses make of it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from facespec.analyses.decoding import fit_linear_head
from facespec.data.batches import apply_preset
from facespec.data.faceset import FaceSet
from facespec.data.splits import encode_classes, hold_out
from facespec.models.user_networks import load_network as call_user
from facespec.stages import accuracy, decoding, depth, finetune, fingerprints, heatmaps, init, lesions, train, untrained
from facespec.stages.network_files import load_network
from facespec.study.documents import read_mapping
from facespec.study.errors import StudyError
from facespec.study.maps import MapSet
from facespec.study.params import Params
from facespec.study.paths import Paths
from facespec.study.seeds import generator
from facespec.study.tables import ACCURACY, UNITS
from facespec.study.tables_lesions import LESIONS
from facespec.study.vocabulary import NETWORKS
from toys import USER_NETWORKS, FitNetworks, change_params


@pytest.fixture(scope="module")
def study(
    tiny_study: Path, params: Params, fit_networks: FitNetworks, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Paths, Params]:
    """Faces of the tiny study, and the user's networks with the heads that are fitted to them."""
    paths = Paths(tmp_path_factory.mktemp("own") / "study")
    shutil.copytree(tiny_study, paths.root)
    file = paths.root / "networks.py"
    file.write_text(USER_NETWORKS)
    params = change_params(params, "network", file=str(file))
    params = params.model_copy(update={"seeds": [5]})
    fit_networks(paths, params)
    return paths, params


def compute_features(file: Path, function: str, faces: FaceSet, rows: np.ndarray) -> np.ndarray:
    """The average of the last map of a user's network, float32 (n, units): its layers called one after the other."""
    with torch.random.fork_rng(), torch.no_grad():
        own = call_user(f"{file}:{function}", option="x", seed=5).eval()
        images = torch.from_numpy(faces.images(rows))[:, None].float() / 127.5 - 1  # mean and sd 0.5
        maps = own.norm(own.first(images.expand(-1, 3, -1, -1))).relu()  # type: ignore[operator,union-attr]
        maps = own.last(torch.nn.functional.max_pool2d(maps, 2)).relu()  # type: ignore[operator,union-attr]
    return maps.mean((2, 3)).numpy()


@pytest.mark.parametrize(("stage", "role"), [("train", "identity"), ("finetune", "probe")])
@pytest.mark.parametrize("network", ["identity", "joint"])
def test_heads_are_the_decoders_of_the_users_features(
    study: tuple[Paths, Params], stage: str, role: str, network: str
) -> None:
    paths, params = study
    faces = FaceSet.open(paths.faces(role))
    if stage == "train":
        rows = np.flatnonzero(faces.labels["split"] == "train")
        codes, names = encode_classes(faces.labels.iloc[rows], "identity")
    else:
        rows, _ = hold_out(faces.labels, params.split, generator(params.split.seed, "split"))
        codes, names = encode_classes(faces.labels, "identity")
        codes = codes[rows]
    features = compute_features(Path(str(params.network.file)), network, faces, rows)
    weight, bias = fit_linear_head(
        features, codes, classes=len(names), penalty=params.decoding.penalty, iterations=params.decoding.iterations
    )
    expected = features @ weight.T + bias
    checkpoint = load_network(paths, stage, network, 5)
    with torch.no_grad():
        got = checkpoint.network(apply_preset(faces.images(rows), checkpoint.preset, None))["identity"].numpy()
    assert np.allclose(got, expected, atol=2e-3 * expected.std())
    history = pd.read_csv(paths.history(stage, network, 5))
    row = history[history["task"] == "identity"].iloc[0]
    assert row["accuracy"] == pytest.approx((expected.argmax(axis=1) == codes).mean(), abs=1e-3)
    shares = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    assert row["loss"] == pytest.approx(-np.log(shares[np.arange(len(codes)), codes]).mean(), rel=1e-3)


def test_both_checkpoints_of_a_network_have_the_users_trunk_and_the_control_has_not(
    study: tuple[Paths, Params],
) -> None:
    paths, _ = study
    trunks = [
        load_network(paths, stage, network, 5).network.trunk.state_dict()
        for stage, network in (("train", "joint"), ("finetune", "joint"), ("finetune", "identity"))
    ]
    control = load_network(paths, "untrained", "untrained", 5).network.trunk.state_dict()
    assert all(torch.equal(values, trunks[1][key]) for key, values in trunks[0].items())
    for other in (trunks[2], control):
        assert other.keys() == trunks[0].keys() and not torch.equal(other["last.weight"], trunks[0]["last.weight"])


def test_every_analysis_reads_them(study: tuple[Paths, Params]) -> None:
    paths, params = study
    for stage in (decoding, accuracy, heatmaps, depth):
        stage.run(paths, params, device="cpu")
    lesions.run(paths, params, device="cpu", workers=1)
    for table in ("decoding", "accuracy"):
        rows = ACCURACY.read(paths.table(table))
        assert set(rows["trained_on"]) >= {"expression", "identity"} and rows["accuracy"].notna().all()
    assert MapSet.open(paths.heatmaps).maps("joint", "identity", 5).std() > 0
    units = UNITS.read(paths.table("depth_units")).groupby("layer")["unit"].nunique().to_dict()
    assert units == {"trunk.relu": 4, "trunk.relu_2": 9}
    assert set(LESIONS.read(paths.table("lesions"))["layer"]) == {"trunk.first", "trunk.last"}


def test_another_content_of_the_file_makes_checkpoints_anew(study: tuple[Paths, Params], tmp_path: Path) -> None:
    paths, _ = study
    copy = Paths(tmp_path / "copy")
    file = tmp_path / "networks.py"
    file.write_text(USER_NETWORKS)
    init.run(copy.root, profile="quick", networks=file)
    before = read_mapping(copy.fingerprints)
    file.write_text(USER_NETWORKS.replace("relu(self.last", "leaky_relu(self.last"))
    fingerprints.run(copy)
    after = read_mapping(copy.fingerprints)
    assert {name for name in before if before[name] != after[name]} == {"train", "finetune", "untrained"}
    file.unlink()
    with pytest.raises(StudyError, match=f"^network: no file {re.escape(str(file))}, which makes the networks"):
        fingerprints.run(copy)
    own = paths.root / "networks.py"
    own.write_text(USER_NETWORKS + "\n")
    try:
        with pytest.raises(StudyError, match=r"joint-5.safetensors: its weights were made by .*networks.py, which has"):
            load_network(paths, "train", "joint", 5)
    finally:
        own.write_text(USER_NETWORKS)


def test_the_door_says_what_it_found_and_refuses_what_is_missing(tmp_path: Path) -> None:
    file, lines = tmp_path / "networks.py", list[str]()
    file.write_text(USER_NETWORKS)
    params = init.run(tmp_path / "study", profile="quick", networks=file, report=lines.append)
    assert params.network.file == str(file)
    assert lines == [
        f"{name}: 2 convolutions, trunk.first to trunk.last; 9 units in the last map; images of 3 px or more"
        for name in NETWORKS
    ]
    file.write_text(USER_NETWORKS.replace("def joint", "def both"))
    with pytest.raises(StudyError, match=r"networks\.py: no function 'joint'"):
        init.run(tmp_path / "other", profile="quick", networks=file)
    bare = "self.last = nn.Conv2d(4, 9, 3, padding=1)\n        self.scale = nn.Parameter(torch.ones(9, 1, 1))"
    source = USER_NETWORKS.replace("self.last = nn.Conv2d(4, 9, 3, padding=1)", bare)
    file.write_text(source.replace("self.last(maps)", "self.last(maps) * self.scale"))
    with pytest.raises(StudyError, match="weights cannot be drawn anew, as the untrained control needs: scale"):
        init.run(tmp_path / "other", profile="quick", networks=file)
    with pytest.raises(StudyError, match=r"branch_after to null"):
        init.run(tmp_path / "other", profile="quick", networks=file, settings=["network.branch_after=conv1"])
    assert not (tmp_path / "other").exists()


def test_the_documented_networks_are_taken(project: Path, tmp_path: Path) -> None:
    (source,) = re.findall(r"^```python\n# my.py\n(.*?)^```$", (project / "docs/networks.md").read_text(), re.M | re.S)
    (tmp_path / "my.py").write_text(source)
    lines: list[str] = []
    layers = "network.layers=[network.conv1, network.layer4.1.conv2]"
    init.run(tmp_path / "mine", profile="quick", networks=tmp_path / "my.py", settings=[layers], report=lines.append)
    assert [line.partition(":")[0] for line in lines] == list(NETWORKS)
    assert "2 convolutions, trunk.network.conv1 to trunk.network.layer4.1.conv2; 512 units" in lines[0]


def test_a_users_architecture_is_trained(tiny_study: Path, params: Params, tmp_path: Path) -> None:
    paths, file = Paths(tmp_path / "study"), tmp_path / "networks.py"
    paths.root.mkdir()
    (paths.root / "data").symlink_to(tiny_study / "data")
    file.write_text(USER_NETWORKS)
    params = change_params(params, "network", trunk=f"{file}:joint")
    params = change_params(change_params(params, "train", epochs=1), "finetune", epochs=1)
    for name in ("identity", "joint"):
        train.run(paths, params, network=NETWORKS[NETWORKS.index(name)], seed=5, device="cpu")  # type: ignore[arg-type]
    finetune.run(paths, params, network=NETWORKS[1], seed=5, device="cpu")
    untrained.run(paths, params, seed=5, device="cpu")
    start = load_network(paths, "untrained", "untrained", 5).network.trunk.state_dict()
    trained = load_network(paths, "train", "identity", 5)
    tuned = load_network(paths, "finetune", "identity", 5).network.trunk.state_dict()
    end = trained.network.trunk.state_dict()
    assert not torch.equal(start["last.weight"], end["last.weight"])
    assert not torch.equal(tuned["last.weight"], end["last.weight"])
    assert (start["last.weight"] - end["last.weight"]).abs().mean() < 0.2 * start["last.weight"].abs().mean()
    assert len(trained.history) == 1
