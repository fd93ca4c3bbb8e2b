"""The documents say what the code does."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path


def marked(text: str, mark: str) -> set[str]:
    """Dotted names of the parameters whose line carries `mark`."""
    names, block = set(), []
    for line in text.split("\nprofiles:")[0].splitlines():
        found = re.match(r"( *)([a-z_]+):", line)
        if found and not line.lstrip().startswith("#"):
            block = [*block[: len(found[1]) // 2], found[2]]
            if f"[{mark}" in line:
                names.add(".".join(block))
    return names


def test_every_decision_of_ours_is_listed_in_the_deviations(project: Path) -> None:
    listed = set(re.findall(r"`([a-z_.]+)`", (project / "docs" / "deviations.md").read_text()))
    own = marked((project / "params.yaml").read_text(), "O")
    assert len(own) > 30
    assert own <= listed


def test_links_of_the_documents_lead_somewhere(project: Path) -> None:
    for document in [project / "README.md", *(project / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_the_readmes_verdicts_are_those_of_the_recorded_run(project: Path) -> None:
    # of the commit, where there is one: a run on another kind of machine may have left other digits in the working tree
    shown = subprocess.run(
        ["git", "show", "HEAD:Results/checks/verdicts.json"], cwd=project, capture_output=True, text=True, check=False
    )
    text = shown.stdout if shown.returncode == 0 else (project / "Results" / "checks" / "verdicts.json").read_text()
    recorded = json.loads(text)
    expected = []
    for claim, entry in recorded.items():
        for part in entry["parts"].values():
            published = f"{part['published']:+.3f}" if "published" in part else "none"
            interval = f"{part['number']:+.3f} ({part['low']:+.3f} to {part['high']:+.3f})"
            expected.append((claim, interval, published, part["verdict"]))
    rows = re.findall(
        r"^\| (C\d): [^|]+ \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", (project / "README.md").read_text(), re.M
    )
    assert rows == expected and len(rows) >= 11
