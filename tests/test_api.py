"""What `import facespec` offers: cheap to import, documented, and its examples run."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import facespec

PROJECT = Path(__file__).resolve().parents[1]


def test_importing_loads_neither_torch_nor_pandas() -> None:
    look = (
        "import facespec, sys; print(sorted({'torch', 'pandas', 'numpy', 'matplotlib', 'pydantic'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", look], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_help_loads_neither_torch_nor_pandas() -> None:
    look = (
        "import sys; from typer.testing import CliRunner; from facespec.cli import app; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0; "
        "print(sorted({'torch', 'pandas', 'matplotlib', 'pydantic', 'ruamel'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", look], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_every_exported_name_is_there_and_no_other() -> None:
    assert len(facespec.__all__) == len(set(facespec.__all__)) and set(facespec.__all__) <= set(dir(facespec))
    for name in facespec.__all__:
        assert getattr(facespec, name).__name__ == name
    with pytest.raises(AttributeError, match="'facespec' has no attribute 'record'; it exports"):
        _ = facespec.record


@pytest.mark.parametrize("name", facespec.__all__)
def test_an_exported_name_is_documented(name: str) -> None:
    """In numpydoc's sections, with an example that runs."""
    value = getattr(facespec, name)
    text = inspect.getdoc(value) or ""
    sections = ["Parameters"] if inspect.isfunction(value) and inspect.signature(value).parameters else []
    if inspect.isfunction(value) and inspect.signature(value).return_annotation not in ("None", "Iterator[None]"):
        sections.append("Yields" if inspect.isgeneratorfunction(inspect.unwrap(value)) else "Returns")
    for section in sections:
        assert f"{section}\n{'-' * len(section)}\n" in text, f"{name}: its docstring lacks the section {section}"
    if name.startswith("draw_figure"):  # whole tables are their input: the page that makes these draws them, too
        assert f"{name}(" in (PROJECT / "docs" / "lesions.md").read_text(encoding="utf-8")
        return
    assert ">>> " in text or "Its example" in text, f"{name}: its docstring lacks an example"
    examples = doctest.DocTestFinder(recurse=False).find(value, name, module=ModuleType("example"), globs={})
    failures: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    module = inspect.getmodule(value)
    with torch.random.fork_rng(devices=[]):  # new modules of torch draw their weights from its global generator
        for example in examples:
            example.globs.update(vars(module))
            runner.run(example, out=failures.append)
    assert not failures, "".join(failures)
