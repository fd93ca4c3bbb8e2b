"""Every name has a path of its own, and nothing touches the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from facespec.study.paths import Paths


def test_paths_differ_and_none_is_created(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "absent")
    properties = [name for name, value in vars(Paths).items() if isinstance(value, property)]
    files = [method("train", "joint", 1) for method in (paths.checkpoint, paths.history, paths.progress)]
    all_paths = [*(getattr(paths, name) for name in properties), *files]
    all_paths += [paths.faces("probe"), paths.table("decoding"), paths.figure("Fig1", "pdf")]
    assert len(set(all_paths)) == len(all_paths) == len(properties) + 6
    assert all(path.is_relative_to(tmp_path / "absent") for path in all_paths)
    assert not (tmp_path / "absent").exists()


def test_unknown_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="SPLIT"):
        Paths().checkpoint("train", "SPLIT", 1)
