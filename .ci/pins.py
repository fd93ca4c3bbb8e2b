"""Carry the pins of requirements.lock into pixi.toml: `make lock` runs this after `uv export`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from packaging.requirements import Requirement

PLATFORMS = {
    platform: dict(zip(("sys_platform", "platform_machine", "platform_system", "os_name"), markers, strict=True))
    for platform, markers in {
        "linux-64": ("linux", "x86_64", "Linux", "posix"),
        "linux-aarch64": ("linux", "aarch64", "Linux", "posix"),
        "osx-arm64": ("darwin", "arm64", "Darwin", "posix"),
        "win-64": ("win32", "AMD64", "Windows", "nt"),
    }.items()
}
PYTHON = {
    "python_version": "3.11",
    "python_full_version": "3.11.15",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}
BEGIN, END = "# pins: made by `make lock` from requirements.lock\n", "# end of pins\n"


def locked(lock: str) -> dict[str, dict[str, str]]:
    """Per pixi platform: package -> exact version, from the text of requirements.lock."""
    lines = re.findall(r"^([A-Za-z0-9][^\\\n]*)", lock, flags=re.MULTILINE)
    requirements = [Requirement(line.strip()) for line in lines]
    return {
        platform: {
            r.name: str(next(iter(r.specifier)).version)
            for r in requirements
            if r.marker is None or r.marker.evaluate({**PYTHON, **environment})
        }
        for platform, environment in PLATFORMS.items()
    }


def tables(pins: dict[str, dict[str, str]]) -> str:
    """The pins as TOML: what every platform shares, then what each has besides."""
    shared = dict(set.intersection(*(set(packages.items()) for packages in pins.values())))
    text = '[pypi-dependencies]\nfacespec = { path = ".", editable = true }\n' + _rows(shared)
    for platform, packages in pins.items():
        own = {name: version for name, version in packages.items() if name not in shared}
        if own:
            text += f"\n[target.{platform}.pypi-dependencies]\n" + _rows(own)
    return text


def _rows(packages: dict[str, str]) -> str:
    return "".join(f'{name} = "=={version}"\n' for name, version in sorted(packages.items()))


def main() -> None:
    manifest = Path("pixi.toml")
    before, rest = manifest.read_text().split(BEGIN)
    after = rest.split(END)[1]
    manifest.write_text(before + BEGIN + tables(locked(Path("requirements.lock").read_text())) + END + after)


if __name__ == "__main__":
    sys.exit(main())
