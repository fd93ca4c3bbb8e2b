"""The notebooks, cell by cell: what they may hold, and that they notice when picture, table and verdict disagree."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest

from facespec.published.export import read_results
from facespec.published.reference import find_role, read_published_bars
from facespec.stages import (
    checks,
    contrasts,
    depth,
    export,
    figures,
    groundtruth,
    lesions,
    overlap,
    preferred,
    regions,
)
from facespec.study.params import read_params
from facespec.study.paths import Paths
from facespec.study.pickles import read_pickle, write_pickle
from facespec.study.storage import write_table
from facespec.study.tables import ACCURACY, VERDICTS
from facespec.study.tables_lesions import DISSOCIATION, LESIONS, SEGREGATION

NOTEBOOKS = Path(__file__).resolve().parents[1] / "Analysis_Reproduction"
ACCURACIES = {"Main_figures_Reproducibility": ["1B", "1C"], "Supplementary_Figures": ["S1A", "S1B"]}
BEYOND = ("regions", "groundtruth", "lesions", "lesion_classes")
OTHERS = {
    "Main_figures_Reproducibility": ["2A", "2B", "2C", "2D", "3"],
    "Supplementary_Figures": [*BEYOND, "S2", "S2B"],
}
PANELS = {name: [*ACCURACIES[name], *OTHERS[name]] for name in ACCURACIES}
PATTERN = [("claim", "markdown"), ("draw", "code"), ("numbers", "code"), ("verdict", "code")]
READERS = {
    "open",
    "read_csv",
    "read_text",
    "read_bytes",
    "read_pickle",
    "read_table",
    "read_json",
    "load",
    "write_text",
    "to_csv",
    "savefig",
    "mkdir",
    "unlink",
    "urlopen",
}

every = pytest.mark.parametrize("name", PANELS)


def cells(name: str) -> list[dict[str, Any]]:
    return json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def source(cell: dict[str, Any]) -> str:
    """A cell's text; a magic line is none of Python's and becomes a comment, so that lines keep their numbers."""
    return re.sub(r"^%", "# %", "".join(cell["source"]), flags=re.MULTILINE)


def code(name: str) -> dict[str, str]:
    return {cell["id"]: source(cell) for cell in cells(name) if cell["cell_type"] == "code"}


def test_these_are_all_the_notebooks() -> None:
    assert {path.name for path in NOTEBOOKS.iterdir() if not path.name.startswith(".")} == {
        f"{n}.ipynb" for n in PANELS
    }


@every
def test_valid_clean_and_small(name: str) -> None:
    path = NOTEBOOKS / f"{name}.ipynb"
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    nbformat.validate(nbformat.from_dict(notebook))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    # what an editor leaves behind when it runs a notebook
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}, cell["id"]
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None), cell["id"]
    assert text == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    assert len(text) < 40_000


@every
def test_four_cells_per_panel_between_setup_and_replay(name: str) -> None:
    panels = [(f"{panel}-{what}", kind) for panel in PANELS[name] for what, kind in PATTERN]
    replay = [("replay-claim", "markdown"), *((f"replay-{what}", "code") for what in ("find", "draw", "check"))]
    found = [(cell["id"], cell["cell_type"]) for cell in cells(name)]
    assert found == [("intro", "markdown"), ("setup", "code"), *panels, *replay]
    for cell in cells(name):
        panel, _, what = cell["id"].partition("-")
        if what == "claim" and panel != "replay":
            assert source(cell).startswith("## " if panel in BEYOND else f"## Figure {panel}: ")
        elif panel in ACCURACIES[name] and what == "draw":
            assert re.findall(r'"((?:1|S1)[A-C])"', source(cell)) == [panel] * 4


@every
def test_notebooks_define_nothing_and_read_through_the_doors(name: str) -> None:
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
    for cell, text in code(name).items():
        tree = ast.parse(text)
        assert not [node for node in ast.walk(tree) if isinstance(node, definitions)], cell
        used = {
            node.attr if isinstance(node, ast.Attribute) else node.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute | ast.Name)
            and ast.unparse(node) not in ("MapSet.open", "PreferredSet.open")
        }
        assert not READERS & used, cell
        words = [
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert not [word for word in words if "/" in word], cell


@every
def test_no_result_is_typed(name: str) -> None:
    """Numbers come from tables: the only ones typed are tolerances and the percentiles of the interval."""
    for cell, text in code(name).items():
        typed = {
            node.value
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Constant) and isinstance(node.value, float)
        }
        assert typed <= {1e-12, 1e-9, 1e-6, 0.025, 0.25, 0.75, 0.975}, cell


@every
def test_every_code_cell_runs_under_nbval(name: str) -> None:
    for cell, text in code(name).items():
        assert "NBVAL" not in text.upper(), cell
        if cell.partition("-")[2] in ("draw", "numbers", "verdict", "check") and cell != "replay-draw":
            assert "assert" in text, f"{cell} would pass whatever it showed"


# --- run ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def results(explained_study: Path, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study directory: accuracies near the published means, heatmaps of a tiny study, verdicts on both."""
    paths = Paths(tmp_path_factory.mktemp("notebooks") / "study")
    shutil.copytree(explained_study, paths.root)
    images = np.random.Generator(np.random.PCG64(3)).integers(200, size=(100, 200))
    tables = []
    for bar in read_published_bars():
        for seed in (1, 2):
            right = np.arange(200) < round(200 * bar.mean) - seed
            tables.append(
                pd.DataFrame(
                    {
                        "figure": bar.figure,
                        "trained_on": bar.trained_on,
                        "tested_on": bar.tested_on,
                        "role": find_role(bar.figure, bar.tested_on),
                        "source": "embedded faces",
                        "seed": seed,
                        "resample": range(-1, 100),
                        "n": 200,
                        "chance": 0.1 if bar.tested_on == "identity" else 0.15,
                        "accuracy": [right.mean(), *right[images].mean(axis=1)],
                    }
                )
            )
    table = ACCURACY.check(pd.concat(tables, ignore_index=True))
    write_table(paths.table("decoding"), table[table["figure"].isin(["1B", "S1A"])])
    write_table(paths.table("accuracy"), table[table["figure"].isin(["1C", "S1B"])])
    params = read_params(paths.params)
    for stage in (overlap, contrasts, regions):
        stage.run(paths, params)
    groundtruth.run(paths, params, workers=1)
    depth.run(paths, params, device="cpu")
    preferred.run(paths, params, device="cpu")
    lesions.run(paths, params, device="cpu", workers=1)
    plant_drops(paths)
    plant_dissociation(paths)
    export.run(paths)
    figures.run(paths)
    checks.run(paths, read_params(project / "params.yaml"))
    return paths.root


def plant_drops(paths: Paths) -> None:
    """Every curve its own; networks this tiny are hardly above chance, and have no drops to draw."""
    lost = LESIONS.read(paths.table("lesions"))
    slope = 0.1 * lost["depth"] + 0.01 * lost["seed"]
    slope += 0.2 * (lost["ranked_by"] == "identity") + 0.4 * (lost["tested_on"] == "identity")
    slope += 0.8 * (lost["condition"] == "keep")
    write_table(paths.table("lesions"), lost.assign(drop=slope * lost["fraction"], reason=""))


def plant_dissociation(paths: Paths) -> None:
    """Tasks that part with depth."""
    alone, overall = DISSOCIATION.read(paths.table("dissociation")), SEGREGATION.read(paths.table("segregation"))
    number = 0.3 * alone["depth"] + 0.1 * (alone["quantity"] == "identity")
    write_table(paths.table("dissociation"), alone.assign(number=number + 1e-3 * (alone["resample"] + 1), reason=""))
    number = 0.3 * overall["depth"] + 0.1 * (overall["quantity"] == "identity")
    number = number.where(overall["condition"] == "ranked", 0.0)
    bounds = {"low": number - 0.1, "high": number + 0.1}
    write_table(paths.table("segregation"), overall.assign(number=number, **bounds, defined=1.0, reason=""))


@pytest.fixture
def study(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A copy of it, in whose directory of notebooks the test runs; no published files."""
    paths = Paths(tmp_path / "study")
    shutil.copytree(results / "Results", paths.results)
    shutil.copy(results / "params.yaml", paths.params)
    (paths.root / "Analysis_Reproduction").mkdir()
    monkeypatch.chdir(paths.root / "Analysis_Reproduction")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("FACESPEC_PUBLISHED", str(tmp_path / "empty"))
    return paths


def run(name: str, *panels: str) -> dict[str, Any]:
    """Run a notebook's cells in this process, all of them, or the setup and those of some panels.

    Which cell failed is in the traceback. `figures`: drawn by which cell.
    """
    world: dict[str, Any] = {}
    figures = {}
    for cell, text in code(name).items():
        if panels and cell.partition("-")[0] not in ("setup", *panels):
            continue
        exec(compile(text, f"<{name}: {cell}>", "exec"), world)
        figures[cell] = world.get("drawn")
    return {**world, "figures": figures}


@pytest.mark.pipeline
@every
def test_the_cells_run_without_the_published_files(name: str, study: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    world = run(name)
    said = capsys.readouterr().out
    assert "reproduced on: embedded faces | networks per bar: 2" in said
    assert said.count("absent: ") == 4
    assert "Nothing to replay. `facespec published fetch` gets the files" in said
    for panel in ACCURACIES[name]:
        axes = world["figures"][f"{panel}-draw"].axes
        assert [each.get_title().split("\n")[0] for each in axes] == ["published", "reproduced"]
    assert world["replayed"].empty and world["compared"].empty


@pytest.mark.pipeline
@every
def test_the_replay_runs_on_the_published_files(
    name: str, study: Paths, published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FACESPEC_PUBLISHED", str(published))
    compared = run(name)["compared"]
    assert sorted(compared["figure"].unique()) == ACCURACIES[name] and len(compared) == 2 * 4 * 4
    assert "absent" not in capsys.readouterr().out


@pytest.mark.pipeline
def test_published_files_are_found_above_the_study(
    study: Paths, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FACESPEC_PUBLISHED")
    place = study.root.parent / "shared" / "published"
    for file, content in read_results(published).items():
        write_pickle(place / file, content)
    assert len(run("Main_figures_Reproducibility")["files"]) == 4
    # those that `facespec published fetch` put into the study come first
    write_pickle(study.root / "published" / file, content)
    assert list(run("Supplementary_Figures")["files"]) == [file]


def verdict_of(claim: str) -> Callable[[Paths], None]:
    def spoil(study: Paths) -> None:
        path = study.verdicts.with_suffix(".csv")
        table = VERDICTS.read(path)
        write_table(path, table.assign(number=table["number"] + 1e-6 * (table["claim"] == claim)))

    return spoil


def part_of(claim: str) -> Callable[[Paths], None]:
    def spoil(study: Paths) -> None:
        path = study.verdicts.with_suffix(".csv")
        table = VERDICTS.read(path)
        write_table(path, table.drop(table[table["claim"] == claim].index[0]))

    return spoil


@pytest.mark.pipeline
@pytest.mark.parametrize("spoil", [verdict_of, part_of])
@pytest.mark.parametrize("claim", ["C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8"])
def test_a_verdict_that_is_not_about_the_bars_is_noticed(
    spoil: Callable[[str], Callable[[Paths], None]], claim: str, study: Paths
) -> None:
    spoil(claim)(study)
    name = "Supplementary_Figures" if claim in ("C4", "C8") else "Main_figures_Reproducibility"
    figure = {"C1": "1B", "C2": "1B", "C3": "1C", "C4": "S1B", "C5": "2B", "C6": "2C", "C7": "3", "C8": "lesions"}[
        claim
    ]
    with pytest.raises(AssertionError) as caught:
        run(name, figure)
    assert f"<{name}: {figure}-verdict>" in {str(entry.path) for entry in caught.traceback}


@pytest.mark.pipeline
@every
def test_a_picture_that_is_not_its_table_is_noticed(name: str, study: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    from facespec.figures import bars

    honest = bars._sound
    monkeypatch.setattr(bars, "_sound", lambda cell: honest(cell.assign(accuracy=cell["accuracy"] * 0.999)))
    with pytest.raises(AssertionError) as caught:
        run(name, PANELS[name][0])
    assert f"<{name}: {PANELS[name][0]}-draw>" in {str(entry.path) for entry in caught.traceback}


@pytest.mark.pipeline
def test_a_heatmap_that_is_not_its_table_is_noticed(study: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    from facespec.figures import heatmaps

    honest = heatmaps.upsample_maps
    monkeypatch.setattr(heatmaps, "upsample_maps", lambda maps, size: honest(maps, size) * 0.999)
    with pytest.raises(AssertionError) as caught:
        run("Main_figures_Reproducibility", "2A")
    assert "<Main_figures_Reproducibility: 2A-draw>" in {str(entry.path) for entry in caught.traceback}


@pytest.mark.pipeline
def test_a_pickle_of_other_heatmaps_is_noticed(study: Paths) -> None:
    file = study.results / "Fig2B_dict.pickle"
    write_pickle(file, {key: values * 0.999 for key, values in read_pickle(file).items()})
    with pytest.raises(AssertionError) as caught:
        run("Main_figures_Reproducibility", "2B")
    assert "<Main_figures_Reproducibility: 2B-numbers>" in {str(entry.path) for entry in caught.traceback}


@pytest.mark.pipeline
def test_a_score_that_is_not_drawn_is_noticed(study: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    from facespec.figures import groundtruth as figure

    honest = figure._point
    monkeypatch.setattr(figure, "_point", lambda axes, rows, x: honest(axes, rows.assign(number=0.5), x))
    with pytest.raises(AssertionError) as caught:
        run("Supplementary_Figures", "groundtruth")
    assert "<Supplementary_Figures: groundtruth-draw>" in {str(entry.path) for entry in caught.traceback}


@pytest.mark.pipeline
def test_an_index_that_is_not_drawn_is_noticed(study: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    from facespec.figures import lesions as figure

    honest = figure._index
    monkeypatch.setattr(figure, "_index", lambda axes, rows, condition: honest(axes, rows.assign(number=0), condition))
    with pytest.raises(AssertionError) as caught:
        run("Supplementary_Figures", "lesions")
    assert "<Supplementary_Figures: lesions-draw>" in {str(entry.path) for entry in caught.traceback}


TASKS_SWAPPED = {"expression": "identity", "identity": "expression"}


@pytest.mark.pipeline
@pytest.mark.parametrize(
    "column, other",
    [("tested_on", TASKS_SWAPPED), ("ranked_by", TASKS_SWAPPED), ("condition", {"ranked": "keep", "keep": "ranked"})],
)
def test_curves_that_change_places_are_noticed(
    column: str, other: dict[str, str], study: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facespec.figures import lesions as figure

    honest = figure.select_reported

    def swapped(table: pd.DataFrame, **values: str) -> pd.DataFrame:
        wrong = {name: other.get(value, value) if name == column else value for name, value in values.items()}
        return honest(table, **wrong).assign(**values)

    monkeypatch.setattr(figure, "select_reported", swapped)
    with pytest.raises(AssertionError) as caught:
        run("Supplementary_Figures", "lesions")
    assert "<Supplementary_Figures: lesions-draw>" in {str(entry.path) for entry in caught.traceback}


@pytest.mark.pipeline
def test_curves_in_the_other_tasks_colour_are_noticed(study: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    from facespec.figures import lesions as figure

    honest = figure.choose_task_colours
    monkeypatch.setattr(
        figure, "choose_task_colours", lambda rows: dict(zip(honest(rows), [*honest(rows).values()][::-1], strict=True))
    )
    with pytest.raises(AssertionError) as caught:
        run("Supplementary_Figures", "lesions")
    assert "<Supplementary_Figures: lesions-draw>" in {str(entry.path) for entry in caught.traceback}


@pytest.mark.pipeline
@pytest.mark.parametrize("name", ["_steps", "_shares"])
def test_classes_that_change_places_are_noticed(name: str, study: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    from facespec.figures import lesion_classes as figure

    honest = figure.select_reported

    def swapped(table: pd.DataFrame, **values: str) -> pd.DataFrame:
        if ("recall" in table) != (name == "_steps") or "ranked_by" not in values:
            return honest(table, **values)
        return honest(table, **values | {"ranked_by": TASKS_SWAPPED[values["ranked_by"]]})

    monkeypatch.setattr(figure, "select_reported", swapped)
    with pytest.raises(AssertionError) as caught:
        run("Supplementary_Figures", "lesions", "lesion_classes")
    assert "<Supplementary_Figures: lesion_classes-draw>" in {str(entry.path) for entry in caught.traceback}


@pytest.mark.pipeline
def test_an_index_that_changes_places_with_its_control_is_noticed(
    study: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facespec.figures import lesions as figure

    honest, other = figure._index, {"ranked": "shuffled", "shuffled": "ranked"}
    monkeypatch.setattr(
        figure, "_index", lambda axes, rows, condition: honest(axes, rows, other.get(condition, condition))
    )
    with pytest.raises(AssertionError) as caught:
        run("Supplementary_Figures", "lesions")
    assert "<Supplementary_Figures: lesions-draw>" in {str(entry.path) for entry in caught.traceback}


@pytest.mark.pipeline
@every
def test_a_published_file_with_another_number_is_noticed(
    name: str, study: Paths, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = study.root / "published"
    for file, content in read_results(published).items():
        for values in content.values():
            values[7] = 0.5
        write_pickle(place / file, content)
    monkeypatch.delenv("FACESPEC_PUBLISHED")
    with pytest.raises(AssertionError) as caught:
        run(name)
    assert f"<{name}: replay-check>" in {str(entry.path) for entry in caught.traceback}
