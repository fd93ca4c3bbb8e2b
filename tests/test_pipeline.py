"""The whole pipeline at quick size, as a stranger runs it: an installed wheel, `facespec init`, `facespec repro`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import yaml

from facespec.stages.figure_list import FIGURES
from facespec.stages.repro import explain_other_bits
from facespec.study.code_path import get_code_path
from facespec.study.maps import MapSet, scale_maps, upsample_maps
from facespec.study.params import read_params
from facespec.study.pickles import read_pickle
from facespec.study.tables import (
    ACCURACY,
    CONTRASTS,
    GROUNDTRUTH,
    GROUNDTRUTH_MAPS,
    GROUNDTRUTH_OVERLAP,
    HEATMAPS,
    OVERLAP,
    REGIONS,
    VERDICTS,
)
from facespec.study.tables_sharing import SHARING
from toys import TINY

pytestmark = pytest.mark.pipeline

PROJECT = Path(__file__).resolve().parents[1]

ACCURACY_PICKLES = {
    "Fig1B_KDEF_Lesioned_models_dict_results.pickle",
    "Fig1C_KDEF_SPLIT_Accuracy_Results.pickle",
    "SFig1A_with_2_Other_Datasets_Lesioned_models_dict_results.pickle",
    "SFig1B_with_2_Other_Datasets_SPLIT_Accuracy_Results.pickle",
}
OTHER_PICKLES = {f"Fig2{panel}_dict.pickle" for panel in "ABCD"}
OTHER_PICKLES |= {f"SFig2B_{network}_Layer_Names_and_Activations.pickle" for network in ("SPLIT", "exp", "id")}


def run(*words: str, cwd: Path, path: Path | None = None) -> str:
    """Run a command in `cwd`, of this environment or of the one with programs in `path`, and return all it printed.

    Fails with that if the command fails.
    """
    programs = [str(path or Path(sys.executable).parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    git = {f"GIT_{who}_{what}": "tester@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    # coverage's own variables would make every child measure itself
    rest = {name: value for name, value in os.environ.items() if not name.startswith("COV_CORE")}
    if path:
        rest.pop("PYTHONPATH", None)  # where the installed package would not be found first
    environment = {**rest, **git, "PATH": os.pathsep.join(programs), "COLUMNS": "200"}
    ended = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{' '.join(words)}\n{ended.stdout[-4000:]}\n{ended.stderr[-4000:]}"
    return ended.stdout + ended.stderr


@pytest.fixture(scope="session")
def golden(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script(".ci/golden.py")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Path:
    """The programs of an environment where the wheel is installed, beside no clone.

    The packages that facespec needs are those of this environment; its own way of finding facespec is not taken over.
    """
    directory = tmp_path_factory.mktemp("installed")
    sources = directory / "sources"
    for name in filter(None, run("git", "ls-files", "-z", "-co", "--exclude-standard", cwd=project).split("\0")):
        if (project / name).is_file():
            (sources / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(project / name, sources / name)
    pip, quietly = ["python", "-m", "pip", "--disable-pip-version-check"], ["--quiet", "--no-deps"]
    run(*pip, "wheel", *quietly, "--no-build-isolation", "--wheel-dir", "wheels", "./sources", cwd=directory)
    (wheel,) = (directory / "wheels").glob("*.whl")
    run("python", "-m", "venv", "environment", cwd=directory)
    (libraries,) = (directory / "environment").glob("**/site-packages")
    (libraries / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    path = directory / "environment" / ("Scripts" if os.name == "nt" else "bin")
    run(*pip, "install", *quietly, str(wheel), cwd=directory, path=path)
    shutil.rmtree(sources)
    return path


@pytest.fixture(scope="session")
def said_and_study(tmp_path_factory: pytest.TempPathFactory, installed: Path) -> tuple[str, Path]:
    """What `facespec init` and `facespec repro` printed, and the quick study that they made; other tests use it.

    FACESPEC_QUICK_STUDY says where it is made. The tests leave it there, so that its figures can be validated again, or
    looked at.
    """
    given = os.environ.get("FACESPEC_QUICK_STUDY")
    directory = Path(given).absolute() if given else tmp_path_factory.mktemp("quick") / "study"
    assert not directory.exists(), f"FACESPEC_QUICK_STUDY: {directory} exists. Remove it, or name a new directory."
    run("facespec", "init", str(directory), "--profile", "quick", cwd=installed, path=installed)
    return run("facespec", "repro", str(directory), cwd=installed, path=installed), directory


@pytest.fixture(scope="session")
def said(said_and_study: tuple[str, Path]) -> str:
    return said_and_study[0]


@pytest.fixture(scope="session")
def study(said_and_study: tuple[str, Path]) -> Path:
    return said_and_study[1]


def test_the_installed_package_needs_no_clone(installed: Path) -> None:
    look = "import facespec, sys; print(facespec.__file__); assert not {'torch', 'pandas'} & set(sys.modules)"
    assert str(installed.parent) in run("python", "-c", look, cwd=installed, path=installed)


def test_one_command_ends_with_verdicts_figures_and_a_comparison(said: str, study: Path) -> None:
    for claim in ("C1", "C2", "C3", "C4", "C5", "C6", "C7"):
        assert claim in said
    figures = {path.name for path in (study / "Results" / "figures").glob("*.png")}
    assert figures and all(name in said for name in figures)
    assert {Path(name).with_suffix(".pdf").name for name in figures} <= {
        path.name for path in (study / "Results" / "figures").glob("*.pdf")
    }
    assert said.strip().splitlines()[-1] == "No recorded run to compare with: there was no dvc.lock."
    assert f"code path: {get_code_path().name}" in said


def test_every_stage_ran(study: Path) -> None:
    lock = yaml.safe_load((study / "dvc.lock").read_text())["stages"]
    stages = yaml.safe_load((study / "dvc.yaml").read_text())["stages"]
    assert {name.split("@")[0] for name in lock} == set(stages)


def list_run_stages(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if "Running stage" in line]


def test_nothing_runs_twice(study: Path, installed: Path) -> None:
    """Faces are kept, as they were made from what they would be made from again, and so is all that follows."""
    lock = (study / "dvc.lock").read_bytes()
    before = {path: path.stat().st_mtime_ns for path in (study / "data").rglob("*.json")}
    said = run("python", "-m", "facespec", "repro", cwd=study, path=installed)
    assert set(list_run_stages(said)) == {"fingerprints"}
    assert (study / "dvc.lock").read_bytes() == lock
    assert {path: path.stat().st_mtime_ns for path in (study / "data").rglob("*.json")} == before


def change(path: Path) -> None:
    """One byte is another; size and time stamp stay, so that DVC does not see it."""
    then, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))


def test_damage_is_found_and_mended(study: Path, installed: Path) -> None:
    """Faces, a table, a copy in DVC's cache, and what DVC remembers: the same bytes in the end."""
    lock = (study / "dvc.lock").read_bytes()
    outs = yaml.safe_load(lock)["stages"]["overlap"]["outs"]
    (overlap,) = [out["md5"] for out in outs if out["path"] == "Results/overlap.csv"]
    change(study / ".dvc" / "cache" / "files" / "md5" / overlap[:2] / overlap[2:])
    (study / "Results" / "overlap.csv").unlink()
    change(study / "data" / "identity" / "images-00000.npy")
    change(study / "Results" / "decoding.csv")
    (study / ".dvc" / "tmp" / "rwlock").write_text("")
    (study / "dvc.lock").write_text("")
    leftover = study / "checkpoints" / "train" / ".joint-1.safetensors.abcd1234.partial"
    leftover.write_text("of a run that was killed")
    said = run("python", "-m", "facespec", "repro", cwd=study, path=installed)
    assert "images-00000.npy: row" in said
    assert "The identity faces are made again." in said
    assert "dvc.lock: damaged by a run that was killed" in said and "rwlock: damaged" in said
    assert "Results/decoding.csv: other bytes than dvc.lock records; it is made again." in said
    assert "damaged copy in DVC's cache; removed." in said
    assert (study / "dvc.lock").read_bytes() == lock and not leftover.exists()
    assert run("python", "-m", "facespec", "verify", cwd=study, path=installed).endswith("0 differences found.\n")


TOLERANCE = 0.09  # of accuracies: three times the largest change by the native code path of a Zen 4 [measured: .029]


def test_every_output_is_that_of_the_golden_study(study: Path, golden: ModuleType) -> None:
    """Bit for bit, in whatever directory and with whatever number of workers; elsewhere by the accuracies."""
    recorded = json.loads((PROJECT / "tests" / "golden" / "quick.json").read_text())
    found = golden.record(study)
    assert found["outputs"].keys() == recorded["outputs"].keys()
    if explain_other_bits():
        assert found["outputs"]["data"] == recorded["outputs"]["data"]  # faces have the same bytes everywhere
        assert found["accuracies"] == pytest.approx(recorded["accuracies"], rel=0, abs=TOLERANCE)
        return
    differing = [name for name, outs in found["outputs"].items() if outs != recorded["outputs"].get(name)]
    assert not differing, (
        f"{len(differing)} stages have other outputs than tests/golden/quick.json says; {differing[0]} is the first. "
        "If the change is meant to change numbers: `make golden`, and say in the commit why. If it is not, it does."
    )


def test_a_parameter_reruns_what_reads_it(study: Path, installed: Path) -> None:
    params = study / "params.yaml"
    before = params.read_text()
    try:
        params.write_text(before.replace("margin: 0.02", "margin: 0.03"))
        said = run("dvc", "repro", "--dry", cwd=study, path=installed)
        assert list_run_stages(said) == ["fingerprints", "checks"]
        params.write_text(before.replace("hold_out: cell", "hold_out: session"))
        said = run("dvc", "repro", "--dry", cwd=study, path=installed)
        rerun = {name.split("@")[0] for name in list_run_stages(said)}
        assert {"finetune", "decoding", "accuracy"} <= rerun and "train" not in rerun
    finally:
        params.write_text(before)


def test_tables_keep_their_contract(study: Path) -> None:
    params = read_params(study / "params.yaml")
    decoding = ACCURACY.read(study / "Results" / "decoding.csv")
    accuracy = ACCURACY.read(study / "Results" / "accuracy.csv")
    decoded, tested = decoding[decoding["figure"] != "S1B"], decoding[decoding["figure"] == "S1B"]
    assert len(decoded) == (8 + 12) * len(params.seeds) * (params.decoding.resamples + 1)  # networks and baselines
    assert len(tested) == 6 * len(params.seeds) * (params.accuracy.resamples + 1)
    assert len(accuracy) == 10 * len(params.seeds) * (params.accuracy.resamples + 1)
    cells = pd.concat([decoding, accuracy]).query("resample == -1")
    # counted by hand from the quick profile: 20 people x 7 expressions; 7 x 5; 20 people x 5; 350; 40 x 5
    counts = {"1B": (140, 140), "1C": (140, 140), "S1A": (35, 100), "S1B": (350, 200)}
    expected = {
        (figure, task): n
        for figure, both in counts.items()
        for task, n in zip(("expression", "identity"), both, strict=True)
    } | {("1C zero-shot", "expression"): 140}
    assert cells.groupby(["figure", "tested_on"])["n"].unique().map(list).to_dict() == {
        k: [n] for k, n in expected.items()
    }
    chance = cells.groupby(["figure", "tested_on"])["chance"].first()
    assert chance[("1B", "identity")] == 1 / 20 and chance[("1B", "expression")] == pytest.approx(1 / 7)
    assert chance[("S1A", "identity")] == 1 / 20 and chance[("S1B", "identity")] == 1 / 40
    assert set(cells["source"]) == {"embedded faces"}


def test_pickles_keep_the_originals_contract(study: Path) -> None:
    results = study / "Results"
    assert {path.name for path in results.glob("*.pickle")} == ACCURACY_PICKLES | OTHER_PICKLES
    for name in ACCURACY_PICKLES:
        content = read_pickle(results / name)
        assert len(content) == 4
        for values in content.values():
            assert len(values) == 100 and all(type(value) is float and 0 <= value <= 1 for value in values)
    decoding = ACCURACY.read(results / "decoding.csv")
    own = decoding.query(
        "figure == '1B' and trained_on == 'expression' and tested_on == 'identity' and 0 <= resample < 100"
    )
    key = "precision_score_face_expression_model_face_recognition_data"
    exported = read_pickle(results / "Fig1B_KDEF_Lesioned_models_dict_results.pickle")[key]
    np.testing.assert_array_equal(exported, own.sort_values("resample")["accuracy"])


def test_heatmap_tables_keep_their_contract(study: Path) -> None:
    results, params = study / "Results", read_params(study / "params.yaml")
    heatmaps = HEATMAPS.read(results / "heatmaps.csv")
    assert len(heatmaps) == 6 * len(params.seeds) * 8 * 2 * 6 * 6  # pairs, seeds, expressions, scales, cells
    everyone = heatmaps.query("expression == 'all'")
    assert set(everyone["n"] + everyone["blank"] * (everyone["scale"] == "scaled")) == {20 * 7 * 2}
    overlap = OVERLAP.read(results / "overlap.csv")
    assert set(overlap["resample"]) == set(range(-1, params.overlap.resamples))
    contrasts = CONTRASTS.read(results / "contrasts.csv")
    assert len(contrasts[contrasts["style"] == "sound"]) == 6 * 6 * 6
    regions = REGIONS.read(results / "regions.csv")
    shares = regions.query("measure == 'share' and against == ''").groupby(["trained_on", "tested_on", "expression"])
    # where all maps of an expression are blank, as a network this small leaves them, there are no shares
    np.testing.assert_allclose(shares["number"].sum(min_count=1).dropna(), 1, atol=1e-9)
    assert (regions["number"].notna() | (regions["reason"] != "")).all()
    truth = GROUNDTRUTH.read(results / "groundtruth.csv")
    assert {"expression", "identity", "joint", "random", "centre", "others", "ceiling"} <= set(truth["looks"])
    assert set(truth["truth_rule"]) == {"changes", "discriminability"}
    assert (truth["number"].notna() | (truth["reason"] != "")).all()
    assert truth["number"][truth["against"] != "centre_to_ceiling"].notna().all()
    shares = GROUNDTRUTH_MAPS.read(results / "groundtruth_maps.csv")
    height, width = MapSet.open(results / "heatmaps").size
    assert len(shares) == 4 * height * width
    # a tenth of the pixels, and ties
    assert shares.groupby(["truth_rule", "truth"])["number"].mean().between(0.099, 0.11).all()
    assert GROUNDTRUTH_OVERLAP.read(results / "groundtruth_overlap.csv")["number"].between(0, 1).all()


def test_heatmap_pickles_are_those_of_the_first_seed(study: Path) -> None:
    """From the raw maps, by the contract's words."""
    results, seed = study / "Results", read_params(study / "params.yaml").seeds[0]
    maps = MapSet.open(results / "heatmaps")
    pixels = read_pickle(results / "Fig2B_dict.pickle")
    names = {
        "SPLIT expression": ("joint", "expression"),
        "exp": ("expression", "expression"),
        "SPLIT id": ("joint", "identity"),
        "id": ("identity", "identity"),
    }
    assert set(pixels) == set(names)
    for key, (network, task) in names.items():
        mean = np.nanmean(scale_maps(maps.maps(network, task, seed)), axis=0)
        np.testing.assert_allclose(pixels[key], upsample_maps(mean, maps.size).ravel(), atol=1e-12)
    shown = read_pickle(results / "Fig2A_dict.pickle")
    assert set(shown) == {"avg_img", "SPLIT Expression", "exp", "SPLIT id", "id"}
    assert all(image.shape == (48, 48, 3) and image.min() >= 0 and image.max() <= 255 for image in shown.values())


def test_verdicts_are_a_dvc_metric(study: Path, installed: Path) -> None:
    table = VERDICTS.read(study / "Results" / "checks" / "verdicts.csv")
    assert set(table["claim"]) == {"C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8", "C9"}
    judged = json.loads((study / "Results" / "checks" / "verdicts.json").read_text())
    assert set(judged) == set(table["claim"])
    shown = json.loads(run("dvc", "metrics", "show", "--json", cwd=study, path=installed))
    (numbers,) = (file["data"] for file in shown[""]["data"].values())
    parts = table.dropna(subset=["number"])
    assert numbers == {f"{row.claim} {row.part}": row.number for row in parts.itertuples()}


def test_curves_and_figures_are_dvc_plots(study: Path, installed: Path) -> None:
    """Training curves have a colour per task; every figure is shown."""
    plots = json.loads(run("dvc", "plots", "show", "--json", cwd=study, path=installed))
    assert not plots.get("errors") and {f"Results/figures/{name}.png" for name in FIGURES} <= plots["data"].keys()
    (curve,) = plots["data"]["checkpoints/train/joint-1.csv"]
    assert curve["content"]["encoding"]["color"]["field"] == "task"


def test_a_grid_of_networks_is_a_pipeline_too(installed: Path, tmp_path: Path) -> None:
    """Few faces and few networks; a part that is added to the grid leaves the others as they are."""
    tiny = [setting for setting in TINY if not setting.startswith("seeds")]
    settings = [word for setting in [*tiny, "seeds=[1]"] for word in ("--set", setting)]
    parts = ["{epochs: [1]}", "{epochs: [1], branch_after: [conv1]}"]
    directory = tmp_path / "grid"
    for n, expected in ((1, 3), (2, 1)):
        grid = ["--set", f"sharing.grid=[{', '.join(parts[:n])}]", "--grid"]
        run("facespec", "init", str(directory), *settings, *grid, cwd=tmp_path, path=installed)
        said = run("facespec", "repro", str(directory), "--workers", "1", cwd=tmp_path, path=installed)
        assert len([name for name in list_run_stages(said) if name.startswith("fit@")]) == expected
    assert "Joint less single-task networks" in said
    # cells, tasks, splits; one seed and the mean
    assert len(SHARING.read(directory / "Results" / "sharing.csv")) == 2 * 2 * 2 * 2
    assert run("facespec", "verify", str(directory), cwd=tmp_path, path=installed).endswith("0 differences found.\n")


def test_the_notebooks_run_on_this_study(study: Path, installed: Path) -> None:
    said = run(
        "python",
        "-m",
        "pytest",
        "--nbval-lax",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        ".",
        "Analysis_Reproduction",
        cwd=study,
        path=installed,
    )
    assert " passed" in said and "failed" not in said
