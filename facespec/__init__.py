"""facespec: where do expression and identity part ways in networks that see faces? (Tazi et al. 2023, done again.)

Data flows one way, and imports with it:

- `study`: words, parameters, paths, random generators, table schemas, safe files; everything stands on it
- `data`: faces, drawn from parameters or read from FER2013, KDEF and VoxCeleb1, and how they are split and batched
- `models`: networks, their layers by name, checkpoints, devices
- `training`: fitting, and going on after an interruption
- `responses`: what a network's layers respond to faces, whole or lesioned
- `analyses`: one scientific question per file, table in, table out
- `published`: the original study's numbers, files and schema
- `figures`: tables in, figures out
- `checks`: claims, verdicts, and the replay of the published numbers
- `stages`: between DVC and the rooms: read, call, write; `cli` gives each a command

What is exported here is for notebooks and programs; each name is imported when it is first used. The pipeline is run by
commands: ``facespec --help``. `choose_code_path`, called before numpy and torch are imported, makes results
bit-identical to those of other machines.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    "study.code_path": ["choose_code_path"],
    "study.params": ["Params", "read_params"],
    "study.maps": ["MapSet"],
    "study.preferred": ["PreferredSet"],
    "data.faceset": ["FaceSet", "write_faceset"],
    "data.chunks": ["FaceChunk", "FaceSetDescription"],
    "data.embedded.faces": ["draw_stimuli", "render_stimuli"],
    "data.embedded.stimuli": ["Stimuli", "replace_expressions", "replace_people"],
    "models.networks": ["FaceNetwork", "build_network"],
    "models.checkpoints": ["Checkpoint", "load_checkpoint", "save_checkpoint"],
    "responses.recording": ["record_responses"],
    "responses.lesioning": ["lesion_units"],
    "analyses.decoding": ["decode_classes"],
    "analyses.heatmaps": ["compute_heatmaps"],
    "analyses.preferred": ["optimise_stimuli"],
    "analyses.depth": ["classify_units", "find_balanced_design", "measure_unit_effects"],
    "analyses.similarity": ["compare_layers"],
    "analyses.lesions": ["LabelledImages"],
    "stages.user_lesions": ["LesionOptions", "lesion_study", "make_plan"],
    "figures.lesions": ["draw_figure_lesions"],
    "figures.lesion_classes": ["draw_figure_lesion_classes"],
}
_HOMES = {name: f"facespec.{module}" for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import an exported name when it is first used: torch and pandas take seconds to load."""
    if name not in _HOMES:
        raise AttributeError(f"module 'facespec' has no attribute {name!r}; it exports {', '.join(__all__)}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
