"""facespec: where do expression and identity part ways in networks that see faces? (Tazi et al. 2023, done again.)

Data flows one way, and imports with it; whoever follows one stimulus through the rooms never walks back:

- `study`: words, parameters, paths, random streams, tables, safe files; everything stands on it
- `data`: faces, drawn from parameters or read from FER2013, KDEF and VoxCeleb1, and how they are split and batched
- `models`: networks, their layers by name, checkpoints, devices
- `training`: fitting, and going on after an interruption
- `responses`: what a network's layers answer to faces
- `analyses`: one scientific question per file, table in, table out
- `published`: the original study's numbers, files and schema
- `figures`: tables in, axes out
- `checks`: claims, verdicts, and the replay of the published numbers
- `stages`: thin doors between DVC and the rooms; `cli` gives each a command

The public verbs are the commands: ``facespec --help``. In Python, `choose_code_path` before numpy and torch are
imported makes results bit-identical to those of other machines; importing this package changes nothing.
"""

from facespec.study.code_path import choose_code_path

__all__ = ["choose_code_path"]
