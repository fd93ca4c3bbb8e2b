"""The stage that says which code the others run, as DVC sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from facespec.stages import fingerprints, init
from facespec.stages.dvc_files import read_pipeline
from facespec.study.fingerprints import fingerprint_stage
from facespec.study.paths import Paths

PROJECT = Path(__file__).resolve().parents[2]
TINY = [
    *("data.size=32", "data.expression.train=42", "data.expression.test=14", "data.probe.people=2"),
    "decoding.expression_test=1",
]


def run(*words: str, cwd: Path) -> str:
    # `python` in dvc.yaml is this one, as in an activated environment, and facespec is the one under test
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", *words]
    ended = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_every_other_stage_has_a_fingerprint(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "mine")
    init.run(paths.root, profile="quick")
    paths.fingerprints.unlink()
    fingerprints.run(paths)
    written = json.loads(paths.fingerprints.read_text())
    assert written.keys() == read_pipeline(paths.root).keys() - {"fingerprints"}
    assert written["checks"] == fingerprint_stage("checks")


def test_a_new_study_shows_what_would_run(tmp_path: Path) -> None:
    """Before anything was made. Without --force, DVC's dry run stops at the first input that is not there yet."""
    init.run(tmp_path / "mine", profile="quick")
    listed = run("dvc", "repro", "--dry", "--force", cwd=tmp_path / "mine")
    stages = [line.split("'")[1] for line in listed.splitlines() if line.startswith("Running stage")]
    assert stages[:2] == ["fingerprints", "data@expression"] and stages[-1] in ("checks", "figures", "export")


def test_an_experiment_makes_other_faces(tmp_path: Path) -> None:
    """Within a git repository, by DVC's own command; other roles stay as they are."""
    study = tmp_path / "mine"
    for words in (("init",), ("config", "user.name", "tester"), ("config", "user.email", "tester@example.org")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True)
    init.run(study, profile="quick", settings=TINY)
    jobs = ["data@expression", "data@probe"]
    run("dvc", "repro", "--quiet", *jobs, cwd=study)
    for words in (("add", "--all"), ("commit", "--message", "start")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True)
    said = run("dvc", "exp", "run", *jobs, "-S", "data.expression.train=49", cwd=study)
    assert "Running stage 'data@expression'" in said and "Running stage 'data@probe'" not in said
    header = json.loads((study / "data" / "expression" / "faceset.json").read_text())
    assert header["n"] == 49 + 14
    shown = json.loads(run("dvc", "exp", "show", "--json", cwd=study))
    values = {entry["data"]["params"]["params.yaml"]["data"]["data"]["expression"]["train"] for entry in shown[:1]}
    assert values == {49}, "the experiment records the parameter that it used"
