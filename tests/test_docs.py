"""Do the documents say what the code does?"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from facespec.stages import init


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def documents(project: Path) -> list[Path]:
    return [*project.glob("*.md"), *(project / "docs").rglob("*.md")]


@pytest.fixture(scope="module")
def verdicts(project: Path) -> dict:
    """The verdicts of the recorded default study, of the commit: a run elsewhere may have changed the working tree."""
    shown = subprocess.run(
        ["git", "show", "HEAD:Results/checks/verdicts.json"], cwd=project, capture_output=True, text=True, check=False
    )
    return json.loads(shown.stdout if shown.returncode == 0 else read(project / "Results" / "checks" / "verdicts.json"))


@pytest.fixture(scope="module")
def reference(project: Path) -> dict:
    """The verdicts of the recorded reference study."""
    return json.loads(read(project / "docs" / "reference" / "verdicts.json"))


def list_headings(document: Path) -> set[str]:
    """The anchors of a document's headings, as Markdown viewers form them."""
    headings = re.findall(r"^#+ (.+)$", read(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def list_marked_params(text: str, mark: str) -> set[str]:
    """Dotted names of the parameters whose line in params.yaml carries `mark`."""
    names, block = set(), []
    for line in text.split("\nprofiles:")[0].splitlines():
        key = re.match(r"( *)([a-z_]+):", line)
        if key:
            block = [*block[: len(key[1]) // 2], key[2]]
            if f"[{mark}" in line:
                names.add(".".join(block))
    return names


def test_every_decision_of_ours_is_listed_in_the_deviations(project: Path) -> None:
    listed = set(re.findall(r"`([a-z_.]+)`", read(project / "docs" / "deviations.md")))
    ours = list_marked_params(read(project / "params.yaml"), "O")
    assert len(ours) > 30
    assert ours <= listed, "say in docs/deviations.md why these are as they are"


def test_links_of_the_documents_lead_somewhere(documents: list[Path]) -> None:
    for document in documents:
        for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", read(document)):
            target = document.parent / link if link else document
            assert target.exists(), f"{document.name}: {link} does not exist"
            assert not anchor or anchor in list_headings(target), f"{document.name}: {link} has no heading #{anchor}"


def format_verdict(claim: str, part: dict, default: dict) -> tuple[str, ...]:
    """The cells of a part's row in docs/results.md; a number that the record lacks is "none"."""
    signed = {name: f"{part[name]:+.3f}" if name in part else "none" for name in ("number", "low", "high", "published")}
    interval = f"{signed['number']} ({signed['low']} to {signed['high']})" if "number" in part else "none"
    coverage = f"{part['coverage']:.2f}" if "coverage" in part else "none"
    return claim, interval, coverage, signed["published"], part["verdict"], default["verdict"]


def test_results_hold_the_recorded_verdicts(project: Path, verdicts: dict, reference: dict) -> None:
    expected = [
        format_verdict(claim, part, verdicts[claim]["parts"][name])
        for claim, entry in reference.items()
        for name, part in entry["parts"].items()
    ]
    row = r"^\| (C\d): [^|]+ \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$"
    rows = re.findall(row, read(project / "docs" / "results.md"), re.MULTILINE)
    assert rows == expected and len(rows) >= 11


def test_the_history_has_a_row_per_claim_with_the_recorded_verdicts(
    project: Path, verdicts: dict, reference: dict
) -> None:
    history = read(project / "docs" / "results.md").split("### History")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (C\d) \| [^|]+ \| [^|]+ \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", history, re.MULTILINE)
    assert rows == [(claim, verdicts[claim]["verdict"], reference[claim]["verdict"]) for claim in reference]


def test_the_recorded_coverage_is_that_of_the_program(project: Path, load_script: Callable[[str], ModuleType]) -> None:
    """Its candidates and cells, and the choice that its rule makes of the recorded numbers."""
    coverage, page = load_script("benchmarks/coverage.py"), read(project / "docs" / "intervals.md")
    rows = re.findall(r"^\| ([^|]+) \| ([.\d]+) \| ([.\d]+) \| ([.\d]+) \| ([^|]+) \| ([^|]+) \|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == list(coverage.CANDIDATES)
    sufficient = {
        name: float(width) for name, *lowest, width, _ in rows if min(map(float, lowest)) >= coverage.REQUIRED
    }
    chosen = [name for name, *_, word in rows if word == "yes, narrowest"]
    assert chosen == [min(sufficient, key=sufficient.__getitem__)] == ["t, Cochran & Cox"]
    cells = re.findall(r"^\| ((?:normal|accuracies), [^|]+) \| (\d+) \|", page, re.MULTILINE)
    expected = [(label, str(seeds)) for seeds in coverage.SEEDS for label, _ in coverage.list_cells(seeds, 0)]
    assert cells == expected


def test_the_readme_sums_the_verdicts_up(project: Path, reference: dict) -> None:
    rows = re.findall(r"^\| (C\d) \| [^|]+ \| ([^|]+) \|$", read(project / "README.md"), re.MULTILINE)
    assert dict(rows) == {claim: entry["verdict"] for claim, entry in reference.items()}


def test_the_glossary_lists_what_it_cites(project: Path) -> None:
    tables, references = read(project / "docs" / "contributing.md").split("## References")
    cited = {
        citation for row in tables.splitlines() for citation in re.findall(r"[A-ZÖ][\w&,öÖ ]+?(?:et al\.)? \d{4}", row)
    }
    listed = set(re.findall(r"^- (.+? \d{4})", references, re.MULTILINE))
    assert len(cited) > 10 and cited == listed


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_the_house_map_shows_every_room(project: Path, page: str) -> None:
    rooms = {path.parent.name for path in (project / "facespec").glob("*/__init__.py")}
    assert set(re.findall(r"^ +([a-z]+)/ ", read(project / page), re.MULTILINE)) == rooms


def test_the_example_of_the_readme_runs(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", read(project / "README.md"), re.MULTILINE | re.DOTALL)
    with torch.random.fork_rng(devices=[]):
        exec(compile(example, "README.md", "exec"), {})
    assert re.fullmatch(r"\d+ of 512 units of layer4.1 respond differently\n", capsys.readouterr().out)


def test_one_version_in_all_files(project: Path) -> None:
    version = tomllib.loads(read(project / "pyproject.toml"))["project"]["version"]
    assert yaml.safe_load(read(project / "CITATION.cff"))["version"] == version
    changes = re.findall(r"^## \[(.+?)\]", read(project / "CHANGELOG.md"), re.MULTILINE)
    assert changes[0] == "Unreleased" and version in changes, f"CHANGELOG.md has no section for {version}"


def test_the_picture_of_the_pipeline_is_that_of_dvc(project: Path, tmp_path: Path) -> None:
    init.run(tmp_path / "study", profile="quick")
    command = [sys.executable, "-m", "dvc", "dag", "--mermaid"]
    drawn = subprocess.run(command, cwd=tmp_path / "study", capture_output=True, text=True, check=True).stdout
    (block,) = re.findall(r"^```mermaid\n(.*?)^```$", read(project / "docs" / "pipeline.md"), re.MULTILINE | re.DOTALL)
    assert block == drawn, "put the output of `dvc dag --mermaid` in a quick study into docs/pipeline.md"
