from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from facespec.data.faceset import FaceSet
from facespec.figures import style
from facespec.published.export import PAGES
from facespec.stages import figures as stage
from facespec.stages.accuracies import read_accuracies
from facespec.stages.figure_list import FIGURES
from facespec.study.errors import StudyError
from facespec.study.examples import choose_examples
from facespec.study.maps import MapSet, scale_maps, upsample_maps
from facespec.study.paths import Paths
from facespec.study.preferred import PreferredSet
from facespec.study.storage import write_table
from facespec.study.tables import BASELINES
from facespec.study.tables_lesions import LESIONS, SEGREGATION
from toys import read_files

DECODERS = [(network, task) for task in ("expression", "identity") for network in ("expression", "identity")]
HEADS = [("expression", "expression"), ("joint", "expression"), ("identity", "identity"), ("joint", "identity")]
BARS = {"1B": DECODERS, "1C": HEADS, "S1A": DECODERS, "S1B": HEADS}
ACCURACIES = [f"figure_{name}" for name in ("1", *BARS)]


@pytest.fixture(scope="module")
def drawable_study(analysed: Paths, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """The analysed study with drops of accuracy; a test that writes into it works on a copy."""
    paths = Paths(tmp_path_factory.mktemp("drawable") / "study")
    shutil.copytree(analysed.root, paths.root, ignore=shutil.ignore_patterns("*.pickle"))
    lesions, segregation = LESIONS.read(paths.table("lesions")), SEGREGATION.read(paths.table("segregation"))
    # networks this tiny are hardly above chance, and have no drops to draw
    write_table(paths.table("lesions"), lesions.assign(drop=lesions["fraction"] * lesions["depth"] / 2, reason=""))
    bounds = {"number": 0.3 * segregation["depth"], "low": 0.1, "high": 0.8, "defined": 1.0, "reason": ""}
    write_table(paths.table("segregation"), segregation.assign(**bounds))
    return paths


@pytest.fixture
def study(drawable_study: Paths, tmp_path: Path) -> Paths:
    shutil.copytree(drawable_study.root, tmp_path / "study")
    return Paths(tmp_path / "study")


@pytest.fixture(scope="module")
def figures_and_pages(drawable_study: Paths) -> tuple[dict[str, Figure], dict[str, list[Figure]]]:
    """Every figure by its file stem, and every file's pages, drawn but not written."""
    figures: dict[str, Figure] = {}
    pages: dict[str, list[Figure]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "save_figure", lambda figure, stem: figures.update({stem.name: figure}))
        patch.setattr(stage, "save_pages", lambda figures, path: pages.update({path.name: list(figures)}))
        stage.run(drawable_study)
    return figures, pages


@pytest.fixture(scope="module")
def figures(figures_and_pages: tuple[dict[str, Figure], dict[str, list[Figure]]]) -> dict[str, Figure]:
    return figures_and_pages[0]


@pytest.fixture(scope="module")
def pages(figures_and_pages: tuple[dict[str, Figure], dict[str, list[Figure]]]) -> dict[str, list[Figure]]:
    return figures_and_pages[1]


@pytest.mark.pipeline
def test_figures_are_written_as_pdf_and_png_with_the_same_bytes(study: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    stems = {"figure_1B", "figure_2C", "figure_contrasts", "figure_groundtruth"}  # of all, for the time it takes
    monkeypatch.setattr(style, "DPI", 40)
    monkeypatch.setattr(
        stage, "save_figure", lambda figure, stem: stem.name in stems and style.save_figure(figure, stem)
    )
    runs = []
    for _ in range(2):
        stage.run(study)
        runs.append((read_files(study.results / "figures"), read_files(study.results, "*.pdf")))
        shutil.rmtree(study.results / "figures")
        for path in study.results.glob("*.pdf"):
            path.unlink()
    assert runs[0] == runs[1]
    assert runs[0][0].keys() == {f"{stem}.{suffix}" for stem in stems for suffix in ("pdf", "png")}
    assert runs[0][1].keys() == set(PAGES.values())


def test_the_list_of_figures_names_every_figure(figures: dict[str, Figure]) -> None:
    assert sorted(figures) == sorted(FIGURES), "facespec.stages.figure_list lists other figures: correct it"


def test_bars_show_the_tables_beside_the_published_numbers(figures: dict[str, Figure], drawable_study: Paths) -> None:
    table = read_accuracies(drawable_study).query("resample == -1")
    means = table.groupby(["figure", "trained_on", "tested_on"])["accuracy"].mean()
    zero_shot = {"1C": [("1C zero-shot", network, "expression") for network in ("expression", "joint")]}
    for figure, bars in BARS.items():
        published, reproduced = figures[f"figure_{figure}"].axes
        assert published.get_title().startswith("published\n")
        assert reproduced.get_title() == "reproduced\nembedded faces"
        heights = [patch.get_height() for patch in reproduced.patches]
        cells = [(figure, *bar) for bar in bars]
        np.testing.assert_allclose(heights, [means[cell] for cell in cells[:2] + zero_shot.get(figure, []) + cells[2:]])
        lines = {line.get_gid(): line.get_ydata()[0] for line in reproduced.lines if line.get_gid()}
        decoded = "1B" if figure == "1C" else figure
        assert lines == {
            f"{name} {task}": means[decoded, name, task] for name in BASELINES for task in ("expression", "identity")
        }
        assert [patch.get_height() for patch in published.patches] != heights
    # by hand, from the paper: the identity network decodes .967 of identities, the joint network .558 of FER2013
    assert round(figures["figure_1B"].axes[0].patches[3].get_height(), 3) == 0.967
    assert round(figures["figure_S1B"].axes[0].patches[1].get_height(), 3) == 0.558
    assert [len(axes.patches) for axes in figures["figure_1"].axes] == [4, 6, 4, 4]


def test_heatmaps_lie_over_the_mean_face(figures: dict[str, Figure], drawable_study: Paths) -> None:
    maps = MapSet.open(drawable_study.heatmaps)
    for name in ("2A", "2C", "contrasts"):
        face = figures[f"figure_{name}"].axes[0].images[0].get_array()
        np.testing.assert_array_equal(face, maps.mean_face)
    # joint network, expression, of the smaller seed, averaged here from the maps themselves
    mean = np.nanmean(scale_maps(maps.maps("joint", "expression", 5)), axis=0)
    overlaid = figures["figure_2A"].axes[6].images[1].get_array()
    np.testing.assert_allclose(overlaid, upsample_maps(mean, maps.size), atol=1e-6)


def test_single_faces_have_their_own_maps(figures: dict[str, Figure], drawable_study: Paths) -> None:
    maps, faces = MapSet.open(drawable_study.heatmaps), FaceSet.open(drawable_study.faces("probe"))
    grid = np.array(figures["figure_2D"].axes[:-1]).reshape(4, -1)
    rows = choose_examples(maps.labels)
    assert grid.shape == (4, len(rows)) == (4, 7)
    for column, row in zip(grid.T, rows, strict=True):
        label = maps.labels.iloc[row]
        (image,) = faces.images(np.flatnonzero(faces.labels["stimulus"] == label["stimulus"]))
        assert column[0].get_title() == label["expression"]
        for axes in column:
            np.testing.assert_array_equal(axes.images[0].get_array(), image)
        for axes, network in zip(column[1:], ("joint", "expression", "untrained"), strict=True):
            (scaled,) = scale_maps(maps.maps(network, "expression", maps.seeds[0])[[row]])
            if np.isnan(scaled).any():
                assert [text.get_text() for text in axes.texts] == ["blank"]
            else:
                np.testing.assert_allclose(axes.images[1].get_array(), upsample_maps(scaled, maps.size))


def test_every_network_has_a_page_per_convolution(pages: dict[str, list[Figure]], drawable_study: Paths) -> None:
    stimuli = PreferredSet.open(drawable_study.preferred)
    names = [f"Fig3_and_S_Fig2_merged_{network}Conv2d.pdf" for network in ("SPLIT", "exp", "id")]
    assert sorted(pages) == names and {len(figures) for figures in pages.values()} == {2}
    for network, name in PAGES.items():
        assert [page.get_suptitle() for page in pages[name]] == [
            f"{network.value} network, {layer} (depth {depth}), seed {stimuli.seed}: "
            f"{len(stimuli.best(network, layer))} units ({stimuli.source})"
            for depth, layer in enumerate(stimuli.layers(network), start=1)
        ]


def test_every_figure_names_its_data(figures: dict[str, Figure], pages: dict[str, list[Figure]]) -> None:
    for name, figure in [*figures.items(), *((file, page) for file in pages for page in pages[file])]:
        texts = [text.get_text() for text in figure.findobj(Text)]
        assert any("embedded faces" in text for text in texts), name


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in ACCURACIES])
def test_no_text_overlaps_another_or_leaves_the_page(
    figures: dict[str, Figure], name: str, legible: Callable[[Figure], None]
) -> None:
    legible(figures[name])


def test_a_missing_table_and_heatmaps_of_other_faces_are_refused(study: Paths, relabel: Callable[..., None]) -> None:
    relabel(study.heatmaps, lambda table: table.replace({"stimulus": {table["stimulus"][3]: "nobody"}}))
    with pytest.raises(StudyError, match=r"not the heatmaps of .*probe: stimulus 'nobody' .* `dvc repro heatmaps`"):
        stage.run(study)
    study.table("accuracy").unlink()
    with pytest.raises(StudyError, match=r"accuracy\.csv: no such file\. `dvc repro` makes it\."):
        stage.run(study)
    assert not (study.results / "figures").exists()
