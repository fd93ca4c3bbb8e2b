"""``python -m facespec`` and the installed `facespec`: chooses the code path, then runs the command."""

import sys

from facespec.study.code_path import choose_code_path
from facespec.study.errors import StudyError
from facespec.study.processes import end_on_signals, end_with_run


def main() -> None:
    """Run the command; the libraries that it loads find the code path chosen, and signals end it in order."""
    try:
        end_on_signals()
        end_with_run()
        choose_code_path()
    except StudyError as refusal:  # before anything is loaded that could print it in colour
        print(f"facespec: {refusal}", file=sys.stderr)
        raise SystemExit(2) from None
    from facespec.cli import main as run_command

    run_command()


if __name__ == "__main__":
    main()
