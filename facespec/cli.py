"""The `facespec` command: one sub-command per stage of the pipeline, and init, repro, data, published."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console

from facespec.stages.figure_list import FIGURES
from facespec.study.cores import count_cores
from facespec.study.errors import OUT_OF_MEMORY, StudyError, explain_os_error
from facespec.study.paths import Paths
from facespec.study.vocabulary import Network, Role

if TYPE_CHECKING:
    from facespec.study.params import Params

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
data_app = typer.Typer(no_args_is_help=True, help="Fill the three roles with faces, look at them, check them.")
published_app = typer.Typer(no_args_is_help=True, help="The original study's published results.")
app.add_typer(data_app, name="data")
app.add_typer(published_app, name="published")

Device = Annotated[str, typer.Option(envvar="FACESPEC_DEVICE", help="auto, cpu or cuda; not a parameter of the study.")]
Workers = Annotated[int, typer.Option(envvar="FACESPEC_WORKERS", min=1, help="Processes that render faces.")]
CORES = count_cores()
Trained = Literal[Network.EXPRESSION, Network.IDENTITY, Network.JOINT]  # `vocabulary.NETWORKS`
Directory = Annotated[Path, typer.Argument(help="A study directory.")]
Source = Annotated[str | None, typer.Option(help="Path to real faces for this role, instead of params.yaml's source.")]
INTERRUPTED = 130  # exit status, as shells report it


def main() -> None:
    """Run the command; a refusal is printed as its message alone, with exit status 2; after an interrupt it is 130.

    What the system refuses, such as a full disk, is a refusal too. Only errors in this program show a traceback.
    """
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            _say("interrupted. Run the same command again to go on.")
        raise
    except KeyboardInterrupt:
        _say("interrupted. Run the same command again to go on.")
        raise SystemExit(INTERRUPTED) from None
    except StudyError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(explain_os_error(error))
    except MemoryError:
        _refuse(OUT_OF_MEMORY)
    except RecursionError:
        _refuse("an input is nested too deeply to be read. Make it flatter.")


def _say(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(f"facespec: {message}", style="bold red", markup=False, highlight=False)


def _refuse(message: str) -> NoReturn:
    _say(message)
    raise SystemExit(2) from None


# pandas, pydantic and torch take a second or more to load: imported where they are needed, they cost `--help` nothing


def _study() -> tuple[Paths, Params]:
    from facespec.study.params import read_params

    paths = Paths()
    return paths, read_params(paths.params)


def _lock(path: Path) -> AbstractContextManager[None]:
    from facespec.study.storage import file_lock

    return file_lock(path)


def _check_seed(params: Params, seed: int) -> None:
    if seed not in params.seeds:
        raise StudyError(f"this study has no networks of seed {seed}; its seeds are {params.seeds} (params.yaml).")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"facespec {version('facespec')}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The `facespec` command: one sub-command per stage of the pipeline, and init, repro, verify, data, published."""


@app.command()
def init(
    directory: Directory,
    profile: Annotated[str, typer.Option(help="A profile of params.yaml.")] = "default",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="BLOCK.NAME=VALUE", help="Another parameter.")
    ] = None,
    networks: Annotated[
        Path | None,
        typer.Option(help="A Python file with the functions expression, identity and joint: networks of your own."),
    ] = None,
    grid: Annotated[
        bool, typer.Option("--grid", help="A grid of networks instead: what does sharing cost? (docs/sharing.md)")
    ] = False,
) -> None:
    """Make a study directory with its own parameters; finished results in it are kept."""
    from facespec.stages import init as stage

    stage.run(directory, profile=profile, settings=set_ or (), networks=networks, grid=grid, report=typer.echo)
    typer.echo(f"{directory}: ready. Next: facespec repro {directory}")


@app.command()
def repro(
    directory: Directory = Path(),
    workers: Annotated[
        int, typer.Option(envvar="FACESPEC_WORKERS", min=1, help="Stages at a time; fewer need less memory.")
    ] = CORES,
) -> None:
    """Build the faces if needed, run the pipeline, print the verdicts and where the figures are.

    The last line compares with the recorded run. Exit status: 0; 3 if the results are not the recorded ones although
    they should be, or lie outside the recorded intervals; 2 if something was refused or a stage failed.
    """
    from facespec.stages import repro as stage

    raise typer.Exit(stage.run(Paths(directory), workers=workers))


@app.command()
def verify(directory: Directory = Path()) -> None:
    """Prove that outputs and faces are what dvc.lock and data.dvc record, byte for byte; say what differs otherwise.

    Exit status: 0; 3 if something differs; 2 if nothing is recorded.
    """
    from facespec.stages import verify as stage

    differences, n = stage.run(Paths(directory))
    for line in differences:
        typer.echo(line)
    typer.echo(f"{n} outputs compared with dvc.lock, {len(differences)} differences found.")
    raise typer.Exit(3 if differences else 0)


@app.command()
def fingerprints() -> None:
    """Which code does every stage run? Written to fingerprints.json, which DVC compares."""
    from facespec.stages import fingerprints as stage

    stage.run(Paths())


@app.command()
def train(network: Trained, seed: int, device: Device = "auto") -> None:
    """Fit one network to the faces of its tasks."""
    from facespec.stages import train as stage

    paths, params = _study()
    _check_seed(params, seed)
    with _lock(paths.checkpoint("train", network, seed)):
        stage.run(paths, params, network=network, seed=seed, device=device)


@app.command()
def finetune(network: Trained, seed: int, device: Device = "auto") -> None:
    """Fit a trained network to the probe faces that are not held out."""
    from facespec.stages import finetune as stage

    paths, params = _study()
    _check_seed(params, seed)
    with _lock(paths.checkpoint("finetune", network, seed)):
        stage.run(paths, params, network=network, seed=seed, device=device)


@app.command()
def untrained(seed: int, device: Device = "auto") -> None:
    """The trunk that training begins with, and linear heads fitted to the probe faces: a control."""
    from facespec.stages import untrained as stage

    paths, params = _study()
    _check_seed(params, seed)
    with _lock(paths.checkpoint("untrained", Network.UNTRAINED, seed)):
        stage.run(paths, params, seed=seed, device=device)


@app.command()
def decoding(device: Device = "auto") -> None:
    """Figures 1B and S1A: what can be read out of the frozen single-task networks?"""
    from facespec.stages import decoding as stage

    stage.run(*_study(), device=device)


@app.command()
def accuracy(device: Device = "auto") -> None:
    """Figures 1C and S1B: how often are single-task and joint networks right?"""
    from facespec.stages import accuracy as stage

    stage.run(*_study(), device=device)


@app.command()
def heatmaps(device: Device = "auto") -> None:
    """Figure 2: where do the fine-tuned networks look?"""
    from facespec.stages import heatmaps as stage

    stage.run(*_study(), device=device)


@app.command()
def overlap() -> None:
    """Figures 2B and 2C: how focal are the heatmaps, and how far do the joint network's two overlap?"""
    from facespec.stages import overlap as stage

    stage.run(*_study())


@app.command()
def contrasts() -> None:
    """Do two networks look at different places? Pixels as published, and people as the units."""
    from facespec.stages import contrasts as stage

    stage.run(*_study())


@app.command()
def regions() -> None:
    """Facial biomarkers: how much of a heatmap lies on which region of the face?"""
    from facespec.stages import regions as stage

    stage.run(*_study())


@app.command()
def groundtruth(workers: Workers = CORES) -> None:
    """Do the heatmaps lie where embedded faces really differ?"""
    from facespec.stages import groundtruth as stage

    stage.run(*_study(), workers=workers)


@app.command()
def calibrate(workers: Workers = CORES, device: Device = "auto") -> None:
    """What are numbers about these faces about? Swapped cues, pixels, untrained networks, confusions, and targets."""
    from facespec.stages import calibrate as stage

    stage.run(*_study(), device=device, workers=workers)


@app.command()
def battery(workers: Workers = CORES, device: Device = "auto") -> None:
    """What do manipulated faces cost: upside down, halves, parts, caricatures, single action units?"""
    from facespec.stages import battery as stage

    stage.run(*_study(), device=device, workers=workers)


@app.command()
def depth(device: Device = "auto") -> None:
    """At which depth do units answer to expression, and to identity? Layer by layer, unit by unit."""
    from facespec.stages import depth as stage

    stage.run(*_study(), device=device)


@app.command()
def lesions(
    module: Annotated[
        str | None, typer.Option(metavar="FILE.py:FUNCTION", help="Your own network: a function that returns it.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="CSV table of your images, splits and two tasks.")] = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="A layer of your network; again for each other one, in order of depth.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Directory for your tables and figures.")] = None,
    size: Annotated[
        int | None, typer.Option(metavar="PX", min=1, help="Height and width of its images; 224 unless told.")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="Which units a round compares: exact (all) or screening.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Another parameter of the lesions block.")
    ] = None,
    workers: Annotated[
        int, typer.Option(envvar="FACESPEC_WORKERS", min=1, help="Choices of units computed at a time, on a CPU.")
    ] = CORES,
    device: Device = "auto",
) -> None:
    """Which units does each task need? Lesions of the joint networks; of your own network with --module.

    See docs/lesions.md for the method, the table of labels, and an example.
    """
    settings = [*([f"mode={mode}"] if mode else []), *(set_ or [])]
    user_options = {"--module": module, "--labels": labels, "--layer": layer, "--to": to}
    if settings or size or any(user_options.values()):
        _all_or_none(user_options)
        assert module and labels and layer and to
        from facespec.stages import user_lesions

        model = user_lesions.UserModel(module, labels, layer, size or 224)
        user_lesions.run(model, user_lesions.parse_plan(settings), to=to, device=device, workers=workers)
        typer.echo(f"{to}: six tables, figure_lesions and figure_lesion_classes.")
        return
    from facespec.stages import lesions as stage

    stage.run(*_study(), device=device, workers=workers)


def _all_or_none(options: dict[str, Any]) -> None:
    if missing := [name for name, value in options.items() if not value]:
        raise StudyError(
            f"lesions of your own network need {', '.join(options)}; missing: {', '.join(missing)}. "
            "Without any of its options, this study's joint networks are lesioned."
        )


@app.command()
def preferred(device: Device = "auto") -> None:
    """Figures 3, S2 and S2B: which pictures and which faces drive every unit most?"""
    from facespec.stages import preferred as stage

    stage.run(*_study(), device=device)


@app.command()
def fit(name: Annotated[str, typer.Argument(help="As in dvc.yaml: joint-epochs8-1.")], device: Device = "auto") -> None:
    """Fit one network of a grid, and test it on the faces of its tasks."""
    from facespec.stages import fit as stage

    paths, params = _study()
    with _lock(paths.fit(name)):
        stage.run(paths, params, name=name, device=device)


@app.command()
def sharing() -> None:
    """What does a joint network cost, and when? A table and a figure of the networks of a grid."""
    from facespec.stages import sharing as stage

    stage.run(*_study())


@app.command()
def export() -> None:
    """The tables under the original study's file names, keys and shapes."""
    from facespec.stages import export as stage

    stage.run(Paths())


FIGURES_HELP = """Draw every figure of the study and nine that the original does not have, to Results/figures.

Each is written as PDF and PNG. Figure S2, a page per convolution, goes to Results as one PDF per network.

""" + "\n\n".join(f"{name}: {text}" for name, text in FIGURES.items())


@app.command(help=FIGURES_HELP)
def figures() -> None:
    """Draw every figure of the study."""
    from facespec.stages import figures as stage

    stage.run(Paths())


@app.command()
def checks() -> None:
    """Judge the published claims on this study's tables."""
    from facespec.stages import checks as stage

    stage.run(*_study())


@app.command()
def stimuli(
    network: Annotated[Trained, typer.Option(help="Which fine-tuned network.")],
    seed: Annotated[int, typer.Option(help="One of the study's seeds.")],
    layer: Annotated[str, typer.Option(help="A convolution, such as trunk.conv4.")],
    unit: Annotated[int, typer.Option(help="One of its units, from 0.")],
    to: Annotated[Path, typer.Option(help="Directory for pictures, crops and stimuli.csv.")],
    n: Annotated[int, typer.Option("--n", min=1, help="How many faces.")] = 20,
    role: Annotated[Role, typer.Option(help="Faces to choose from.")] = Role.PROBE,
    device: Device = "auto",
) -> None:
    """The faces that drive one unit most, and what it sees of them: pictures and a table for the laboratory."""
    from facespec.stages import stimuli as stage

    stage.run(*_study(), stage.Choice(network, seed, layer, unit, n, role), to=to, device=device)
    typer.echo(f"{to}: {n} faces.")


@data_app.command("build")
def data_build(
    expression: Source = None, identity: Source = None, probe: Source = None, workers: Workers = CORES
) -> None:
    """Fill data/ with the faces of all three roles, and say what they do not allow."""
    from facespec.stages import data as stage
    from facespec.stages.faces_check import check_faces
    from facespec.study.storage import remove_leftovers

    paths, params = _study()
    sources = {"expression": expression, "identity": identity, "probe": probe}
    with _lock(paths.data):
        remove_leftovers(paths.root)
        stage.build(
            paths,
            params.data,
            sources={role: source for role, source in sources.items() if source is not None},
            workers=workers,
        )
    check_faces(paths, params, report=typer.echo)


@data_app.command("make")
def data_make(role: Role, workers: Workers = CORES) -> None:
    """Fill one role with faces, unless its faces are those that would be made."""
    from facespec.stages import data as stage

    paths, params = _study()
    with _lock(paths.data):
        stage.run(paths, params, role=role, workers=workers)


@data_app.command("check")
def data_check() -> None:
    """Prove that data/ is what data.dvc pins, byte for byte; say what differs otherwise."""
    from facespec.stages import data as stage

    differences = stage.list_differences(Paths())
    if differences:
        raise StudyError("data/ differs from data.dvc:\n" + "\n".join(f"  {line}" for line in differences))
    typer.echo("data/ is what data.dvc pins, byte for byte.")


@data_app.command("pin")
def data_pin() -> None:
    """Write data.dvc from what data/ holds now."""
    from facespec.stages import data as stage

    stage.pin(Paths())
    typer.echo("data.dvc now pins data/.")


@data_app.command("info")
def data_info() -> None:
    """Where the faces come from: sources, counts, excluded files and why, content hash."""
    from facespec.stages import data as stage

    console = Console(soft_wrap=True)
    for renderable in stage.info(Paths()):
        console.print(renderable)


@data_app.command("calibrate")
def data_calibrate(workers: Workers = CORES, device: Device = "auto") -> None:
    """What a network can name these faces by, and whether they meet their targets: `facespec calibrate`, printed.

    Needs the trained networks.
    """
    from facespec.stages import calibrate as stage

    paths, params = _study()
    stage.run(paths, params, device=device, workers=workers)
    for line in stage.describe_targets(paths):
        typer.echo(line)


@data_app.command("battery")
def data_battery(
    to: Annotated[Path, typer.Option(help="Directory for FaceSet, pictures, battery.csv and a sheet of examples.")],
    workers: Workers = CORES,
) -> None:
    """Manipulated faces for the laboratory: upside down, halves, parts, caricatures, single action units."""
    from facespec.stages import battery_faces as stage

    _, params = _study()
    n = stage.export(params.battery, params.data, to=to, workers=workers)
    typer.echo(f"{to}: {n} pictures.")


@data_app.command("show")
def data_show(to: Annotated[Path, typer.Option(help="PNG file.")] = Path("Results/faces.png")) -> None:
    """Draw a contact sheet of the faces in data/: people, expressions, views, in-the-wild samples, region maps."""
    from facespec.stages import data as stage

    stage.show(Paths(), to)
    typer.echo(f"{to}: written.")


def _import_published() -> Any:
    from facespec.stages import published as stage

    return stage


@published_app.command("fetch")
def published_fetch(
    from_: Annotated[
        str | None, typer.Option("--from", help="Git URL or directory; default: the original repository.")
    ] = None,
    to: Annotated[Path, typer.Option(help="Where the files go.")] = Path("published"),
) -> None:
    """Get the original study's files at commit e570ea8, each verified against its git blob id."""
    _import_published().fetch(from_, to, Console(soft_wrap=True))


@published_app.command("replay")
def published_replay(
    directory: Annotated[Path, typer.Argument(help="Holds the original's files.")],
    to: Annotated[Path, typer.Option(help="Where the figures go.")] = Path("Results/published"),
) -> None:
    """Draw Figures 1 and S1 from the published results and check them against the reference table to 1e-6."""
    _import_published().replay(directory, to, Console(soft_wrap=True))
