"""Copy the versions of the direct dependencies from requirements.lock to pixi.toml; `make lock` runs this.

The manifest pins what pyproject.toml names; pixi.lock, which `pixi lock` makes, holds everything else.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

BEGIN, END = "# pins: made by `make lock` from requirements.lock\n", "# end of pins\n"


def read_versions(lock: str) -> dict[str, str]:
    """Package -> exact version, from the text of requirements.lock."""
    return dict(re.findall(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", lock, flags=re.MULTILINE))


def list_dependencies(pyproject: dict[str, Any]) -> dict[str, list[str]]:
    """Table of the manifest -> the packages that pyproject.toml names for it."""
    package = pyproject["project"]
    extras = package.get("optional-dependencies", {})
    requirements = {
        "pypi-dependencies": [*package["dependencies"], *(line for extra in extras.values() for line in extra)],
        "feature.dev.pypi-dependencies": pyproject["dependency-groups"]["dev"],
    }
    names = {
        table: {canonicalize_name(Requirement(line).name) for line in requirements[table]} for table in requirements
    }
    return {table: sorted(names[table] - {package["name"]}) for table in names}


def format_pins(pyproject: dict[str, Any], lock: str) -> str:
    """The manifest's tables of pinned packages; the package itself comes with all of its extras."""
    versions, extras = read_versions(lock), sorted(pyproject["project"].get("optional-dependencies", {}))
    with_extras = f", extras = {json.dumps(extras)}" if extras else ""
    tables = []
    for table, names in list_dependencies(pyproject).items():
        lines = [f'{name} = "=={versions[name]}"' for name in names]
        if table == "pypi-dependencies":
            lines.insert(0, f'facespec = {{ path = ".", editable = true{with_extras} }}')
        tables.append("\n".join([f"[{table}]", *lines, ""]))
    return "\n".join(tables)


def main() -> None:
    manifest = Path("pixi.toml")
    before, rest = manifest.read_text(encoding="utf-8").split(BEGIN)
    pyproject = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    pins = format_pins(pyproject, Path("requirements.lock").read_text(encoding="utf-8"))
    manifest.write_text(before + BEGIN + pins + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
