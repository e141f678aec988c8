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


def evaluate(preset: Preset, folder: Path) -> list[Row]:
    concepts, pictures = load_pictures(preset.folder)
    composer = Composer(concepts, pictures)
    network = load_network()
    sampler = Sampler.from_folder(folder)

    def describe(images: Pictures) -> Tensor:
        return features(network, images)

    def remember(images: Pictures) -> Tensor:
        return remembered(network, images, preset.folder)

    gallery = real_gallery(concepts, composer, remember)
    grey_gallery = Gallery(gallery.pictures, gallery.concept, gallery.style, remember(greys(gallery.pictures)))
    itself = np.eye(len(gallery.concept), dtype=bool)
    family = np.array([FAMILIES[STYLES[style]] for style in gallery.style])
    same = (gallery.concept[:, None] == gallery.concept) & (family[:, None] == family)
    real = gallery.neighbours(gallery.vectors, without=itself)
    real_other = gallery.neighbours(gallery.vectors, without=same)
    rows = [
        Row("real pictures, leave one out: concept R@1", recall(real, gallery.concept.tolist(), 1), len(real)),
        Row("real pictures, leave one out: concept R@10", recall(real, gallery.concept.tolist(), 10), len(real)),
        Row(
            "real pictures, own style left out: concept R@1", recall(real_other, gallery.concept.tolist(), 1), len(real)
        ),
        Row("chance: concept R@1", chance(gallery, 1), len(real)),
        Row("chance: concept R@10", chance(gallery, 10), len(real)),
    ]

    seen = list(range(len(concepts)))
    plain = sampler([f"a {concepts[i].name}" for i in seen], seen)
    nearest = gallery.neighbours(describe(plain))
    rows.append(Row("captions seen, no style: concept R@1", recall(nearest, seen, 1), len(seen), 0.6))
    rows.append(Row("captions seen, no style: concept R@10", recall(nearest, seen, 10), len(seen)))

    half = seen[::2]
    styled = [(i, STYLES[composer.available[i][i // 2 % len(composer.available[i])]]) for i in half]
    made = sampler([f"{concepts[i].name} in {STYLE_WORDS[s]} style" for i, s in styled], [1000 + i for i in half])
    nearest = gallery.neighbours(describe(made))
    rows.append(Row("captions seen, style named: concept R@1", recall(nearest, half, 1), len(half), 0.6))
    rows.append(Row("captions seen, style named: concept R@10", recall(nearest, half, 10), len(half)))

    held = [
        (i, style)
        for i, concept in enumerate(concepts)
        for style in concept.styles
        if style_held_out(concept.name, style) and not has_twin(composer, concept, i, style)
    ]
    repeats = -(-100 // len(held))
    jobs = [(i, style, 2000 + 100 * k + n) for k in range(repeats) for n, (i, style) in enumerate(held)]
    made_held = sampler([f"{concepts[i].name} in {STYLE_WORDS[s]} style" for i, s, _ in jobs], [job[2] for job in jobs])
    nearest = gallery.neighbours(describe(made_held))
    wanted = [i for i, _, _ in jobs]
    note = f"held-out (concept, style), {len(held)} pairs without twins"
    rows.append(Row(f"{note}: concept R@1", recall(nearest, wanted, 1), len(jobs), 0.5))
    rows.append(Row(f"{note}: concept R@10", recall(nearest, wanted, 10), len(jobs)))

    pairs = [
        (i, colour)
        for i, concept in enumerate(concepts)
        for colour in HUES
        if colour_held_out(colour, concept.name) and not is_natural(composer, concept, i, colour)
    ]
    if len(pairs) > MAX_COLOUR_PAIRS:
        chosen = np.random.default_rng(0).choice(len(pairs), MAX_COLOUR_PAIRS, replace=False)
        pairs = [pairs[k] for k in sorted(chosen.tolist())]
    tinted = sampler([f"a {colour} {concepts[i].name}" for i, colour in pairs], [5000 + n for n in range(len(pairs))])
    rows += colour_rows(
        "held-out (colour, concept)", composer, gallery, grey_gallery, describe, pairs, tinted, target=0.4
    )

    known = [
        (i, colour)
        for i, concept in enumerate(concepts)
        for colour in HUES
        if not colour_held_out(colour, concept.name) and not is_natural(composer, concept, i, colour)
    ]
    chosen = np.random.default_rng(1).choice(len(known), MAX_COLOUR_PAIRS, replace=False)
    known = [known[k] for k in sorted(chosen.tolist())]
    tinted_known = sampler([f"a {c} {concepts[i].name}" for i, c in known], [7000 + n for n in range(len(known))])
    rows += colour_rows("seen (colour, concept)", composer, gallery, grey_gallery, describe, known, tinted_known)

    everything = training_pictures(composer, seen, [None])
    rows.append(
        Row("median L1 to nearest training picture: training captions", nearest_distance(plain, everything), len(plain))
    )
    coloured = np.concatenate([everything, training_pictures(composer, [i for i, _ in pairs], list(HUES))])
    rows.append(
        Row("median L1 to nearest training picture: held-out colours", nearest_distance(tinted, coloured), len(tinted))
    )
    rows.append(
        Row(
            "median L1 to nearest training picture: held-out styles",
            nearest_distance(made_held, everything),
            len(made_held),
        )
    )

    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    rows.append(Row("size of the model, MB", size, 1, 20.0))
    torch.set_num_threads(2)
    pipeline = pipeline_of(folder)
    prompts = ["a red apple", "a purple cat in 3d style", "a dog next to a cat"]
    difference = difference_from_pipeline(sampler, pipeline, prompts)
    rows.append(Row("largest difference from the pipeline's own pictures, of 255", difference, len(prompts)))
    seconds = seconds_a_picture(pipeline)
    rows.append(Row(f"seconds a picture, {STEPS} steps with guidance, 2 threads", seconds, 5, 1.0))
    return rows


def colour_rows(
    name: str,
    composer: Composer,
    gallery: Gallery,
    grey_gallery: Gallery,
    describe: Callable[[Pictures], Tensor],
    pairs: Sequence[tuple[int, str]],
    made: Pictures,
    target: float | None = None,
) -> list[Row]:
    """Concept, colour, and both at once; also with concepts compared in greys, where colour cannot mislead."""
    in_colour = gallery.neighbours(describe(made))[:, 0]
    in_grey = grey_gallery.neighbours(describe(greys(made)))[:, 0]
    wanted = np.array([i for i, _ in pairs])
    colour = np.array([colour_is(picture, c) for picture, (_, c) in zip(made, pairs, strict=True)])
    concept = in_colour == wanted
    concept_grey = in_grey == wanted
    real = np.stack([composer.draw(Scene((Thing(i, composer.available[i][0], c, recoloured=True),))) for i, c in pairs])
    real_concept = gallery.neighbours(describe(real))[:, 0] == wanted
    real_colour = np.array([colour_is(picture, c) for picture, (_, c) in zip(real, pairs, strict=True)])
    count = len(pairs)
    return [
        Row(f"{name}: concept R@1", float(concept.mean()), count),
        Row(f"{name}: concept R@1, compared in greys", float(concept_grey.mean()), count),
        Row(f"{name}: colour within {HUE_TOLERANCE:.0f} degrees", float(colour.mean()), count),
        Row(f"{name}: both", float((concept & colour).mean()), count, target),
        Row(f"{name}: both, concept compared in greys", float((concept_grey & colour).mean()), count),
        Row(f"{name}: both, for real pictures recoloured alike", float((real_concept & real_colour).mean()), count),
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
