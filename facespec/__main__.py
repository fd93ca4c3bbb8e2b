"""``python -m facespec``: the `facespec` command, from the code in the working directory."""

from facespec.cli import main

main()
