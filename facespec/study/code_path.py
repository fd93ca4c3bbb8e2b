"""Which processor instructions do the numerical libraries use? Chosen before numpy and torch are loaded.

oneDNN, MKL, OpenBLAS, ATen and numpy choose their kernels by processor, and kernels that use wider vectors add floats
in another order. On the *portable* code path all of them use their AVX2 kernels: equal inputs give equal bits on every
x86-64 machine with AVX2 under Linux. The *native* code path leaves the choice to the libraries: faster on processors
with AVX-512, but with results that differ between machines in their last bits. See ``docs/portability.md``.

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
CODE_PATH_VARIABLE = "FACESPEC_CODE_PATH"  # an environment variable, because hardware is no parameter of the study
SETTINGS = {  # environment variables of the libraries, on the portable code path
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",  # the only mode in which MKL promises equal results on processors of other makers
    "ATEN_CPU_CAPABILITY": "avx2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # all of numpy's kernels above AVX2
}
REQUIRED_FLAGS = {"avx2", "fma"}  # processor flags, as Linux names them
LIBRARIES = ("numpy", "torch")  # each reads its settings once, when it is loaded

_loaded_too_early: list[str] = []  # libraries that were loaded before the settings were made


@dataclass(frozen=True)
class CodePath:
    """The code path of this process: its `name`, and why its results are not portable (`reason`; empty: they are)."""

    name: str
    reason: str

    @property
    def portable(self) -> bool:
        """Whether equal inputs give the same bits as on every other machine on the portable code path."""
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
        The code path that is in force. It is not portable, and `reason` says why, on other processors and systems, or
        if numpy or torch were loaded before; no error is raised then.

    Raises
    ------
    StudyError
        For another name.

    Examples
    --------
    >>> choose_code_path() == get_code_path()
    True
    >>> choose_code_path("natve")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    facespec.study.errors.StudyError: unknown code path 'natve' (FACESPEC_CODE_PATH): did you mean 'native'? ...
    """
    name = name or os.environ.get(CODE_PATH_VARIABLE) or CODE_PATHS[0]
    if name not in CODE_PATHS:
        raise StudyError(f"unknown code path {name!r} ({CODE_PATH_VARIABLE}): {suggest_spelling(name, CODE_PATHS)}")
    os.environ[CODE_PATH_VARIABLE] = name
    if name == "native":  # remove the settings that a parent process on the portable code path made
        for setting in [setting for setting, value in SETTINGS.items() if os.environ.get(setting) == value]:
            del os.environ[setting]
    elif not find_obstacle() and not _has_settings():
        os.environ.update(SETTINGS)
        _loaded_too_early[:] = [library for library in LIBRARIES if library in sys.modules]
    return get_code_path()


def get_code_path() -> CodePath:
    """Return the code path of this process, whether or not `choose_code_path` was called."""
    name = os.environ.get(CODE_PATH_VARIABLE, "native")
    if name != "portable":
        return CodePath(name, f"it runs on the native code path ({CODE_PATH_VARIABLE})")
    if obstacle := find_obstacle():
        return CodePath(name, obstacle)
    if not _has_settings():
        return CodePath(name, "the libraries' settings were changed by others")
    if _loaded_too_early:
        return CodePath(name, f"{' and '.join(_loaded_too_early)} had been loaded before the code path was chosen")
    return CodePath(name, "")


def find_obstacle(system: str | None = None, machine: str | None = None, flags: frozenset[str] | None = None) -> str:
    """Explain why this machine, or the one described, cannot use the portable code path; empty if it can."""
    system, machine = system or platform.system(), machine or platform.machine()
    if system != "Linux":
        return f"this is {system}, and equal bits are promised under Linux"
    if machine.lower() not in ("x86_64", "amd64"):
        return f"this processor is {machine}, and equal bits are promised on x86-64"
    if missing := REQUIRED_FLAGS - (_read_processor_flags() if flags is None else flags):
        return f"this processor has no {' and no '.join(sorted(name.upper() for name in missing))}"
    return ""


def _read_processor_flags() -> frozenset[str]:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:  # one paragraph per core; the first is read
            return frozenset(next((line for line in lines if line.startswith("flags")), "").split())
    except OSError:
        return frozenset()


def _has_settings() -> bool:
    return all(os.environ.get(name) == value for name, value in SETTINGS.items())
