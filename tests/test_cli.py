from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def facespec(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "facespec", *words], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_a_refusal_is_its_message_alone(tmp_path: Path) -> None:
    ended = facespec("checks", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr == (
        "facespec: params.yaml: no such file. Run inside a study directory; `facespec init DIR` makes one.\n"
    )


def test_an_unknown_network_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    ended = facespec("train", "SPLIT", "1", cwd=tmp_path)
    assert ended.returncode == 2
    for network in ("expression", "identity", "joint"):
        assert network in ended.stderr


@pytest.mark.parametrize("words", [(), ("data",), ("published",), ("train",)])
def test_every_command_explains_itself(words: tuple[str, ...], tmp_path: Path) -> None:
    ended = facespec(*words, "--help", cwd=tmp_path)
    assert ended.returncode == 0 and "Usage" in ended.stdout


def test_help_does_not_wait_for_torch(tmp_path: Path) -> None:
    program = "import sys, facespec.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode == 0
