"""The code path is chosen once, before numpy and torch load; where it cannot hold, it says why."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from facespec.study import code_path as room
from facespec.study.code_path import SETTINGS, VARIABLE, choose_code_path, find_obstacle, get_code_path
from facespec.study.errors import StudyError

AVX2 = frozenset({"avx2", "fma", "sse2"})
here = pytest.mark.skipif(bool(find_obstacle()), reason=f"the portable code path cannot hold here: {find_obstacle()}")


def run(program: str, **environment: str) -> list[str]:
    """Lines that `program` prints in a fresh process, with no setting of this one but those in `environment`."""
    clean = {name: value for name, value in os.environ.items() if name not in {VARIABLE, *SETTINGS}}
    ended = subprocess.run(
        [sys.executable, "-c", program], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    return ended.stdout.splitlines()


@here
def test_every_library_is_held_to_avx2() -> None:
    """By what the libraries say of themselves, on processors that could do more and on those that could not."""
    program = """
from facespec.study.code_path import choose_code_path
assert choose_code_path().portable
import json, numpy, scipy.linalg, torch
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
from threadpoolctl import threadpool_info
print(json.dumps({
    "numpy": [name for name in __cpu_dispatch__ if __cpu_features__[name]],
    "openblas": sorted({each["architecture"] for each in threadpool_info() if each["internal_api"] == "openblas"}),
    "aten": torch.backends.cpu.get_cpu_capability(),
}))
torch.conv2d(torch.ones(4, 16, 24, 24), torch.ones(32, 16, 3, 3))
"""
    said, *verbose = run(program, ONEDNN_VERBOSE="1")
    assert json.loads(said) == {"numpy": ["X86_V3"], "openblas": ["Haswell"], "aten": "AVX2"}
    kernels = [line for line in verbose if ",exec," in line or "info,cpu,isa" in line]
    assert any("AVX2" in line for line in kernels) and not any("avx512" in line.lower() for line in kernels)


@here
def test_it_is_inherited_and_can_be_left() -> None:
    program = "from facespec.study.code_path import *; print(choose_code_path()); import os; print(sorted(os.environ))"
    portable, variables = run(program)
    assert portable == "CodePath(name='portable', reason='')"
    assert all(repr(name) in variables for name in (VARIABLE, *SETTINGS))
    native, variables = run(program, **SETTINGS, **{VARIABLE: "native"})
    assert "native" in native and not any(repr(name) in variables for name in SETTINGS)


@here
def test_libraries_that_were_loaded_before_are_named() -> None:
    program = "import torch; from facespec.study.code_path import choose_code_path; print(choose_code_path().reason)"
    assert run(program) == ["numpy and torch had been loaded before the code path was chosen"]


@here
def test_a_library_that_was_loaded_with_the_settings_made_is_no_loss() -> None:
    program = "import numpy; from facespec.study.code_path import choose_code_path; print(choose_code_path().reason)"
    assert run(program) == ["numpy had been loaded before the code path was chosen"]
    assert run(program, **SETTINGS) == [""]


def test_importing_the_package_chooses_nothing() -> None:
    program = (
        "import facespec, os, sys; print(sorted(os.environ)); print('numpy' in sys.modules, 'torch' in sys.modules)"
    )
    variables, loaded = run(program)
    assert not any(repr(name) in variables for name in (VARIABLE, *SETTINGS))
    assert loaded == "False False"


@pytest.mark.parametrize(
    "system, machine, flags, reason",
    [
        ("Linux", "x86_64", AVX2, ""),
        ("Linux", "AMD64", AVX2 | {"avx512f"}, ""),
        ("Linux", "x86_64", frozenset({"sse2", "avx"}), "this processor has no AVX2 and no FMA"),
        ("Linux", "aarch64", frozenset(), "this processor is aarch64, and equal bits are promised on x86-64"),
        ("Darwin", "arm64", frozenset(), "this is Darwin, and equal bits are promised under Linux"),
        ("Windows", "AMD64", AVX2, "this is Windows, and equal bits are promised under Linux"),
    ],
)
def test_where_it_holds_and_why_not(system: str, machine: str, flags: frozenset[str], reason: str) -> None:
    assert find_obstacle(system, machine, flags) == reason


def test_where_it_cannot_hold_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_processor_flags", lambda: frozenset({"sse2"}))
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(VARIABLE, "portable")
    chosen = choose_code_path()
    assert (chosen.portable, chosen.reason) == (False, "this processor has no AVX2 and no FMA")
    assert not any(name in os.environ for name in SETTINGS)


def test_settings_that_others_change_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "find_obstacle", lambda: "")
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(VARIABLE, "portable")
    monkeypatch.setattr(room, "_loaded_before", [])
    assert get_code_path().portable
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    assert get_code_path().reason == "the libraries' settings were changed by others"


def test_another_name_is_refused() -> None:
    with pytest.raises(StudyError, match=r"unknown code path 'natve'.*did you mean 'native'\?"):
        choose_code_path("natve")


@here
@pytest.mark.skipif(os.environ.get(VARIABLE) == "native", reason="the native code path was asked for")
def test_the_tests_themselves_run_on_it() -> None:
    """No plugin of pytest loads numpy before tests/conftest.py chooses."""
    assert get_code_path().portable, get_code_path().reason


def test_commands_choose_before_anything_loads() -> None:
    """The installed command and `python -m facespec` begin in the same place."""
    main = Path(room.__file__).parents[1] / "__main__.py"
    lines = [line.strip() for line in main.read_text(encoding="utf-8").splitlines()]
    assert lines.index("choose_code_path()") < lines.index("from facespec.cli import main as run_command")
