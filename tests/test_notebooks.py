"""The notebooks, cell by cell: what they may hold, and that they notice when picture, table and verdict disagree."""

from __future__ import annotations

import ast
import importlib
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
from facespec.stages import checks, export
from facespec.study.params import read_params
from facespec.study.paths import Paths
from facespec.study.pickles import read_pickle, write_pickle
from facespec.study.storage import write_table
from facespec.study.tables import ACCURACY, BASELINES, VERDICTS, ZERO_SHOT
from facespec.study.tables_lesions import DISSOCIATION, LESIONS, SEGREGATION
from toys import make_table

NOTEBOOKS = Path(__file__).resolve().parents[1] / "Analysis_Reproduction"
MAIN, SUPPLEMENT = "Main_figures_Reproducibility", "Supplementary_Figures"
ACCURACIES = {MAIN: ["1B", "1C"], SUPPLEMENT: ["S1A", "S1B"]}
NEW = ("regions", "groundtruth", "lesions", "lesion_classes")  # panels that the study does not have
PANELS = {
    MAIN: [*ACCURACIES[MAIN], "2A", "2B", "2C", "2D", "3"],
    SUPPLEMENT: [*ACCURACIES[SUPPLEMENT], *NEW, "S2", "S2B"],
}
CELLS = {"claim": "markdown", "draw": "code", "numbers": "code", "verdict": "code"}
READERS = {"open", "read_csv", "read_text", "read_bytes", "read_pickle", "read_table", "read_json", "load"}
WRITERS = {"write_text", "to_csv", "savefig", "mkdir", "unlink", "urlopen"}

for_both = pytest.mark.parametrize("name", PANELS)


def read_cells(name: str) -> list[dict[str, Any]]:
    return json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def get_source(cell: dict[str, Any]) -> str:
    """A cell's text; a magic line, which is not Python, becomes a comment, so that lines keep their numbers."""
    return re.sub(r"^%", "# %", "".join(cell["source"]), flags=re.MULTILINE)


def read_code(name: str) -> dict[str, str]:
    return {cell["id"]: get_source(cell) for cell in read_cells(name) if cell["cell_type"] == "code"}


def test_these_are_all_the_notebooks() -> None:
    names = {path.name for path in NOTEBOOKS.iterdir() if not path.name.startswith(".")}
    assert names == {f"{name}.ipynb" for name in PANELS}


@for_both
def test_notebooks_are_valid_small_and_without_outputs(name: str) -> None:
    text = (NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
    notebook = json.loads(text)
    nbformat.validate(nbformat.from_dict(notebook))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    # an editor that runs a notebook adds more
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}, cell["id"]
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None), cell["id"]
    assert text == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    assert len(text) < 40_000


@for_both
def test_every_panel_has_four_cells_between_setup_and_replay(name: str) -> None:
    cells = read_cells(name)
    panels = [(f"{panel}-{cell}", kind) for panel in PANELS[name] for cell, kind in CELLS.items()]
    replay = [("replay-claim", "markdown"), *((f"replay-{cell}", "code") for cell in ("find", "draw", "check"))]
    expected = [("intro", "markdown"), ("setup", "code"), *panels, *replay]
    assert [(cell["id"], cell["cell_type"]) for cell in cells] == expected
    for cell in cells:
        panel, _, kind = cell["id"].partition("-")
        if kind == "claim" and panel != "replay":
            assert get_source(cell).startswith("## " if panel in NEW else f"## Figure {panel}: ")
        elif panel in ACCURACIES[name] and kind == "draw":
            assert re.findall(r'"((?:1|S1)[A-C])"', get_source(cell)) == [panel] * 4


@for_both
def test_code_defines_nothing_reads_only_tables_and_types_no_result(name: str) -> None:
    """Numbers come from tables: the only typed ones are tolerances and percentiles."""
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
    for cell, text in read_code(name).items():
        nodes = list(ast.walk(ast.parse(text)))
        assert not [node for node in nodes if isinstance(node, definitions)], f"{cell} defines something"
        names = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute | ast.Name)}
        used = {name.rpartition(".")[2] for name in names - {"MapSet.open", "PreferredSet.open"}}
        assert not (READERS | WRITERS) & used, f"{cell} touches files itself"
        constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
        assert not [text for text in constants if isinstance(text, str) and "/" in text], f"{cell} names a path"
        numbers = {number for number in constants if isinstance(number, float)}
        assert numbers <= {1e-12, 1e-9, 1e-6, 0.025, 0.25, 0.75, 0.975}, f"{cell} types a number; read it from a table"
        assert "NBVAL" not in text.upper(), f"{cell} is not run by nbval"
        if cell.endswith(("-draw", "-numbers", "-verdict", "-check")) and cell != "replay-draw":
            assert "assert" in text, f"{cell} would pass whatever it showed"


# --- run ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def results(analysed_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study directory: accuracies near the published means, heatmaps of a tiny study, verdicts on both."""
    paths = Paths(tmp_path_factory.mktemp("notebooks") / "study")
    shutil.copytree(analysed_study, paths.root)
    images = np.random.Generator(np.random.PCG64(3)).integers(200, size=(100, 200))
    rows = []
    for bar in read_published_bars():
        role = find_role(bar.figure, bar.tested_on)
        row = {"figure": bar.figure, "trained_on": bar.trained_on, "tested_on": bar.tested_on, "role": role}
        for seed in (1, 2):
            correct = np.arange(200) < round(200 * bar.mean) - seed
            accuracies = enumerate([correct.mean(), *correct[images].mean(axis=1)], start=-1)
            rows += [row | {"seed": seed, "resample": resample, "accuracy": value} for resample, value in accuracies]
    table = add_baselines(make_table(ACCURACY, rows, source="embedded faces", n=200))
    table["chance"] = np.where(table["tested_on"] == "identity", 0.1, 0.15)
    decoded = table["figure"].isin(["1B", "S1A"]) | table["trained_on"].isin(BASELINES)
    write_table(paths.table("decoding"), table[decoded])
    write_table(paths.table("accuracy"), table[~decoded])
    plant_drops(paths)
    plant_dissociation(paths)
    export.run(paths)
    for model in ("SPLIT", "exp", "id"):
        (paths.results / f"Fig3_and_S_Fig2_merged_{model}Conv2d.pdf").touch()
    checks.run(paths, read_params(paths.params))
    return paths.root


def add_baselines(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of baselines and of networks before fine-tuning, each a little worse than the network that they copy."""
    single = table[(table["trained_on"] == table["tested_on"]) & (table["figure"] != "1C")]
    others = [
        single.assign(trained_on=name, accuracy=single["accuracy"] * share)
        for name, share in zip(BASELINES, (0.6, 0.5, 0.4), strict=True)
    ]
    heads = table[(table["figure"] == "1C") & (table["tested_on"] == "expression")]
    others.append(heads.assign(figure=ZERO_SHOT, accuracy=heads["accuracy"] * 0.8))
    return pd.concat([table, *others], ignore_index=True)


def plant_drops(paths: Paths) -> None:
    """Networks this tiny are hardly above chance, and have no drops to draw: give every curve another slope."""
    table = LESIONS.read(paths.table("lesions"))
    slope = 0.1 * table["depth"] + 0.01 * table["seed"]
    slope += 0.2 * (table["ranked_by"] == "identity") + 0.4 * (table["tested_on"] == "identity")
    slope += 0.8 * (table["condition"] == "keep")
    write_table(paths.table("lesions"), table.assign(drop=slope * table["fraction"], reason=""))


def plant_dissociation(paths: Paths) -> None:
    """Tasks that are segregated more and more with depth."""
    table = DISSOCIATION.read(paths.table("dissociation"))
    number = 0.3 * table["depth"] + 0.1 * (table["quantity"] == "identity")
    write_table(paths.table("dissociation"), table.assign(number=number + 1e-3 * (table["resample"] + 1), reason=""))
    table = SEGREGATION.read(paths.table("segregation"))
    number = 0.3 * table["depth"] + 0.1 * (table["quantity"] == "identity")
    number = number.where(table["condition"] == "ranked", 0.0)
    bounds = {"low": number - 0.1, "high": number + 0.1}
    write_table(paths.table("segregation"), table.assign(number=number, **bounds, defined=1.0, reason=""))


@pytest.fixture
def study(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """A copy of it, without published files; the test runs in its directory of notebooks."""
    paths = Paths(tmp_path / "study")
    shutil.copytree(results / "Results", paths.results)
    shutil.copy(results / "params.yaml", paths.params)
    for directory in (paths.root / "Analysis_Reproduction", tmp_path / "empty"):
        directory.mkdir()
    monkeypatch.chdir(paths.root / "Analysis_Reproduction")
    monkeypatch.setenv("FACESPEC_PUBLISHED", str(tmp_path / "empty"))
    return paths


def run(name: str, *panels: str) -> dict[str, Any]:
    """Run a notebook's cells in this process: all, or the setup and those of some panels; returns its variables.

    `figures`: cell -> the figure that it drew. The traceback names the cell that failed.
    """
    variables: dict[str, Any] = {}
    figures = {}
    for cell, text in read_code(name).items():
        if not panels or cell.partition("-")[0] in ("setup", *panels):
            exec(compile(text, f"<{name}: {cell}>", "exec"), variables)
            figures[cell] = variables.get("figure")
    return {**variables, "figures": figures}


def assert_fails(cell: str, name: str, *panels: str) -> None:
    with pytest.raises(AssertionError) as caught:
        run(name, *panels)
    cells = [str(entry.path) for entry in caught.traceback if f"<{name}: " in str(entry.path)]
    assert cells == [f"<{name}: {cell}>"], "another cell has noticed it"


@pytest.mark.pipeline
@for_both
def test_the_cells_run_without_the_published_files(name: str, study: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    variables = run(name)
    printed = capsys.readouterr().out
    assert "reproduced on: embedded faces | networks per bar: 2" in printed
    assert printed.count("absent: ") == 4
    assert "Nothing to replay. `facespec published fetch` gets the files" in printed
    for panel in ACCURACIES[name]:
        panels = variables["figures"][f"{panel}-draw"].axes
        assert [axes.get_title().split("\n")[0] for axes in panels] == ["published", "reproduced"]
    assert variables["replayed"].empty and variables["compared"].empty


@pytest.mark.pipeline
@for_both
def test_the_replay_runs_on_the_published_files(
    name: str, study: Paths, published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FACESPEC_PUBLISHED", str(published))
    compared = run(name)["compared"]
    assert sorted(compared["figure"].unique()) == ACCURACIES[name] and len(compared) == 2 * 4 * 4
    assert "absent" not in capsys.readouterr().out


@pytest.mark.pipeline
def test_published_files_that_were_fetched_into_the_study_are_replayed(
    study: Paths, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FACESPEC_PUBLISHED")
    file, content = next(iter(read_results(published).items()))
    write_pickle(study.root / "published" / file, content)
    assert list(run(SUPPLEMENT, "replay")["files"]) == [file]


@pytest.mark.pipeline
@for_both
def test_a_published_file_with_another_number_is_noticed(
    name: str, study: Paths, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file, content in read_results(published).items():
        for values in content.values():
            values[7] = 0.5
        write_pickle(study.root / "published" / file, content)
    monkeypatch.delenv("FACESPEC_PUBLISHED")
    assert_fails("replay-check", name, "replay")


CLAIMS = {"C1": "1B", "C2": "1B", "C3": "1C", "C4": "S1B", "C5": "2B", "C6": "2C", "C7": "3", "C8": "lesions"}


@pytest.mark.pipeline
@pytest.mark.parametrize("change", ["another number", "no row"])
@pytest.mark.parametrize(("claim", "panel"), CLAIMS.items())
def test_a_verdict_that_is_not_about_the_panel_is_noticed(change: str, claim: str, panel: str, study: Paths) -> None:
    path = study.verdicts.with_suffix(".csv")
    table = VERDICTS.read(path)
    rows = table["claim"] == claim
    table["number"] = table["number"].mask(rows, table["number"].fillna(0.5) + 1e-6)  # also of a part without one
    write_table(path, table if change == "another number" else table.drop(table.index[rows][0]))
    assert_fails(f"{panel}-verdict", SUPPLEMENT if panel in PANELS[SUPPLEMENT] else MAIN, panel)


@pytest.mark.pipeline
def test_a_pickle_of_other_heatmaps_is_noticed(study: Paths) -> None:
    file = study.results / "Fig2B_dict.pickle"
    write_pickle(file, {key: values * 0.999 for key, values in read_pickle(file).items()})
    assert_fails("2B-numbers", MAIN, "2B")


OTHER = {"expression": "identity", "identity": "expression", "ranked": "keep", "keep": "ranked"}


def swap(column: str, *, only_recalls: bool | None = None) -> Callable[..., Any]:
    """Select the rows of the other task or condition, under the name of the right one."""

    def wrap(select_rows: Callable[..., pd.DataFrame]) -> Callable[..., pd.DataFrame]:
        def select_other(table: pd.DataFrame, **values: str) -> pd.DataFrame:
            if column not in values or only_recalls not in (None, "recall" in table):
                return select_rows(table, **values)
            return select_rows(table, **values | {column: OTHER.get(values[column], values[column])}).assign(**values)

        return select_other

    return wrap


def swap_controls(draw_index: Callable[..., None]) -> Callable[..., None]:
    other = {"ranked": "shuffled", "shuffled": "ranked"}
    return lambda axes, rows, look, gid: draw_index(axes, rows, look, other.get(gid, gid))


def swap_colours(choose: Callable[..., dict[str, str]]) -> Callable[..., dict[str, str]]:
    return lambda rows: dict(zip(choose(rows), [*choose(rows).values()][::-1], strict=True))


# panel, function in `facespec.figures` -> a function that returns a wrong one
MUTANTS: dict[tuple[str, str], list[Callable[..., Any]]] = {
    ("1B", "bars._make_sound_bar"): [lambda make: lambda c: make(c.assign(accuracy=c["accuracy"] * 0.999))],
    ("1C", "accuracy._order_bars"): [lambda order: lambda bars, task: order(bars, task)[::-1]],
    ("S1B", "accuracy._draw_lines"): [lambda draw: lambda *arguments: None],
    ("S1A", "bars._make_sound_bar"): [lambda make: lambda c: make(c.assign(accuracy=c["accuracy"] * 0.999))],
    ("2A", "heatmaps.upsample_maps"): [lambda upsample: lambda maps, size: upsample(maps, size) * 0.999],
    ("groundtruth", "groundtruth._draw_point"): [lambda draw: lambda axes, t, x: draw(axes, t.assign(number=0.5), x)],
    ("lesions", "lesions._draw_index"): [
        swap_controls,
        lambda draw: lambda a, t, *names: draw(a, t.assign(number=0), *names),
    ],
    ("lesions", "lesions._draw_matched"): [lambda draw: lambda a, t, *names: draw(a, t.assign(number=0), *names)],
    ("lesions", "lesions.choose_task_colours"): [swap_colours],
    ("lesions", "lesions.select_rows"): [swap("tested_on"), swap("ranked_by"), swap("condition")],
    ("lesion_classes", "lesion_classes.select_rows"): [
        swap("ranked_by", only_recalls=True),
        swap("ranked_by", only_recalls=False),
    ],
}


@pytest.mark.pipeline
@pytest.mark.parametrize(
    ("panel", "function", "mutate"), [(*key, mutate) for key, mutants in MUTANTS.items() for mutate in mutants]
)
def test_a_figure_that_is_not_its_table_is_noticed(
    panel: str, function: str, mutate: Callable[..., Any], study: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, name = f"facespec.figures.{function}".rpartition(".")
    original = getattr(importlib.import_module(module), name)
    monkeypatch.setattr(f"{module}.{name}", mutate(original))
    panels = ["lesions", panel] if panel == "lesion_classes" else [panel]
    assert_fails(f"{panel}-draw", SUPPLEMENT if panel in PANELS[SUPPLEMENT] else MAIN, *panels)
