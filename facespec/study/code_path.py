"""Which of a processor's instructions the numerical libraries use; chosen before numpy and torch load.

oneDNN, MKL, OpenBLAS, ATen and numpy choose their kernels by processor, and kernels that use wider vectors add floats
in another order. On the *portable* code path all of them are held to their AVX2 kernels: equal inputs give equal bits
on every x86-64 machine with AVX2 under Linux. The *native* code path leaves the choice to the libraries: faster on
processors with AVX-512, with bits of their own. `docs/portability.md` has the details.

Commands, pipeline stages, tests and notebooks call `choose_code_path` first. `import facespec` alone changes nothing.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from facespec.study.errors import StudyError, suggest_spelling

CODE_PATHS = ("portable", "native")
VARIABLE = "FACESPEC_CODE_PATH"  # an environment variable, not a parameter of the study: hardware is not science
SETTINGS = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",  # the only mode in which MKL promises equal results on processors of other makers
    "ATEN_CPU_CAPABILITY": "avx2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # all of numpy's kernels above AVX2
}
NEEDED = {"avx2", "fma"}  # processor flags, by Linux's names
LIBRARIES = ("numpy", "torch")  # each reads its settings once, when it is loaded

_loaded_before: list[str] = []  # libraries that were loaded before the settings were made


@dataclass(frozen=True)
class CodePath:
    """The code path of this process: its `name`, and why its bits are its own (`reason`; empty: they are portable)."""

    name: str
    reason: str

    @property
    def portable(self) -> bool:
        """Whether equal inputs give the bits that every other machine on the portable code path gives."""
        return not self.reason


def choose_code_path(name: str | None = None) -> CodePath:
    """Choose the code path of this process and of those it starts; call it before numpy or torch is imported.

    Parameters
    ----------
    name : {"portable", "native"}, optional
        By default the environment variable ``FACESPEC_CODE_PATH``, else "portable".

    Returns
    -------
    CodePath
        What holds from here on. The portable code path cannot hold on other processors and systems, or where numpy or
        torch were loaded before; nothing is raised then, and `reason` says so.

    Raises
    ------
    StudyError
        For another name.
    """
    name = name or os.environ.get(VARIABLE) or CODE_PATHS[0]
    if name not in CODE_PATHS:
        raise StudyError(f"unknown code path {name!r} ({VARIABLE}): {suggest_spelling(name, CODE_PATHS)}")
    os.environ[VARIABLE] = name
    if name == "native":  # started by a process on the portable code path: its settings are not for this one
        for setting in [setting for setting, value in SETTINGS.items() if os.environ.get(setting) == value]:
            del os.environ[setting]
    elif not find_obstacle() and not _settings_made():
        os.environ.update(SETTINGS)
        _loaded_before[:] = [library for library in LIBRARIES if library in sys.modules]
    return get_code_path()


def get_code_path() -> CodePath:
    """The code path of this process, chosen or not."""
    name = os.environ.get(VARIABLE, "native")
    if name != "portable":
        return CodePath(name, f"it runs on the native code path ({VARIABLE})")
    if obstacle := find_obstacle():
        return CodePath(name, obstacle)
    if not _settings_made():
        return CodePath(name, "the libraries' settings were changed by others")
    if _loaded_before:
        return CodePath(name, f"{' and '.join(_loaded_before)} had been loaded before the code path was chosen")
    return CodePath(name, "")


def find_obstacle(system: str | None = None, machine: str | None = None, flags: frozenset[str] | None = None) -> str:
    """Why the portable code path cannot hold on this machine, or on the one described; empty where it can."""
    system, machine = system or platform.system(), machine or platform.machine()
    if system != "Linux":
        return f"this is {system}, and equal bits are promised under Linux"
    if machine.lower() not in ("x86_64", "amd64"):
        return f"this processor is {machine}, and equal bits are promised on x86-64"
    if missing := NEEDED - (_processor_flags() if flags is None else flags):
        return f"this processor has no {' and no '.join(sorted(name.upper() for name in missing))}"
    return ""


def _processor_flags() -> frozenset[str]:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:  # a paragraph per core: the first is enough
            return frozenset(next((line for line in lines if line.startswith("flags")), "").split())
    except OSError:
        return frozenset()


def _settings_made() -> bool:
    return all(os.environ.get(name) == value for name, value in SETTINGS.items())
