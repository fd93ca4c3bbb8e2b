"""Which file or directory of a study holds what? Names to paths; nothing here touches the disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from facespec.study.vocabulary import Network, Role


@dataclass(frozen=True)
class Paths:
    """The paths of one study; `root` is the directory that holds its ``params.yaml`` and ``dvc.yaml``."""

    root: Path = field(default_factory=Path)

    @property
    def params(self) -> Path:
        return self.root / "params.yaml"

    @property
    def fingerprints(self) -> Path:
        """The fingerprint of the code of every stage."""
        return self.root / "fingerprints.json"

    @property
    def data(self) -> Path:
        return self.root / "data"

    def faces(self, role: Role | str) -> Path:
        """The FaceSet of one role."""
        return self.data / Role(role).value

    @property
    def state(self) -> Path:
        """The directory of facespec's own records about the study."""
        return self.root / ".facespec"

    @property
    def faces_record(self) -> Path:
        """The record of the sources of the faces."""
        return self.state / "faces.json"

    @property
    def lock_copy(self) -> Path:
        """The last valid copy of ``dvc.lock``."""
        return self.state / "dvc.lock"

    @property
    def marker(self) -> Path:
        """The file that marks a study directory; `facespec init` writes it."""
        return self.state / "study.json"

    def checkpoint(self, stage: str, network: Network | str, seed: int) -> Path:
        """A network's weights after `stage` (``train``, ``finetune`` or ``untrained``)."""
        return self.root / "checkpoints" / stage / f"{Network(network).value}-{seed}.safetensors"

    def history(self, stage: str, network: Network | str, seed: int) -> Path:
        """Loss and accuracy per epoch of `stage`."""
        return self.root / "checkpoints" / stage / f"{Network(network).value}-{seed}.csv"

    def progress(self, stage: str, network: Network | str, seed: int) -> Path:
        """The state after the last completed epoch of an unfinished `stage`; removed when the stage is done."""
        return self.root / "checkpoints" / "unfinished" / f"{stage}-{Network(network).value}-{seed}.safetensors"

    def fit(self, name: str) -> Path:
        """What one network of the grid answers (`study.tables_sharing.FITS`)."""
        return self.root / "fits" / f"{name}.csv"

    def unfinished_fit(self, name: str) -> Path:
        """The state of a network of the grid after its last completed epoch; removed when it is done."""
        return self.root / "checkpoints" / "unfinished" / f"fit-{name}.safetensors"

    @property
    def lesions(self) -> Path:
        """The finished jobs of an unfinished lesion sweep; removed when the sweep is done."""
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

    @property
    def battery(self) -> Path:
        """One face in every condition of the stimulus battery, named arrays (`study.arrays`)."""
        return self.results / "battery.safetensors"

    def figure(self, name: str, suffix: str) -> Path:
        return self.results / "figures" / f"{name}.{suffix}"

    @property
    def metrics(self) -> Path:
        """The number of every part of a claim, as DVC compares them between runs."""
        return self.results / "checks" / "metrics.json"

    @property
    def verdicts(self) -> Path:
        return self.results / "checks" / "verdicts.json"
