"""The progress bar and the preview, on a terminal that is not there."""

import io

import pytest
from PIL import Image

from calotype.cli import display
from calotype.cli.display import Display, half_blocks, shows_colours
from calotype.pipelines.text_to_image import TextToImagePipeline


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def colours(monkeypatch):
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def stream(repo):
    pipe = TextToImagePipeline.from_pretrained(repo)
    return lambda: pipe.stream(prompt="a car", height=16, width=16, steps=8, seed=1)


def test_two_pixels_are_one_character():
    picture = Image.new("RGB", (2, 2), (255, 0, 0))
    picture.putpixel((1, 1), (0, 0, 9))
    line = "\x1b[38;2;255;0;0;48;2;255;0;0m▀\x1b[38;2;255;0;0;48;2;0;0;9m▀\x1b[0m"
    assert half_blocks(picture, 80, 20) == [line]


def test_a_large_picture_is_scaled_to_fit_and_a_transparent_one_is_over_white():
    lines = half_blocks(Image.new("RGBA", (200, 100), (0, 0, 0, 0)), 40, 20)
    assert len(lines) == 10
    assert lines[0].count("▀") == 40
    assert "38;2;255;255;255" in lines[0]
    assert len(half_blocks(Image.new("L", (1, 1)), 80, 20)) == 1


def test_which_terminals_show_colours(colours, monkeypatch):
    assert shows_colours(Terminal())
    assert not shows_colours(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not shows_colours(Terminal())


def test_nothing_is_written_where_there_is_no_terminal(stream):
    to = io.StringIO()
    Display(to, preview=True).watch(stream())
    assert to.getvalue() == ""


def test_a_bar_and_previews(stream, colours, monkeypatch):
    monkeypatch.setattr(display, "FIRST", 0.0)
    monkeypatch.setattr(display, "AFTER", 0.0)
    monkeypatch.setattr(display, "SHARE", 1.0)
    to = Terminal()
    result = Display(to).watch(stream())
    shown = to.getvalue()
    assert "0/8" in shown
    assert shown.count("\x1b[8A") == 7  # each takes the place of the one before
    assert shown.rstrip("\n").endswith("\n".join(half_blocks(result.image, 79, 20)))


def test_no_preview_before_its_time(stream, colours, monkeypatch):
    monkeypatch.setattr(display, "FIRST", 1e9)
    to = Terminal()
    Display(to).watch(stream(), keep=False)
    assert "▀" not in to.getvalue()


def test_no_preview(stream, colours):
    to = Terminal()
    Display(to, preview=False).watch(stream())
    assert "▀" not in to.getvalue()


def test_an_interrupted_call_takes_its_preview_away(stream, colours, monkeypatch):
    monkeypatch.setattr(display, "FIRST", 0.0)
    to = Terminal()
    shown = Display(to)
    monkeypatch.setattr(shown, "_close_bar", lambda: None)

    def interrupt(event):
        shown._draw(event.preview()["image"])
        raise KeyboardInterrupt

    monkeypatch.setattr(shown, "_maybe_draw", interrupt)
    with pytest.raises(KeyboardInterrupt):
        shown.watch(stream())
    assert to.getvalue().endswith("\x1b[8A\x1b[J")
