"""What a terminal shows while pictures are made: a progress bar, and above it the picture as it appears."""

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from PIL import Image

if TYPE_CHECKING:
    from calotype.graph.events import StepEvent
    from calotype.pipelines.result import Result
    from calotype.pipelines.stream import Stream

SHARE = 0.1
"""The most of the time that previews may take."""
TALLEST = 20
"""The most lines that a preview takes."""
FIRST, AFTER = 0.2, 0.1
"""Seconds before the first preview, and at least between two."""


def shows_colours(stream: TextIO) -> bool:
    """Whether a stream is a terminal that says it shows 24-bit colours."""
    return (
        stream.isatty()
        and os.environ.get("COLORTERM", "") in ("truecolor", "24bit")
        and os.environ.get("TERM", "") != "dumb"
        and not os.environ.get("NO_COLOR")
    )


def half_blocks(picture: Image.Image, columns: int, rows: int) -> list[str]:
    """A picture as lines of text: each character is two pixels, one above the other, in 24-bit colours."""
    if picture.has_transparency_data:
        over = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(over, picture.convert("RGBA"))
    scale = min(1.0, columns / picture.width, 2 * rows / picture.height)
    width, height = max(1, round(picture.width * scale)), max(2, round(picture.height * scale / 2) * 2)
    shown = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    pixels = shown.tobytes()

    def at(x: int, y: int) -> str:
        start = 3 * (y * width + x)
        return ";".join(str(level) for level in pixels[start : start + 3])

    return [
        "".join(f"\x1b[38;2;{at(x, y)};48;2;{at(x, y + 1)}m\u2580" for x in range(width)) + "\x1b[0m"
        for y in range(0, height, 2)
    ]


class Display:
    """Runs calls to their end and shows them on a stream: nothing at all where that is no terminal.

    Args:
        preview: whether to show the picture as it appears; None where the terminal says that it can.
    """

    def __init__(self, stream: TextIO | None = None, *, preview: bool | None = None) -> None:
        self._to = sys.stderr if stream is None else stream
        self.live = self._to.isatty()
        self.preview = self.live and (shows_colours(self._to) if preview is None else preview)
        self._lines = 0
        self._next = 0.0
        self._bar: Any = None

    def watch(self, stream: "Stream", label: str = "", *, keep: bool = True) -> "Result":
        """Run a call to its end. `keep` leaves the finished picture on the terminal."""
        if not self.live:
            return stream.finish()
        self._next = time.monotonic() + FIRST
        node = None
        try:
            for event in stream:
                if event.node != node:
                    self._open(event, label)
                    node = event.node
                self._bar.update(1)
                self._maybe_draw(event)
            self._close_bar()
            if self.preview and keep and stream.result.images:
                self._draw(stream.result.images[0])
                self._lines = 0  # it stays
        finally:
            self._close_bar()
            self._erase()
        return stream.result

    def _open(self, event: "StepEvent", label: str) -> None:
        from tqdm import tqdm  # type: ignore[import-untyped]

        self._close_bar()
        self._bar = tqdm(total=event.total, desc=label or event.node, unit="step", file=self._to, leave=False)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _maybe_draw(self, event: "StepEvent") -> None:
        """Draw a preview when the last one is long enough ago that all of them take a small share of the time."""
        start = time.monotonic()
        if not self.preview or start < self._next or event.index + 1 == event.total:
            return
        picture = next((v for v in event.preview().values() if isinstance(v, Image.Image)), None)
        if picture is not None:
            self._bar.clear()
            self._draw(picture)
            self._bar.refresh()
        end = time.monotonic()
        self._next = end + max(AFTER, (end - start) * (1 / SHARE - 1))

    def _draw(self, picture: Image.Image) -> None:
        size = shutil.get_terminal_size()
        lines = half_blocks(picture, size.columns - 1, max(1, min(TALLEST, size.lines - 3)))
        self._erase()
        self._to.write("".join(f"{line}\n" for line in lines))
        self._to.flush()
        self._lines = len(lines)

    def _erase(self) -> None:
        """Take the last preview away: the cursor goes back to where it began."""
        if self._lines:
            self._to.write(f"\r\x1b[{self._lines}A\x1b[J")
            self._to.flush()
            self._lines = 0
