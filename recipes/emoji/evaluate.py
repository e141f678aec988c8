"""The quality table of the exported model: what it draws, beside what real pictures reach and what chance reaches.

Concepts are recognised by nearest neighbours among the real pictures in EfficientNet-lite0 features. Every caption and
seed is fixed, every picture that is made is counted. Needs the rendered pictures (`fetch` and `render`), no network.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recipes.emoji.captions import (
    HUES,
    STYLE_WORDS,
    Composer,
    Scene,
    Thing,
    colour_held_out,
    hue_distance,
    main_hue,
    natural_colour,
    style_held_out,
)
from recipes.emoji.features import features, load_network, remembered
from recipes.emoji.render import Concept, load_pictures
from recipes.emoji.sample import (
    GUIDANCE,
    STEPS,
    Sampler,
    difference_from_pipeline,
    pipeline_of,
    seconds_a_picture,
)
from recipes.emoji.settings import FAMILIES, STYLES, Preset

TWIN_DISTANCE = 0.05
"""Mean absolute difference under which another set's picture of the same concept is nearly the same drawing."""

HUE_TOLERANCE = 25.0
MAX_COLOUR_PAIRS = 120

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    value: float
    count: int
    target: float | None = None


@dataclass(frozen=True)
class Gallery:
    """Every real picture, alone on white, with its features."""

    pictures: Pictures
    concept: NDArray[np.int64]
    style: NDArray[np.int64]
    vectors: Tensor

    def neighbours(self, vectors: Tensor, without: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Concepts of the ten nearest real pictures of each vector, nearest first, not counting those in `without`."""
        likeness = vectors @ self.vectors.T
        if without is not None:
            likeness[torch.from_numpy(without)] = -1
        nearest: NDArray[np.int64] = self.concept[likeness.topk(10).indices.numpy()]
        return nearest


def real_gallery(concepts: Sequence[Concept], composer: Composer, describe: Callable[[Pictures], Tensor]) -> Gallery:
    pairs = [(i, j) for i, concept in enumerate(concepts) for j, s in enumerate(STYLES) if s in concept.styles]
    pictures = np.stack([composer.draw(Scene((Thing(i, j),))) for i, j in pairs])
    both = np.array(pairs, dtype=np.int64)
    return Gallery(pictures, both[:, 0], both[:, 1], describe(pictures))


def recall(nearest: NDArray[np.int64], concepts: Sequence[int], within: int) -> float:
    wanted = np.asarray(concepts)[:, None]
    return float((nearest[:, :within] == wanted).any(1).mean())


def chance(gallery: Gallery, within: int) -> float:
    """How often `within` pictures drawn blindly hold one of the right concept."""
    total = len(gallery.concept)
    own = np.bincount(gallery.concept)
    missed = np.ones(len(own))
    for drawn in range(within):
        missed *= (total - own - drawn) / (total - drawn)
    return float((1 - missed).mean())


def colour_is(picture: Pictures, colour: str) -> bool:
    """The main hue is within tolerance of `colour` and covers at least a tenth of what is drawn."""
    rgb = picture.astype(np.float32) / 255
    drawn = (np.abs(rgb - 1).max(-1) > 0.1).astype(np.float32)
    hue, part = main_hue(rgb, drawn)
    return part >= 0.1 and float(hue_distance(hue, HUES[colour])) <= HUE_TOLERANCE


def is_natural(composer: Composer, concept: Concept, index: int, colour: str) -> bool:
    """Some set draws the concept in this colour already, so that asking for it shows nothing."""
    for j, style in enumerate(STYLES):
        if style in concept.styles:
            rgba = composer.pictures[index, j]
            hue, part = main_hue(rgba[..., :3].astype(np.float32) / 255, rgba[..., 3].astype(np.float32) / 255)
            if natural_colour(rgba) == colour or (part >= 0.2 and hue_distance(hue, HUES[colour]) <= HUE_TOLERANCE):
                return True
    return False


def has_twin(composer: Composer, concept: Concept, index: int, style: str) -> bool:
    """A set that was trained on draws the concept nearly alike."""
    own = composer.draw(Scene((Thing(index, STYLES.index(style)),))).astype(np.float32) / 255
    for other in concept.styles:
        if FAMILIES[other] != FAMILIES[style] and not style_held_out(concept.name, other):
            theirs = composer.draw(Scene((Thing(index, STYLES.index(other)),))).astype(np.float32) / 255
            if np.abs(own - theirs).mean() < TWIN_DISTANCE:
                return True
    return False


def nearest_distance(made: Pictures, known: Pictures) -> float:
    """Median over `made` of the mean absolute difference (0..1) to the nearest of `known`."""
    flat = torch.from_numpy(known.reshape(len(known), -1)).float() / 255
    distances = []
    for picture in made:
        difference = (flat - torch.from_numpy(picture.reshape(1, -1)).float() / 255).abs().mean(1)
        distances.append(float(difference.min()))
    return float(np.median(distances))


def training_pictures(composer: Composer, concepts: Sequence[int], colours: Sequence[str | None]) -> Pictures:
    """What a memorizing model would repeat: the named concepts in every style trained on, plain and in `colours`."""
    words = sorted({colour for colour in colours if colour})
    things = []
    for concept in sorted(set(concepts)):
        name = composer.concepts[concept].name
        tints = [colour for colour in words if not colour_held_out(colour, name)]
        for style in composer.available[concept]:
            things.append(Thing(concept, style))
            things.extend(Thing(concept, style, colour, recoloured=True) for colour in tints)
    return np.stack([composer.draw(Scene((thing,))) for thing in things])


@dataclass(frozen=True)
class Judge:
    """What pictures of the model are compared with."""

    concepts: Sequence[Concept]
    composer: Composer
    sampler: Sampler
    describe: Callable[[Pictures], Tensor]
    gallery: Gallery
    greys: Gallery

    def found(self, made: Pictures) -> NDArray[np.int64]:
        """Concepts of the ten real pictures that are nearest to each that was made."""
        return self.gallery.neighbours(self.describe(made))

    def colours(self, held_out: bool, seed: int) -> list[tuple[int, str]]:
        """Pairs of concept and colour that no set draws already: of many those that a seed draws, in order."""
        pairs = [
            (i, colour)
            for i, concept in enumerate(self.concepts)
            for colour in HUES
            if colour_held_out(colour, concept.name) == held_out
            and not is_natural(self.composer, concept, i, colour)
        ]  # fmt: skip
        if len(pairs) <= MAX_COLOUR_PAIRS:
            return pairs
        chosen = np.random.default_rng(seed).choice(len(pairs), MAX_COLOUR_PAIRS, replace=False)
        return [pairs[k] for k in sorted(chosen.tolist())]


def evaluate(preset: Preset, folder: Path) -> list[Row]:
    judge = judge_of(preset, folder)
    rows = real_rows(judge.gallery)
    plain, seen = seen_rows(judge)
    styles, held = held_style_rows(judge)
    pairs, known = judge.colours(held_out=True, seed=0), judge.colours(held_out=False, seed=1)
    tinted = draw_colours(judge, pairs, 5000)
    rows += [*seen, *held, *colour_rows("held-out (colour, concept)", judge, pairs, tinted, target=0.4)]
    rows += colour_rows("seen (colour, concept)", judge, known, draw_colours(judge, known, 7000))
    everything = training_pictures(judge.composer, range(len(judge.concepts)), [None])
    shown = training_pictures(judge.composer, [i for i, _ in pairs], list(HUES))
    for what, made, learned in (
        ("training captions", plain, everything),
        ("held-out colours", tinted, np.concatenate([everything, shown])),
        ("held-out styles", styles, everything),
    ):
        distance = nearest_distance(made, learned)
        rows.append(Row(f"median L1 to nearest training picture: {what}", distance, len(made)))
    return rows + cost_rows(judge.sampler, folder)


def judge_of(preset: Preset, folder: Path) -> Judge:
    concepts, pictures = load_pictures(preset.folder)
    composer, network = Composer(concepts, pictures), load_network()

    def describe(images: Pictures) -> Tensor:
        return features(network, images)

    def remember(images: Pictures) -> Tensor:
        return remembered(network, images, preset.folder)

    gallery = real_gallery(concepts, composer, remember)
    in_grey = Gallery(gallery.pictures, gallery.concept, gallery.style, remember(greys(gallery.pictures)))
    return Judge(concepts, composer, Sampler.from_folder(folder), describe, gallery, in_grey)


def real_rows(gallery: Gallery) -> list[Row]:
    """What real pictures reach among themselves, and what chance does."""
    itself = np.eye(len(gallery.concept), dtype=bool)
    family = np.array([FAMILIES[STYLES[style]] for style in gallery.style])
    same = (gallery.concept[:, None] == gallery.concept) & (family[:, None] == family)
    real = gallery.neighbours(gallery.vectors, without=itself)
    other = gallery.neighbours(gallery.vectors, without=same)
    wanted, count = gallery.concept.tolist(), len(real)
    return [
        Row("real pictures, leave one out: concept R@1", recall(real, wanted, 1), count),
        Row("real pictures, leave one out: concept R@10", recall(real, wanted, 10), count),
        Row("real pictures, own style left out: concept R@1", recall(other, wanted, 1), count),
        Row("chance: concept R@1", chance(gallery, 1), count),
        Row("chance: concept R@10", chance(gallery, 10), count),
    ]


def recall_rows(what: str, nearest: NDArray[np.int64], wanted: Sequence[int], target: float) -> list[Row]:
    return [
        Row(f"{what}: concept R@1", recall(nearest, wanted, 1), len(wanted), target),
        Row(f"{what}: concept R@10", recall(nearest, wanted, 10), len(wanted)),
    ]


def seen_rows(judge: Judge) -> tuple[Pictures, list[Row]]:
    """Captions as in training: pictures without a style, and what is found of them and of those with one."""
    concepts, available = judge.concepts, judge.composer.available
    seen = list(range(len(concepts)))
    plain = judge.sampler([f"a {concepts[i].name}" for i in seen], seen)
    rows = recall_rows("captions seen, no style", judge.found(plain), seen, 0.6)
    half = seen[::2]
    styled = [(i, STYLES[available[i][i // 2 % len(available[i])]]) for i in half]
    made = judge.sampler([f"{concepts[i].name} in {STYLE_WORDS[s]} style" for i, s in styled], [1000 + i for i in half])
    return plain, rows + recall_rows("captions seen, style named", judge.found(made), half, 0.6)


def held_style_rows(judge: Judge) -> tuple[Pictures, list[Row]]:
    """Pictures of a concept in a style that it was never shown in, and what is found of them."""
    concepts = judge.concepts
    held = [
        (i, style)
        for i, concept in enumerate(concepts)
        for style in concept.styles
        if style_held_out(concept.name, style) and not has_twin(judge.composer, concept, i, style)
    ]
    repeats = -(-100 // len(held))
    jobs = [(i, style, 2000 + 100 * k + n) for k in range(repeats) for n, (i, style) in enumerate(held)]
    made = judge.sampler(
        [f"{concepts[i].name} in {STYLE_WORDS[s]} style" for i, s, _ in jobs], [job[2] for job in jobs]
    )
    what = f"held-out (concept, style), {len(held)} pairs without twins"
    return made, recall_rows(what, judge.found(made), [i for i, _, _ in jobs], 0.5)


def draw_colours(judge: Judge, pairs: Sequence[tuple[int, str]], seed: int) -> Pictures:
    return judge.sampler([f"a {c} {judge.concepts[i].name}" for i, c in pairs], [seed + n for n in range(len(pairs))])


def colour_rows(
    name: str, judge: Judge, pairs: Sequence[tuple[int, str]], made: Pictures, target: float | None = None
) -> list[Row]:
    """Concept, colour, and both at once; also with concepts compared in greys, where colour cannot mislead."""
    composer = judge.composer
    wanted = np.array([i for i, _ in pairs])
    colour = np.array([colour_is(picture, c) for picture, (_, c) in zip(made, pairs, strict=True)])
    concept = judge.found(made)[:, 0] == wanted
    in_grey = judge.greys.neighbours(judge.describe(greys(made)))[:, 0] == wanted
    real = np.stack([composer.draw(Scene((Thing(i, composer.available[i][0], c, recoloured=True),))) for i, c in pairs])
    real_concept = judge.found(real)[:, 0] == wanted
    real_colour = np.array([colour_is(picture, c) for picture, (_, c) in zip(real, pairs, strict=True)])
    count = len(pairs)
    return [
        Row(f"{name}: concept R@1", float(concept.mean()), count),
        Row(f"{name}: concept R@1, compared in greys", float(in_grey.mean()), count),
        Row(f"{name}: colour within {HUE_TOLERANCE:.0f} degrees", float(colour.mean()), count),
        Row(f"{name}: both", float((concept & colour).mean()), count, target),
        Row(f"{name}: both, concept compared in greys", float((in_grey & colour).mean()), count),
        Row(f"{name}: both, for real pictures recoloured alike", float((real_concept & real_colour).mean()), count),
    ]


def cost_rows(sampler: Sampler, folder: Path) -> list[Row]:
    """The size of the model, the time of a picture, and how far the recipe's sampler is from the pipeline."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    torch.set_num_threads(2)
    pipeline = pipeline_of(folder)
    prompts = ["a red apple", "a purple cat in 3d style", "a dog next to a cat"]
    difference = difference_from_pipeline(sampler, pipeline, prompts)
    return [
        Row("size of the model, MB", size, 1, 20.0),
        Row("largest difference from the pipeline's own pictures, of 255", difference, len(prompts)),
        Row(f"seconds a picture, {STEPS} steps with guidance, 2 threads", seconds_a_picture(pipeline), 5, 1.0),
    ]


def greys(pictures: Pictures) -> Pictures:
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    grey = np.rint(pictures.astype(np.float32) @ weights).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def show(rows: Sequence[Row]) -> str:
    width = max(len(row.what) for row in rows)
    lines = [f"{'what':{width}}  value      n  target"]
    for row in rows:
        target = "" if row.target is None else f"{row.target:g}"
        lines.append(f"{row.what:{width}}  {row.value:5.3f}  {row.count:5d}  {target}".rstrip())
    return "\n".join(lines)


def main(preset: Preset, folder: Path | None = None) -> None:
    notes = preset.folder if folder is None else folder.parent
    folder = folder or preset.shipped
    rows = evaluate(preset, folder)
    text = show(rows)
    print(f"{folder.name}: {STEPS} steps, guidance {GUIDANCE:g}\n{text}")
    (notes / "evaluation.txt").write_text(text + "\n")
    (notes / "evaluation.json").write_text(json.dumps([row.__dict__ for row in rows], indent=1))
