"""Which code does every stage run? One digest per stage, which DVC compares as a parameter of that stage."""

from __future__ import annotations

import hashlib
from pathlib import Path

from facespec.stages.dvc_files import FINGERPRINTS, read_pipeline
from facespec.study.artefacts import digest_file
from facespec.study.errors import StudyError
from facespec.study.fingerprints import fingerprint_stage
from facespec.study.params import Params, read_params
from facespec.study.paths import Paths
from facespec.study.storage import write_json

USER_STAGES = "train", "finetune", "untrained"  # those that run the code of a user's networks


def run(paths: Paths) -> None:
    """Write ``fingerprints.json``: the fingerprint of every stage of ``dvc.yaml`` but this one.

    Networks of a user's own belong to the code of the stages that make checkpoints of them: the file, and how their
    heads are fitted. Raises `StudyError` if that file is missing.
    """
    stages = [name for name in read_pipeline(paths.root) if name != FINGERPRINTS]
    fingerprints = {name: fingerprint_stage(name) for name in stages}
    if own := _digest_user_networks(read_params(paths.params)):
        for name in USER_STAGES:
            fingerprints[name] = hashlib.sha256(f"{fingerprints[name]} {own}".encode()).hexdigest()
    write_json(paths.fingerprints, fingerprints)


def _digest_user_networks(study: Params) -> str:
    """What decides on checkpoints beside code and parameters; empty where all networks are the study's own."""
    if not (file := study.network.user_file):
        return ""
    if not Path(file).is_file():
        raise StudyError(f"network: no file {file}, which makes the networks. Put it back, or name it anew.")
    fitted = (study.decoding.penalty, study.decoding.iterations) if study.network.file else ()
    return f"{digest_file(Path(file))} {fitted}"
