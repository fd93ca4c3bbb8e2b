"""``python -m facespec`` and the installed `facespec`: chooses the code path, then runs the command."""

from facespec.study.code_path import choose_code_path


def main() -> None:
    """Run the command; the libraries that it loads find the code path chosen."""
    choose_code_path()
    from facespec.cli import main as run_command

    run_command()


if __name__ == "__main__":
    main()
