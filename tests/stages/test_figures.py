from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from facespec.data.faceset import FaceSet
from facespec.figures import style
from facespec.published.export_heatmaps import choose_examples
from facespec.published.export_pages import PAGES
from facespec.stages import figures as stage
from facespec.study.errors import StudyError
from facespec.study.maps import MapSet, scale_maps, upsample_maps
from facespec.study.paths import Paths
from facespec.study.preferred import PreferredSet
from facespec.study.storage import write_table
from facespec.study.tables_lesions import LESIONS, SEGREGATION

BARS = {
    "1B": [
        ("expression", "expression"),
        ("identity", "expression"),
        ("expression", "identity"),
        ("identity", "identity"),
    ],
    "1C": [("expression", "expression"), ("joint", "expression"), ("identity", "identity"), ("joint", "identity")],
}
BARS |= {"S1A": BARS["1B"], "S1B": BARS["1C"]}
ACCURACIES = [f"figure_{name}" for name in ("1", "1B", "1C", "S1A", "S1B")]
HEATMAPS = [f"figure_{name}" for name in ("2", "2A", "2B", "2C", "2D")]
BEYOND = [f"figure_{name}" for name in ("contrasts", "depth", "groundtruth", "lesion_classes", "lesions", "regions")]
PREFERRED = ["figure_3", "figure_S2B"]
NAMES = sorted([*ACCURACIES, *HEATMAPS, *PREFERRED, *BEYOND])


@pytest.fixture(scope="module")
def finished_study(analysed_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny study with every table that is drawn; a test that writes into it works on a copy."""
    paths = Paths(tmp_path_factory.mktemp("finished") / "study")
    shutil.copytree(analysed_study, paths.root, ignore=shutil.ignore_patterns("*.pickle"))
    tested, overall = LESIONS.read(paths.table("lesions")), SEGREGATION.read(paths.table("segregation"))
    # networks this tiny are hardly above chance, and have no drops to draw
    write_table(paths.table("lesions"), tested.assign(drop=tested["fraction"] * tested["depth"] / 2, reason=""))
    bounds = {"number": 0.3 * overall["depth"], "low": 0.1, "high": 0.8, "defined": 1.0, "reason": ""}
    write_table(paths.table("segregation"), overall.assign(**bounds))
    results(paths.root)
    return paths.root


@pytest.fixture
def study(finished_study: Path, tmp_path: Path) -> Paths:
    shutil.copytree(finished_study, tmp_path / "finished")
    return Paths(tmp_path / "finished")


@pytest.fixture(scope="module")
def drawn_and_pages(finished_study: Path) -> tuple[dict[str, Figure], dict[str, list[Figure]]]:
    """Every figure of that study, and every file's pages, not yet written; the stage itself writes nothing else."""
    found: dict[str, Figure] = {}
    pages: dict[str, list[Figure]] = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stage, "save_figure", lambda figure, stem: found.update({stem.name: figure}))
        patched.setattr(stage, "save_pages", lambda figures, path: pages.update({path.name: list(figures)}))
        stage.run(Paths(finished_study))
    return found, pages


@pytest.fixture(scope="module")
def drawn(drawn_and_pages: tuple[dict[str, Figure], dict[str, list[Figure]]]) -> dict[str, Figure]:
    return drawn_and_pages[0]


@pytest.fixture(scope="module")
def pages(drawn_and_pages: tuple[dict[str, Figure], dict[str, list[Figure]]]) -> dict[str, list[Figure]]:
    return drawn_and_pages[1]


def results(root: Path) -> dict[tuple[str, str, str], float]:
    """Both tables of two seeds; returns the height every bar should have."""
    heights, rows = {}, []
    for place, (figure, cells) in enumerate(BARS.items()):
        for slot, (trained_on, tested_on) in enumerate(cells):
            heights[figure, trained_on, tested_on] = 0.2 + 0.03 * (4 * place + slot)
            for seed, shift in ((1, -0.01), (2, 0.01)):
                for resample in range(-1, 110):
                    accuracy = (
                        0.2 + 0.03 * (4 * place + slot) + shift + (0.0005 * (resample % 7) if resample >= 0 else 0)
                    )
                    rows.append(
                        {
                            "figure": figure,
                            "trained_on": trained_on,
                            "tested_on": tested_on,
                            "role": "probe",
                            "source": "embedded faces",
                            "seed": seed,
                            "resample": resample,
                            "n": 35,
                            "chance": 0.1,
                            "accuracy": accuracy,
                        }
                    )
    table = pd.DataFrame(rows)
    decoding = table["figure"].isin(["1B", "S1A"])
    write_table(root / "Results" / "decoding.csv", table[decoding])
    write_table(root / "Results" / "accuracy.csv", table[~decoding])
    return heights


@pytest.mark.pipeline
def test_figures_are_written_as_pdf_and_png_with_the_same_bytes(study: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    some = {"figure_1B", "figure_2C", "figure_contrasts", "figure_groundtruth"}  # of all, for the time it takes
    monkeypatch.setattr(style, "DPI", 40)
    monkeypatch.setattr(
        stage, "save_figure", lambda figure, stem: stem.name in some and style.save_figure(figure, stem)
    )
    stage.run(study)
    where = study.results / "figures"
    first = {path.name: path.read_bytes() for path in where.iterdir()}
    assert sorted(first) == sorted(f"{name}.{suffix}" for name in some for suffix in ("pdf", "png"))
    merged = {name: (study.results / name).read_bytes() for name in PAGES.values()}
    shutil.rmtree(where)
    for name in merged:
        (study.results / name).unlink()
    stage.run(study)
    assert {path.name: path.read_bytes() for path in where.iterdir()} == first
    assert {name: (study.results / name).read_bytes() for name in merged} == merged


def test_bars_show_the_tables_beside_the_published_numbers(drawn: dict[str, Figure], tmp_path: Path) -> None:
    heights = results(tmp_path)
    assert sorted(drawn) == NAMES
    for figure, cells in BARS.items():
        published, reproduced = drawn[f"figure_{figure}"].axes
        assert published.get_title().startswith("published\n")
        assert reproduced.get_title() == "reproduced\nembedded faces"
        expected = [heights[figure, *cell] for cell in cells]
        np.testing.assert_allclose([patch.get_height() for patch in reproduced.patches], expected)
        assert [patch.get_height() for patch in published.patches] != [
            patch.get_height() for patch in reproduced.patches
        ]
    # by hand, from the paper: the identity network reads .967 of identities, the joint network .558 of FER2013
    assert round(drawn["figure_1B"].axes[0].patches[3].get_height(), 3) == 0.967
    assert round(drawn["figure_S1B"].axes[0].patches[1].get_height(), 3) == 0.558
    assert [len(axes.patches) for axes in drawn["figure_1"].axes] == [4] * 4


def test_heatmaps_lie_over_the_mean_face(drawn: dict[str, Figure], finished_study: Path) -> None:
    maps = MapSet.open(Paths(finished_study).heatmaps)
    for name in ("2A", "2C", "contrasts"):
        shown = drawn[f"figure_{name}"].axes[0].images[0].get_array()
        np.testing.assert_array_equal(shown, maps.mean_face)
    # joint network, expression, of the smaller seed, averaged here from the maps themselves
    mean = np.nanmean(scale_maps(maps.maps("joint", "expression", 5)), axis=0)
    np.testing.assert_allclose(
        drawn["figure_2A"].axes[4].images[1].get_array(), upsample_maps(mean, maps.size), atol=1e-6
    )


def test_single_faces_are_those_whose_maps_are_shown(drawn: dict[str, Figure], finished_study: Path) -> None:
    maps = MapSet.open(Paths(finished_study).heatmaps)
    faces = FaceSet.open(Paths(finished_study).faces("probe"))
    grid = np.array(drawn["figure_2D"].axes[:-1]).reshape(3, -1)
    rows = choose_examples(maps.labels)
    assert grid.shape == (3, len(rows)) == (3, 7)
    for column, row in zip(grid.T, rows, strict=True):
        label = maps.labels.iloc[row]
        (index,) = np.flatnonzero(faces.labels["stimulus"] == label["stimulus"])
        assert column[0].get_title() == label["expression"]
        for axes in column:
            np.testing.assert_array_equal(axes.images[0].get_array(), faces.images(np.array([index]))[0])
        for axes, network in zip(column[1:], ("joint", "expression"), strict=True):
            own = scale_maps(maps.maps(network, "expression", maps.seeds[0])[row][None])[0]
            if np.isnan(own).any():
                assert [text.get_text() for text in axes.texts] == ["blank"]
            else:
                np.testing.assert_allclose(axes.images[1].get_array(), upsample_maps(own, maps.size))


def test_every_network_has_a_page_per_convolution(pages: dict[str, list[Figure]], finished_study: Path) -> None:
    pictures = PreferredSet.open(Paths(finished_study).preferred)
    assert {name: len(of) for name, of in pages.items()} == {
        "Fig3_and_S_Fig2_merged_SPLITConv2d.pdf": 2,
        "Fig3_and_S_Fig2_merged_expConv2d.pdf": 2,
        "Fig3_and_S_Fig2_merged_idConv2d.pdf": 2,
    }
    for network, name in PAGES.items():
        titles = [page.get_suptitle() for page in pages[name]]
        assert titles == [
            f"{network.value} network, {layer} (depth {depth}), seed {pictures.seed}: "
            f"{len(pictures.best(network, layer))} units ({pictures.source})"
            for depth, layer in enumerate(pictures.layers(network), start=1)
        ]


def test_every_figure_names_its_data(drawn: dict[str, Figure], pages: dict[str, list[Figure]]) -> None:
    for name, figure in [*drawn.items(), *((name, page) for name, of in pages.items() for page in of)]:
        texts = [text.get_text() for text in figure.findobj(Text)]
        assert any("embedded faces" in text for text in texts), name


@pytest.mark.parametrize("name", [*HEATMAPS, *PREFERRED, *BEYOND])
def test_no_text_overlaps_another_or_leaves_the_page(
    drawn: dict[str, Figure], name: str, legible: Callable[[Figure], None]
) -> None:
    legible(drawn[name])


def test_a_missing_table_is_named(study: Paths) -> None:
    study.table("accuracy").unlink()
    with pytest.raises(StudyError) as caught:
        stage.run(study)
    assert str(caught.value) == f"{study.table('accuracy')}: no such file. `dvc repro` makes it."
    assert not (study.results / "figures").exists()


def test_heatmaps_of_other_faces_are_refused(study: Paths, relabel: Callable[..., None]) -> None:
    relabel(study.heatmaps, lambda table: table.replace({"stimulus": {table["stimulus"][3]: "nobody"}}))
    with pytest.raises(StudyError) as caught:
        stage.run(study)
    assert str(caught.value) == (
        f"{study.heatmaps}: not the heatmaps of {study.faces('probe')}: stimulus 'nobody' is not among them. "
        "`dvc repro heatmaps` makes them."
    )
    assert not (study.results / "figures").exists()
