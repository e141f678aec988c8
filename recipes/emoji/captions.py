"""Compose pictures and their captions on the fly.

The alpha channel makes captions cheap and teaches composition: a thing is recoloured ("purple hedgehog"), put on a
background ("on a blue background"), made small, put beside or above another, drawn in black and white, or its style is
named. Some combinations are held out by hash and never trained on, so that they can be tested.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipes.emoji.render import Concept
from recipes.emoji.settings import FAMILIES, STYLES

Pixels = NDArray[np.floating[Any]]

HUES = {"red": 0, "orange": 28, "yellow": 50, "green": 125, "blue": 220, "purple": 275, "pink": 330}
"""Hue in degrees of every colour that a thing can be given."""

BACKGROUNDS = {
    "white": (255, 255, 255),
    "black": (20, 20, 20),
    "gray": (150, 150, 150),
    "red": (225, 50, 50),
    "orange": (250, 150, 40),
    "yellow": (255, 225, 80),
    "green": (80, 190, 90),
    "blue": (50, 110, 220),
    "purple": (130, 70, 190),
    "pink": (255, 165, 205),
}

STYLE_WORDS = {"noto": "noto", "blob": "blob", "3d": "3d", "flat": "flat", "twemoji": "twemoji"}

CAPTION_WORDS = (
    "a an the in on of style background small black and white beside next to above top picture drawing with "
    + " ".join((*HUES, *BACKGROUNDS, *STYLES))
).split()
"""Every word that a caption can have besides the names of the concepts."""


def share(*parts: str) -> float:
    """A number in 0..1 that depends on the words alone, the same on every machine."""
    digest = hashlib.sha256("|".join(parts).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def style_held_out(concept: str, style: str) -> bool:
    """One (concept, style family) in twenty is never trained on."""
    return share("style", concept, FAMILIES[style]) < 0.05


def colour_held_out(colour: str, concept: str) -> bool:
    """One (colour, concept) in eight is never trained on."""
    return share("colour", colour, concept) < 0.125


def to_hsv(rgb: Pixels) -> tuple[Pixels, Pixels, Pixels]:
    """RGB in 0..1 to hue in degrees, saturation and value."""
    value = rgb.max(-1)
    chroma = value - rgb.min(-1)
    safe = np.where(chroma > 0, chroma, 1)
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    hue = np.where(value == r, ((g - b) / safe) % 6, np.where(value == g, (b - r) / safe + 2, (r - g) / safe + 4))
    return (
        np.where(chroma > 0, hue * 60, 0).astype(np.float32),
        chroma / np.where(value > 0, value, 1),
        value,
    )


def from_hsv(hue: Pixels, saturation: Pixels, value: Pixels) -> Pixels:
    """The inverse of `to_hsv`."""
    channels = []
    for offset in (5, 3, 1):
        k = (offset + hue / 60) % 6
        channels.append(value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1))
    return np.stack(channels, -1).astype(np.float32)


def hue_distance(one: Pixels | float, other: Pixels | float) -> Pixels:
    """Degrees between hues, 0..180."""
    return np.abs((np.asarray(one) - other + 180) % 360 - 180).astype(np.float32)


def main_hue(rgb: Pixels, weight: Pixels | float = 1.0) -> tuple[float, float]:
    """The hue in degrees that carries most chroma, and the part of all weight whose chroma is of that hue."""
    hue, saturation, value = to_hsv(rgb)
    chroma = saturation * value * weight
    counts = np.bincount((hue.ravel() // 10).astype(int) % 36, weights=chroma.ravel(), minlength=36)
    smooth = counts + 0.5 * (np.roll(counts, 1) + np.roll(counts, -1))
    peak = int(smooth.argmax())
    near = hue_distance(hue, peak * 10 + 5) <= 15
    mass = chroma * near
    if mass.sum() <= 0:
        return 0.0, 0.0
    offset = ((hue - (peak * 10 + 5) + 180) % 360 - 180) * mass
    found = (peak * 10 + 5 + offset.sum() / mass.sum()) % 360
    covered = (near & (saturation * value > 0.25)) * weight
    return float(found), float(np.sum(covered) / max(np.sum(weight * np.ones_like(value)), 1e-6))


def natural_colour(rgba: NDArray[np.uint8]) -> str | None:
    """The colour word of a picture as it was drawn, where one colour clearly leads."""
    rgb, alpha = rgba[..., :3].astype(np.float32) / 255, rgba[..., 3].astype(np.float32) / 255
    hue, part = main_hue(rgb, alpha)
    name = min(HUES, key=lambda colour: float(hue_distance(hue, HUES[colour])))
    value = float((to_hsv(rgb)[2] * alpha).sum() / max(alpha.sum(), 1e-6))
    return name if hue_distance(hue, HUES[name]) <= 14 and part >= 0.4 and value >= 0.6 else None


def recolour(rgba: Pixels, colour: str) -> Pixels:
    """`rgba` in 0..1 with its main colour, or all of it where no colour leads, moved to `colour`."""
    rgb, alpha = rgba[..., :3], rgba[..., 3]
    hue, saturation, value = to_hsv(rgb)
    main, _ = main_hue(rgb, alpha)
    chroma = saturation * value * alpha
    near = hue_distance(hue, main) <= 50
    moved = near & (saturation * value > 0.08)
    shown = alpha > 0.3
    if (chroma * moved).sum() < 0.5 * chroma.sum():
        moved = saturation * value > 0.08
    if (moved & shown).sum() < 0.45 * shown.sum():
        moved = np.ones_like(moved)
    offset = ((hue - main + 180) % 360 - 180) * 0.3
    new_hue = (HUES[colour] + np.clip(np.where(saturation > 0.15, offset, 0), -10, 10)) % 360
    target_saturation, target_value = (0.5, 0.92) if colour == "pink" else (0.78, 0.82)
    of = moved & shown
    saturation = saturation ** _power(saturation[of], target_saturation)
    if float(saturation[of].mean() if of.any() else 0) < 0.5 * target_saturation:
        saturation = np.maximum(saturation, target_saturation)
    if colour == "pink":
        saturation = np.minimum(saturation, 0.62)
    changed = from_hsv(new_hue, saturation, np.maximum(value ** _power(value[of], target_value), value))
    return np.concatenate([np.where(moved[..., None], changed, rgb), alpha[..., None]], -1).astype(np.float32)


def _power(values: Pixels, target: float) -> float:
    """The exponent that brings the mean of `values` up to about `target`; 1 where it is there already."""
    mean = float(values.mean()) if values.size else 1.0
    return 1.0 if mean >= target or mean < 0.05 else float(np.clip(np.log(target) / np.log(mean), 0.35, 1.0))


@dataclass(frozen=True)
class Thing:
    """One drawn object of a scene."""

    concept: int
    style: int
    colour: str | None = None
    """Colour word in the caption."""
    recoloured: bool = False


@dataclass(frozen=True)
class Scene:
    """One composed picture, as a recipe."""

    things: tuple[Thing, ...]
    layout: str = "one"
    """`one`, `beside` or `above`."""
    background: str | None = None
    small: bool = False
    grey: bool = False
    styled: bool = False
    """The caption names the style."""


class Composer:
    """Draws random scenes from the packed pictures, and their pictures and captions."""

    def __init__(self, concepts: list[Concept], pictures: NDArray[np.uint8]) -> None:
        self.concepts = concepts
        self.pictures = np.asarray(pictures)
        self.available: list[list[int]] = []
        """Styles of every concept that may be trained on."""
        self.natural: dict[tuple[int, int], str | None] = {}
        for index, concept in enumerate(concepts):
            styles = [i for i, s in enumerate(STYLES) if s in concept.styles and not style_held_out(concept.name, s)]
            self.available.append(styles)
            for style in styles:
                self.natural[index, style] = natural_colour(self.pictures[index, style])

    def thing(
        self, rng: np.random.Generator, among: Sequence[int], style: int | None = None, recolour: float = 0.3
    ) -> Thing:
        concept = among[int(rng.integers(len(among)))]
        styles = self.available[concept]
        chosen = style if style in styles else int(rng.choice(styles))
        assert chosen is not None
        name = self.concepts[concept].name
        if rng.random() < recolour:
            colours = [c for c in HUES if not colour_held_out(c, name)]
            if colours:
                return Thing(concept, chosen, str(rng.choice(colours)), recoloured=True)
        natural = self.natural[concept, chosen]
        if natural and rng.random() < 0.4 and not colour_held_out(natural, name):
            return Thing(concept, chosen, natural)
        return Thing(concept, chosen)

    def scene(self, rng: np.random.Generator, among: Sequence[int] | None = None) -> Scene:
        """A random scene of the concepts `among`, or of all."""
        among = range(len(self.concepts)) if among is None else among
        first = self.thing(rng, among)
        draw = rng.random(5)
        scene = Scene((first,), styled=bool(draw[0] < 0.4), background=None)
        if draw[1] < 0.14:
            scene = replace(scene, background=str(rng.choice(list(BACKGROUNDS))))
        if draw[2] < 0.10:
            second = self.thing(rng, among, style=first.style)
            layout = "beside" if rng.random() < 0.6 else "above"
            return replace(scene, things=(first, second), layout=layout, styled=scene.styled and draw[0] < 0.15)
        if draw[3] < 0.06:
            scene = replace(scene, small=True)
        if draw[4] < 0.05:
            scene = replace(scene, grey=True, things=(replace(first, colour=None, recoloured=False),))
        return scene

    def caption(self, scene: Scene, rng: np.random.Generator) -> str:
        """One of the ways to say a scene."""
        article = rng.random() < 0.6
        style = STYLE_WORDS[STYLES[scene.things[0].style]]
        prefix = scene.styled and len(scene.things) == 1 and rng.random() < 0.5
        phrases = []
        for thing in scene.things:
            words = []
            if scene.small:
                words.append("small")
            if scene.grey:
                words.append("black and white")
            if thing.colour:
                words.append(thing.colour)
            if prefix:
                words.append(style)
            phrase = " ".join([*words, self.concepts[thing.concept].name])
            phrases.append(f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}" if article else phrase)
        joint = {"one": "", "beside": rng.choice(["beside", "next to"]), "above": rng.choice(["above", "on top of"])}
        text = f" {joint[scene.layout]} ".join(phrases)
        if scene.background:
            text += f" on a {scene.background} background"
        if scene.styled and not prefix:
            text += f" in {style} style"
        return text

    def draw(self, scene: Scene, rng: np.random.Generator | None = None, jitter: int = 1) -> NDArray[np.uint8]:
        """The picture of a scene: uint8 RGB [side, side, 3]. `rng` moves it by up to `jitter` pixels."""
        side = self.pictures.shape[2]
        ground = np.array(BACKGROUNDS[scene.background or "white"], np.float32) / 255
        canvas = np.broadcast_to(ground, (side, side, 3)).copy()
        half = side // 2
        quarter = side // 4
        corners = {"one": [(0, 0)], "beside": [(quarter, 0), (quarter, half)], "above": [(0, quarter), (half, quarter)]}
        places = [(quarter, quarter)] if scene.small else corners[scene.layout]
        for thing, (top, left) in zip(scene.things, places, strict=True):
            rgba = self.pictures[thing.concept, thing.style].astype(np.float32) / 255
            if thing.recoloured and thing.colour:
                rgba = recolour(rgba, thing.colour)
            if scene.grey:
                rgba = np.concatenate([rgba[..., :3] @ GREY, rgba[..., 3:]], -1)
            colour, alpha = rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]
            if scene.small or len(scene.things) == 2:
                colour, alpha = halved(colour), halved(alpha)
            if rng is not None and jitter:
                top += int(rng.integers(-jitter, jitter + 1))
                left += int(rng.integers(-jitter, jitter + 1))
            paste(canvas, colour, alpha, top, left)
        return np.rint(canvas * 255).astype(np.uint8)


GREY = np.full((3, 3), 0, np.float32) + np.array([[0.299], [0.587], [0.114]], np.float32)


def halved(picture: Pixels) -> Pixels:
    """Half the side, by the mean of every 2 x 2 pixels."""
    side = picture.shape[0] // 2
    smaller: Pixels = picture.reshape(side, 2, side, 2, -1).mean((1, 3)).astype(np.float32)
    return smaller


def paste(canvas: Pixels, colour: Pixels, alpha: Pixels, top: int, left: int) -> None:
    """Put premultiplied `colour` over `canvas`; what lies outside is cut."""
    height, width = colour.shape[:2]
    y, x = max(top, 0), max(left, 0)
    bottom, right = min(top + height, canvas.shape[0]), min(left + width, canvas.shape[1])
    inside = (slice(y - top, bottom - top), slice(x - left, right - left))
    part = canvas[y:bottom, x:right]
    part[:] = colour[inside] + part * (1 - alpha[inside])
