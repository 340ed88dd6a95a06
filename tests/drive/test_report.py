"""The report is one file that needs no network, holds every part, and opens in a real browser."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from drivetrain.drive.report.parts import Bars, Histogram, Interval, Line, LinePlot
from drivetrain.drive.report.plots import bars, histogram, interval, line_plot

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def page(cli, moons) -> Path:
    assert cli("run", "drive.toml", cwd=moons).exit_code == 0
    return moons / "runs" / "moons" / "report.html"


def test_the_report_holds_every_part_and_needs_no_network(page):
    text = page.read_text()
    parts = (
        "moons: ",
        "Features of the training split",
        "Learning rate",
        "Momentum",
        "n &gt; 0.5",
        "Provenance",
        "sha256",
    )
    for part in parts:
        assert part in text
    assert len(text) < 5_000_000
    assert not re.search(r"(?:src|href)\s*=|url\(|<script|@import", text)
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_the_report_is_built_from_the_artifacts_alone(cli, page, moons):
    before = page.read_text()
    (moons / "drive.toml").unlink()
    (moons / "moons.csv").unlink()
    page.unlink()
    assert cli("report", "runs/moons", cwd=moons).exit_code == 0
    assert page.read_text() == before


@pytest.mark.skipif(BROWSER is None, reason="no browser: apt-get install chromium")
@pytest.mark.parametrize("width", [400, 1200])
def test_a_real_browser_draws_it_without_sideways_scrolling(page, tmp_path, width):
    """The page tells its own width once laid out; a script is added to a copy, since the report itself has none."""
    probe = tmp_path / "probe.html"
    told = (
        "<script>const plots = [...document.querySelectorAll('svg')];"
        "const heights = plots.map(plot => plot.getBoundingClientRect().height);"
        "const drawn = heights.filter(height => height > 30).length;"
        "document.title = `wide ${document.documentElement.scrollWidth} plots ${drawn}`</script>"
    )
    probe.write_text(page.read_text().replace("</body>", told + "</body>"))
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --allow-file-access-from-files --dump-dom "
        f"--window-size={max(width, 500)},900"
    )
    frame = tmp_path / "frame.html"  # a browser window has a least width; a frame has not
    frame.write_text(
        f"<iframe id=f style='width:{width}px;height:900px;border:0' src='probe.html'></iframe><script>"
        "f.onload = () => document.title = f.contentDocument.title</script>"
    )
    done = subprocess.run(
        [BROWSER, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r"<title>wide (\d+) plots (\d+)</title>", done.stdout)
    assert found, done.stdout[:500] + done.stderr[-500:]
    assert int(found[1]) <= width
    assert int(found[2]) >= 7


def test_plots_survive_what_data_can_be():
    flat = LinePlot("flat", [Line("one", [1, 2], [3.0, 3.0])], "x", "y")
    gap = LinePlot("gap", [Line("a", [1, 2, 3], [1.0, None, float("nan")])], "x", "y", log=True)
    empty = LinePlot("none", [Line("a", [], [])], "x", "y")
    for plot in (flat, gap, empty):
        assert "nan" not in line_plot(plot).lower().replace("<title>", "")
    assert "&lt;b&gt;" in bars(Bars("<b>", ["<b>"], [0.0]))
    assert "nan" not in histogram(Histogram("point", [(1.0, 1.0, 1.0)]))
    assert "must be &gt; 0.5" in interval(Interval("i", [("n", 0.6, 0.7, 0.8, 0.5, ">")]))


def test_many_points_are_drawn_as_few_with_their_range():
    steps = list(range(100_000))
    drawn = line_plot(LinePlot("long", [Line("loss", steps, [float(s % 7) for s in steps])], "step", "loss"))
    assert len(drawn) < 60_000
    assert "range0" in drawn
