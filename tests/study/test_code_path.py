"""The code path is chosen before numpy and torch are loaded; if it is not portable, the reason says why."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from facespec.study import code_path
from facespec.study.code_path import CODE_PATH_VARIABLE, SETTINGS, choose_code_path, find_obstacle, get_code_path
from facespec.study.errors import StudyError

AVX2 = frozenset({"avx2", "fma", "sse2"})
needs_avx2 = pytest.mark.skipif(bool(find_obstacle()), reason=f"no portable code path here: {find_obstacle()}")


def run(program: str, **environment: str) -> list[str]:
    """Lines that `program` prints in a new process, with none of this one's settings but those in `environment`."""
    inherited = {name: value for name, value in os.environ.items() if name not in {CODE_PATH_VARIABLE, *SETTINGS}}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env={**inherited, **environment}, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@needs_avx2
def test_every_library_uses_its_avx2_kernels() -> None:
    """As the libraries report, on processors with and without wider vectors."""
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
    report, *verbose = run(program, ONEDNN_VERBOSE="1")
    assert json.loads(report) == {"numpy": ["X86_V3"], "openblas": ["Haswell"], "aten": "AVX2"}
    kernels = [line for line in verbose if ",exec," in line or "info,cpu,isa" in line]
    assert any("AVX2" in line for line in kernels) and not any("avx512" in line.lower() for line in kernels)


@needs_avx2
def test_a_child_process_inherits_the_code_path_and_can_change_it() -> None:
    program = "from facespec.study.code_path import *; print(choose_code_path()); import os; print(sorted(os.environ))"
    portable, variables = run(program)
    assert portable == "CodePath(name='portable', reason='')"
    assert all(repr(name) in variables for name in (CODE_PATH_VARIABLE, *SETTINGS))
    native, variables = run(program, **SETTINGS, **{CODE_PATH_VARIABLE: "native"})
    assert "native" in native and not any(repr(name) in variables for name in SETTINGS)


@needs_avx2
def test_libraries_that_were_loaded_before_are_named() -> None:
    """Unless a parent process had made the settings."""
    program = "import sys, LIBRARY; from facespec.study.code_path import *; print(choose_code_path().reason)"
    message = "had been loaded before the code path was chosen"
    both = program.replace("LIBRARY", "numpy; sys.modules['torch'] = None")  # loading torch takes long
    assert run(both) == [f"numpy and torch {message}"]
    assert run(program.replace("LIBRARY", "numpy")) == [f"numpy {message}"]
    assert run(program.replace("LIBRARY", "numpy"), **SETTINGS) == [""]


def test_importing_the_package_chooses_nothing() -> None:
    program = "import facespec, os, sys; print(sorted(os.environ), 'numpy' in sys.modules, 'torch' in sys.modules)"
    (line,) = run(program)
    assert not any(repr(name) in line for name in (CODE_PATH_VARIABLE, *SETTINGS)) and line.endswith("] False False")


@pytest.mark.parametrize(
    ("system", "machine", "flags", "reason"),
    [
        ("Linux", "x86_64", AVX2, ""),
        ("Linux", "AMD64", AVX2 | {"avx512f"}, ""),
        ("Linux", "x86_64", frozenset({"sse2", "avx"}), "this processor has no AVX2 and no FMA"),
        ("Linux", "aarch64", frozenset(), "this processor is aarch64, and equal bits are promised on x86-64"),
        ("Darwin", "arm64", frozenset(), "this is Darwin, and equal bits are promised under Linux"),
        ("Windows", "AMD64", AVX2, "this is Windows, and equal bits are promised under Linux"),
    ],
)
def test_the_obstacle_is_named(system: str, machine: str, flags: frozenset[str], reason: str) -> None:
    assert find_obstacle(system, machine, flags) == reason


def test_with_an_obstacle_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_path, "_read_processor_flags", lambda: frozenset({"sse2"}))
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(CODE_PATH_VARIABLE, "portable")
    chosen = choose_code_path()
    assert (chosen.portable, chosen.reason) == (False, "this processor has no AVX2 and no FMA")
    assert not any(name in os.environ for name in SETTINGS)


def test_changed_settings_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_path, "find_obstacle", lambda: "")
    for name, value in {**SETTINGS, CODE_PATH_VARIABLE: "portable"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(code_path, "_loaded_too_early", [])
    assert get_code_path().portable
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    assert get_code_path().reason == "the libraries' settings were changed by others"


def test_another_name_is_refused() -> None:
    with pytest.raises(StudyError, match=r"unknown code path 'natve'.*did you mean 'native'\?"):
        choose_code_path("natve")


@needs_avx2
@pytest.mark.skipif(os.environ.get(CODE_PATH_VARIABLE) == "native", reason="the native code path was chosen")
def test_the_tests_run_on_the_portable_code_path() -> None:
    """No plugin of pytest loads numpy before tests/conftest.py chooses the code path."""
    assert get_code_path().portable, get_code_path().reason


def test_commands_choose_the_code_path_before_libraries_are_loaded() -> None:
    """The installed command and `python -m facespec` both start in ``__main__.py``."""
    main = Path(code_path.__file__).parents[1] / "__main__.py"
    lines = [line.strip() for line in main.read_text(encoding="utf-8").splitlines()]
    assert lines.index("choose_code_path()") < lines.index("from facespec.cli import main as run_command")
