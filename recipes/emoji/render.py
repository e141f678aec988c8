"""Render every picture of every set to RGBA and pack them into one array.

`pictures.npy` is uint8 [concepts, styles, side, side, 4] (straight alpha) and `concepts.json` names its rows.
A picture is drawn a little smaller than the canvas, so that it can be moved by a few pixels without being cut.
"""

import io
import json
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from recipes.emoji.fetch import package_folder
from recipes.emoji.settings import HERE, STYLES, Preset

MARGIN = 3 / 64
"""Empty border on each side, as a part of the canvas."""

MIN_SETS = 4
"""A concept must be drawn by at least this many of the five sets."""

LEFT_OUT_GROUPS = {"people-body", "component", "symbols", "flags"}
LEFT_OUT_SUBGROUPS = {"time", "zodiac", "transport-sign", "face-hand", "person"}


@dataclass(frozen=True)
class Concept:
    """One thing, drawn by several sets."""

    name: str
    code: str
    group: str
    styles: tuple[str, ...]


def code_of(emoji: str) -> str:
    """`"❤️"` to `"2764"`: code points in hex, without variation selectors."""
    return "-".join(f"{ord(char):x}" for char in emoji if ord(char) != 0xFE0F)


def plain(code: str) -> str:
    return "-".join(part.lstrip("0") for part in code.lower().split("-") if part not in ("fe0f", "FE0F"))


class IconSet:
    """One iconify package: pictures by code point, as SVG text."""

    def __init__(self, package: str, names: "IconSet | None" = None) -> None:
        folder = package_folder(package)
        self.icons: dict[str, Any] = json.loads((folder / "icons.json").read_text())
        chars = json.loads((folder / "chars.json").read_text())
        # A package without code points of its own shares the names of the other edition of the same set.
        self.names: dict[str, str] = names.names if names else {plain(code): name for code, name in chars.items()}

    def icon(self, name: str) -> dict[str, Any] | None:
        if name in self.icons["icons"]:
            found: dict[str, Any] = self.icons["icons"][name]
            return found
        alias = self.icons.get("aliases", {}).get(name)
        return None if alias is None else self.icon(alias["parent"])

    def svg(self, code: str) -> str | None:
        icon = self.icon(self.names.get(code, ""))
        if icon is None:
            return None
        sides = [
            icon.get(key, self.icons.get(key, default))
            for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
        ]
        box = " ".join(str(side) for side in sides)
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{icon["body"]}</svg>'


def centred(picture: Image.Image, side: int) -> np.ndarray:
    """`picture` in the middle of a transparent square canvas of `side` pixels."""
    inner = side - 2 * round(side * MARGIN)
    picture = picture.convert("RGBA")
    if max(picture.size) != inner:
        ratio = inner / max(picture.size)
        size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
        # Premultiplied, so that the colour of transparent pixels does not bleed into the edge.
        picture = picture.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    canvas = Image.new("RGBA", (side, side))
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(canvas)


class PictureSets:
    """All five sets behind one question: how does `style` draw `code`?"""

    def __init__(self) -> None:
        noto = IconSet("@iconify-json/noto")
        self.vector = {
            "noto": noto,
            "blob": IconSet("@iconify-json/noto-v1", names=noto),
            "flat": IconSet("@iconify-json/fluent-emoji-flat"),
            "twemoji": IconSet("@iconify-json/twemoji"),
        }
        assets = package_folder("@lobehub/fluent-emoji-3d") / "assets"
        self.raster = {plain(path.stem): path for path in sorted(assets.glob("*.webp"))}

    def draw(self, style: str, code: str, side: int) -> np.ndarray | None:
        """RGBA uint8 [side, side, 4], or None where the set does not draw it."""
        if style == "3d":
            path = self.raster.get(code)
            return None if path is None else centred(Image.open(path), side)
        svg = self.vector[style].svg(code)
        if svg is None:
            return None
        import resvg_py

        inner = side - 2 * round(side * MARGIN)
        png = resvg_py.svg_to_bytes(svg_string=svg, width=inner, skip_system_fonts=True)
        return centred(Image.open(io.BytesIO(bytes(png))), side)


def chosen_concepts() -> Iterator[tuple[str, str, str]]:
    """(name, code, group) of every line of `concepts.txt`."""
    group = ""
    for line in (HERE / "concepts.txt").read_text().splitlines():
        if line.startswith("# "):
            group = line[2:]
        elif line:
            emoji, name = line.split(" ", 1)
            yield name, code_of(emoji), group


def all_concepts() -> Iterator[tuple[str, str, str]]:
    """The chosen ones first, then every other picture that is not of people, flags, clocks or symbol buttons."""
    taken = set()
    for name, code, group in chosen_concepts():
        taken |= {code, name}
        yield name, code, group
    data = package_folder("emojibase-data")
    entries = json.loads((data / "en" / "data.json").read_text())
    groups = json.loads((data / "meta" / "groups.json").read_text())
    for entry in entries:
        if entry.get("group") is None:
            continue
        group = groups["groups"][str(entry["group"])]
        subgroup = groups["subgroups"][str(entry["subgroup"])]
        ascii_label = unicodedata.normalize("NFKD", entry["label"]).encode("ascii", "ignore").decode()
        name = " ".join("".join(c if c.isalnum() else " " for c in ascii_label.lower()).split())
        code = plain(entry["hexcode"])
        if group in LEFT_OUT_GROUPS or subgroup in LEFT_OUT_SUBGROUPS or taken & {code, name} or not name:
            continue
        taken |= {code, name}
        yield name, code, group


def render(preset: Preset) -> None:
    listed = list(all_concepts() if preset.concepts == "all" else chosen_concepts())
    sets = PictureSets()
    concepts: list[Concept] = []
    rows: list[np.ndarray] = []
    for name, code, group in listed:
        drawn = {style: sets.draw(style, code, preset.size) for style in STYLES}
        present = tuple(style for style, picture in drawn.items() if picture is not None)
        if len(present) < MIN_SETS:
            print(f"left out {name!r}: only in {', '.join(present)}")
            continue
        empty = np.zeros((preset.size, preset.size, 4), np.uint8)
        concepts.append(Concept(name, code, group, present))
        rows.append(np.stack([empty if (picture := drawn[style]) is None else picture for style in STYLES]))
    preset.folder.mkdir(parents=True, exist_ok=True)
    np.save(preset.folder / "pictures.npy", np.stack(rows))
    # Written last: its presence says that rendering is complete.
    (preset.folder / "concepts.json").write_text(json.dumps([asdict(c) for c in concepts], ensure_ascii=False))
    print(f"rendered {sum(len(c.styles) for c in concepts)} pictures of {len(concepts)} concepts")


def load_pictures(folder: Path) -> tuple[list[Concept], np.ndarray]:
    """What `render` wrote: the concepts and uint8 [concepts, styles, side, side, 4]."""
    concepts = [
        Concept(**{**row, "styles": tuple(row["styles"])}) for row in json.loads((folder / "concepts.json").read_text())
    ]
    return concepts, np.load(folder / "pictures.npy", mmap_mode="r")


def main(preset: Preset) -> None:
    if not (preset.folder / "concepts.json").exists():
        render(preset)
