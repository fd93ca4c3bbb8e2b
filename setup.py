"""Put into the wheel what `facespec init` copies, from where it lies in a clone. The rest is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

NAMES = ("params.yaml", "dvc.yaml", ".dvcignore", ".dvc/plots/by_task.json")


class BuildWithTemplate(build_py):
    """Copies the template of study directories beside the package's modules."""

    def run(self) -> None:
        """Build as usual; an editable installation uses the clone itself."""
        super().run()
        if self.editable_mode:
            return
        template = Path(self.build_lib) / "facespec" / "template"
        for path in [*map(Path, NAMES), *Path("Analysis_Reproduction").glob("*.ipynb")]:
            (template / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, template / path)


setup(cmdclass={"build_py": BuildWithTemplate})
