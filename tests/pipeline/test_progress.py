"""What a person reads while long work goes on."""

import io
import time

import pytest
from rich.console import Console

from pipeline import progress
from pipeline.progress import Reporter


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> tuple[Reporter, io.StringIO]:
    """A reporter into a file that writes a line at every report."""
    monkeypatch.setattr(progress, "_LINE_EVERY_SECONDS", 0.0)
    text = io.StringIO()
    return Reporter(Console(file=text, width=40)), text


def test_bar_into_a_file_tells_done_total_rate_and_time_left(shown: tuple[Reporter, io.StringIO]) -> None:
    reporter, text = shown
    with reporter.bar("encode", 100, "samples") as bar:
        bar.advance(10)
        time.sleep(0.02)
        bar.advance(40, "loss 1.5")
    first, second = text.getvalue().splitlines()
    assert first == "  encode: 10/100 samples"
    assert second.startswith("  encode: 50/100 samples, ")
    assert "samples/s" in second
    assert second.endswith(" s left, loss 1.5")


def test_bar_with_a_total_known_later_shows_it_from_then_on(shown: tuple[Reporter, io.StringIO]) -> None:
    reporter, text = shown
    with reporter.bar("train", None, "samples") as bar:
        bar.set(128)
        bar.set(256, total=1024)
    assert text.getvalue().splitlines()[0] == "  train: 128 samples"
    assert "256/1,024 samples" in text.getvalue()


def test_bar_reports_rarely_by_default() -> None:
    text = io.StringIO()
    with Reporter(Console(file=text)).bar("quick", 1000, "rows") as bar:
        for _ in range(1000):
            bar.advance()
    assert text.getvalue() == ""


def test_bar_on_a_terminal_is_live_and_leaves_nothing_behind() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    with Reporter(console).bar("copy", 10, "shards") as bar:
        bar.set(3, "note")
        bar.set(10)
    assert "copy" in text.getvalue()
    assert text.getvalue().endswith("\x1b[2K")  # the last thing done is to clear the line


def test_lines_are_never_broken_and_brackets_are_no_markup() -> None:
    text = io.StringIO()
    reporter = Reporter(Console(file=text, width=20))
    long = "a sentence that is longer than the console is wide, with [bold]brackets[/bold]"
    reporter.say(long)
    reporter.warn(long)
    reporter.warn(long)  # said once
    assert text.getvalue().splitlines() == [long, f"warning: {long}"]
