"""Where things lie in a study directory. Pure functions of names to paths: nothing here touches the disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from facespec.study.vocabulary import Network, Role


@dataclass(frozen=True)
class Paths:
    """The paths of one study, below the directory that holds its `params.yaml` and `dvc.yaml`."""

    root: Path = field(default_factory=Path)

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def data(self) -> Path:
        return self.root / "data"

    def faces(self, role: Role | str) -> Path:
        """The FaceSet of one role."""
        return self.data / Role(role).value

    @property
    def state(self) -> Path:
        """What facespec remembers about the study, beside its data and results."""
        return self.root / ".facespec"

    @property
    def faces_record(self) -> Path:
        """Where the faces came from."""
        return self.state / "faces.json"

    @property
    def lock_copy(self) -> Path:
        """The last good copy of DVC's lock."""
        return self.state / "dvc.lock"

    @property
    def marker(self) -> Path:
        """The file that says "this is a study directory"; `facespec init` writes it."""
        return self.state / "study.json"

    def checkpoint(self, stage: str, network: Network | str, seed: int) -> Path:
        """A network's weights after `stage` (``train`` or ``finetune``)."""
        return self.root / "checkpoints" / stage / f"{Network(network).value}-{seed}.safetensors"

    def history(self, stage: str, network: Network | str, seed: int) -> Path:
        """Loss and accuracy per epoch of `stage`."""
        return self.root / "checkpoints" / stage / f"{Network(network).value}-{seed}.csv"

    def progress(self, stage: str, network: Network | str, seed: int) -> Path:
        """The last completed epoch of an unfinished `stage`; gone when the stage is done."""
        return self.root / "checkpoints" / "unfinished" / f"{stage}-{Network(network).value}-{seed}.safetensors"

    @property
    def lesions(self) -> Path:
        """Finished jobs of an unfinished sweep of lesions; gone when the sweep is done."""
        return self.root / "checkpoints" / "unfinished" / "lesions"

    @property
    def results(self) -> Path:
        return self.root / "Results"

    def table(self, name: str) -> Path:
        """A tidy table of the results."""
        return self.results / f"{name}.csv"

    @property
    def heatmaps(self) -> Path:
        """The raw heatmaps of all networks, a `study.maps.MapSet`."""
        return self.results / "heatmaps"

    @property
    def preferred(self) -> Path:
        """The preferred stimuli of all units, a `study.preferred.PreferredSet`."""
        return self.results / "preferred"

    def figure(self, name: str, suffix: str) -> Path:
        return self.results / "figures" / f"{name}.{suffix}"

    @property
    def verdicts(self) -> Path:
        return self.results / "checks" / "verdicts.json"
