"""Which code does every stage run? One digest per stage, which DVC compares as a parameter of that stage."""

from __future__ import annotations

from facespec.stages.dvc_files import FINGERPRINTS, read_pipeline
from facespec.study.fingerprints import fingerprint_stage
from facespec.study.paths import Paths
from facespec.study.storage import write_json


def run(paths: Paths) -> None:
    """Write ``fingerprints.json``: the fingerprint of every stage of ``dvc.yaml`` but this one."""
    stages = [name for name in read_pipeline(paths.root) if name != FINGERPRINTS]
    write_json(paths.fingerprints, {name: fingerprint_stage(name) for name in stages})
