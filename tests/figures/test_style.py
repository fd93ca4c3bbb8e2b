from __future__ import annotations

import colorsys
import errno
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from facespec.figures import style
from facespec.figures.style import LOOKS, RC, save_figure, save_pages, save_png, settle_layout, use_study_style
from facespec.study.errors import StudyError
from facespec.study.storage import atomic_write
from facespec.study.vocabulary import NETWORKS

# sRGB -> what readers without red or green cones see: Machado, Oliveira & Fernandes 2009, severity 1, on linear RGB
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def linear(colour: str) -> np.ndarray:
    c = np.array(to_rgb(colour))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE 1976 L*a*b* (D65) of linear RGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ np.clip(rgb, 0, 1) / to_xyz.sum(axis=1))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_every_network_has_a_look_with_the_originals_pale_colour() -> None:
    assert list(LOOKS) == list(NETWORKS)
    assert {name: [round(c * 255) for c in look.published] for name, look in LOOKS.items()} == {
        "expression": [217, 234, 211],
        "identity": [207, 226, 243],
        "joint": [234, 209, 220],
    }


@pytest.mark.parametrize("network", NETWORKS)
def test_our_colour_keeps_the_originals_hue_and_stands_out_from_paper(network: str) -> None:
    look = LOOKS[network]
    own, original = (colorsys.rgb_to_hls(*rgb)[0] * 360 for rgb in (to_rgb(look.colour), look.published))
    assert abs(own - original) < 3  # degrees
    luminance = linear(look.colour) @ [0.2126, 0.7152, 0.0722]
    assert 1.05 / (luminance + 0.05) > 3  # WCAG 2.1, 1.4.11


@pytest.mark.parametrize("eyes", BLINDNESS)
def test_colours_differ_for_every_reader(eyes: str) -> None:
    seen = [lab(BLINDNESS[eyes] @ linear(look.colour)) for look in LOOKS.values()]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(seen[one] - seen[other]) > 25  # a difference of 2 is just noticeable


def test_grey_prints_differ_in_lightness_and_pattern() -> None:
    lightness = sorted(lab(linear(look.colour))[0] for look in LOOKS.values())
    assert min(np.diff(lightness)) > 12
    assert len({look.hatch for look in LOOKS.values()}) == 3


def test_the_users_settings_do_not_matter_and_come_back() -> None:
    with matplotlib.rc_context({"font.size": 31, "lines.linewidth": 9, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        with use_study_style():
            assert matplotlib.rcParams["font.size"] == RC["font.size"]
            assert matplotlib.rcParams["lines.linewidth"] == matplotlib.rcParamsDefault["lines.linewidth"]
            assert matplotlib.rcParams["axes.facecolor"] == "white"
        assert dict(matplotlib.rcParams) == before
        with pytest.raises(ZeroDivisionError), use_study_style():
            raise ZeroDivisionError
        assert dict(matplotlib.rcParams) == before


def drawn(height: float = 0.5) -> Figure:
    figure = Figure(figsize=(1.7, 1.1))
    figure.add_subplot().bar([0], [height], hatch="///")
    figure.text(0.1, 0.9, "Ünit")
    return figure


def test_equal_figures_give_equal_bytes_without_dates_or_versions(tmp_path: Path) -> None:
    paths = save_figure(drawn(), tmp_path / "one.two") + save_figure(drawn(), tmp_path / "again")
    assert [path.name for path in paths] == ["one.two.pdf", "one.two.png", "again.pdf", "again.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    pdf, png, pdf_again, png_again = (path.read_bytes() for path in paths)
    assert (pdf, png) == (pdf_again, png_again)
    assert pdf.startswith(b"%PDF") and png.startswith(b"\x89PNG")
    for word in (b"CreationDate", b"ModDate", b"Producer", b"Creator"):
        assert word not in pdf
    with Image.open(paths[1]) as picture:
        assert picture.info.keys() == {"dpi"}
    other = save_figure(drawn(0.6), tmp_path / "other")
    assert other[0].read_bytes() != pdf and other[1].read_bytes() != png


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from matplotlib.figure import Figure\n"
        "from facespec.figures.style import save\n"
        "figure = Figure(figsize=(1.7, 1.1)); figure.add_subplot().bar([0], [0.5], hatch='///')\n"
        "figure.text(0.1, 0.9, 'Ünit'); save(figure, Path(sys.argv[1]))"
    )
    environment = {"PYTHONHASHSEED": "17", "TZ": "Asia/Tokyo", "MPLBACKEND": "pdf", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "there")], env=environment, check=True)
    for here in save_figure(drawn(), tmp_path / "here"):
        assert here.read_bytes() == here.with_name(here.name.replace("here", "there")).read_bytes()


def test_a_full_disk_leaves_the_earlier_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "faces.png"
    path.write_bytes(b"earlier")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    figure = drawn()
    monkeypatch.setattr(figure, "savefig", full)
    with pytest.raises(StudyError) as caught:
        save_png(figure, path)
    assert str(caught.value) == (
        f"{path}: the disk is full, so it was not written. Earlier files are untouched; "
        "free some space and run the same command again."
    )
    assert [p.name for p in tmp_path.iterdir()] == ["faces.png"] and path.read_bytes() == b"earlier"


@pytest.mark.parametrize(
    "write", [save_figure, lambda figure, stem: save_pages([figure, figure], stem.with_suffix(".pdf"))]
)
def test_a_disk_that_is_full_when_a_pdf_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Figure, Path], object]
) -> None:
    """matplotlib then fails on its own half-closed file, with an AttributeError."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "a.pdf").write_bytes(b"earlier")

    @contextmanager
    def replacing_on_full_disk(path: Path) -> Iterator[Path]:
        with atomic_write(path) as partial:
            partial.unlink()
            partial.symlink_to("/dev/full")  # answers every write as a full disk does
            yield partial

    monkeypatch.setattr(style, "atomic_write", replacing_on_full_disk)
    with pytest.raises(StudyError, match=r"a\.pdf: the disk is full, so it was not written"):
        write(drawn(), tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a.pdf"] and (tmp_path / "a.pdf").read_bytes() == b"earlier"


def test_a_png_is_named_so(tmp_path: Path) -> None:
    with pytest.raises(StudyError) as caught:
        save_png(drawn(), tmp_path / "faces.pdf")
    assert str(caught.value) == (
        f"{tmp_path / 'faces.pdf'}: this picture is written as PNG; give it a name that ends in .png."
    )
    assert not list(tmp_path.iterdir())


def test_a_settled_figure_keeps_its_places_to_a_millionth() -> None:
    figure = Figure(layout="constrained")
    upper, lower = figure.subfigures(2, 1)
    upper.subplots(1, 3)
    upper.suptitle("upper")
    axes = lower.subplots()
    axes.set_ylabel("wide\nlabel")
    figure.suptitle("whole")
    figure.draw_without_rendering()
    before = [each.get_window_extent().get_points() for each in figure.axes]
    settle_layout(figure)
    after = [each.get_window_extent().get_points() for each in figure.axes]
    np.testing.assert_allclose(after, before, atol=0.01)  # px
    for each in figure.axes:
        places = each.get_position().get_points()
        np.testing.assert_array_equal(places, places.round(6))
    for part in (upper, lower):
        places = part.bbox_relative.get_points()
        np.testing.assert_array_equal(places, places.round(6))
    assert upper._suptitle.get_position() == tuple(np.round(upper._suptitle.get_position(), 6))
    axes.set_ylabel("another label, of another size", fontsize=30)
    figure.draw_without_rendering()  # lays nothing out any more
    np.testing.assert_array_equal([each.get_window_extent().get_points() for each in figure.axes], after)
