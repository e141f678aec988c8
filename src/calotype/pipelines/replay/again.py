"""Making a saved picture again from the recipe it carries, and comparing the two."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from calotype.errors import ComponentError, InputError, RepositoryError, UntrustedCode
from calotype.graph.calls import read_call
from calotype.graph.inputs import ABSENT
from calotype.paths import path_of
from calotype.pipelines.adapter_records import AdapterRecord, adapters_of
from calotype.pipelines.base import DiffusionPipeline
from calotype.pipelines.loading.which import find_pipeline
from calotype.pipelines.replay.origin import check_code, named_code, with_packs
from calotype.pipelines.replay.recipe import Recipe, read_recipe
from calotype.pipelines.result import Result
from calotype.pipelines.stream import Stream

if TYPE_CHECKING:
    from calotype.memory.placement import Placing


@dataclass(frozen=True)
class Replay:
    """A picture made again.

    Attributes:
        recipe: what the original carries.
        original: the picture as it was read from the file.
        picture: the same picture, made again.
        made: the recipe of that.
    """

    recipe: Recipe
    original: Image.Image
    picture: Image.Image
    made: Recipe

    @property
    def identical(self) -> bool:
        """Whether every pixel is the same."""
        return self.difference is None

    @property
    def difference(self) -> str | None:
        """How the two differ, in words; None where they do not."""
        if (self.original.mode, self.original.size) != (self.picture.mode, self.picture.size):
            return f"the original is {_kind(self.original)}, made again it is {_kind(self.picture)}"
        old, new = (np.asarray(p, dtype=np.int16) for p in (self.original, self.picture))
        apart = np.abs(old - new).reshape(old.shape[0], old.shape[1], -1).max(-1)
        if not apart.any():
            return None
        return f"{int((apart > 0).sum())} of {apart.size} pixels differ, by up to {int(apart.max())} of 255 levels"

    @property
    def changes(self) -> list[str]:
        """What was not the same this time: versions and device, each in words."""
        old = {**self.recipe.versions, "device": self.recipe.device}
        new = {**self.made.versions, "device": self.made.device}
        return [f"{n} was {v}, now {new.get(n, 'unknown')}" for n, v in old.items() if new.get(n) != v]


def replay(
    path: str | PathLike[str],
    *,
    pipe: DiffusionPipeline | None = None,
    source: str | PathLike[str] | None = None,
    device: str | None = None,
    memory: int | str | None = None,
    placement: "Placing | None" = None,
    custom_pipeline: str | PathLike[str] | None = None,
    adapters: Sequence[tuple[str | PathLike[str], float]] = (),
    finish: Callable[[Stream], Result] = Stream.finish,
) -> Replay:
    """Make the picture in a file again: from the same weights, with the same types, device and inputs.

    Args:
        path: a PNG file that calotype wrote.
        pipe: the pipeline that made it, where loading cannot: of a class of your own, or with units of yours inserted.
        source: where the pipeline is now, if not where the recipe says.
        device: where to run, if not where the original ran; other devices round differently.
        memory: the most bytes on the device at once, as for the class.
        placement: the devices of components, which no recipe has: on devices of one kind pictures do not depend on it.
        custom_pipeline: the code of the pipeline's class, where it is a file or a folder (see `from_pretrained`).
        adapters: where the files of the adapters are that ran, each with its weight; a recipe has their hashes alone.
        finish: what runs the call to its end, for a caller that shows its steps.

    Raises:
        RepositoryError: there is no picture or recipe, the recipe cannot be replayed, or its pipeline is not found.
        ComponentError: a component's weights are not those that made the picture; names it.
        UntrustedCode: the code of others that made it was not approved.
        InputError: `pipe` was given with what says how to load another, or an adapter without its weight.
    """
    path = path_of(path, "replay", "the path of a picture")
    loads = {"source": source, "device": device, "memory": memory, "placement": placement,
             "custom_pipeline": custom_pipeline, "adapters": tuple(_weighed(adapters)) or None}  # fmt: skip
    if pipe is not None and (unread := [f"{name}=" for name, value in loads.items() if value is not None]):
        raise InputError(f"replay: pipe= runs as it is, and nothing is loaded; leave out {', '.join(unread)}")
    recipe = read_recipe(path)
    if pipe is None:
        pipe = load_for(recipe, path, source=source, device=device, memory=memory, placement=placement,
                        custom_pipeline=custom_pipeline, adapters=adapters)  # fmt: skip
    elif not isinstance(pipe, DiffusionPipeline):
        raise InputError(f"replay: pipe= is the pipeline that made the picture, got {type(pipe).__name__}")
    else:
        _refuse_given(recipe, path)
        check_pipeline(pipe, recipe, path)
    values = read_call(pipe.Inputs, recipe.inputs, strict=False).values
    inputs: dict[str, Any] = {name: value for name, value in values.items() if value is not ABSENT}
    if recipe.outputs:
        inputs["outputs"] = recipe.outputs
    with pipe._stream(inputs, frozenset(recipe.in_turn), frozenset(recipe.in_parts)) as stream:
        result = finish(stream)
    if recipe.item >= len(result.images):
        raise RepositoryError(
            f"{path} says that it is picture {recipe.item} of its call, which makes {len(result.images)}, from 0"
        )
    with Image.open(path) as original:
        original.load()
    return Replay(recipe, original, result.images[recipe.item], result.recipe.of_item(recipe.item))


def load_for(
    recipe: Recipe,
    path: Path,
    *,
    source: str | PathLike[str] | None = None,
    device: str | None = None,
    memory: int | str | None = None,
    placement: "Placing | None" = None,
    custom_pipeline: str | PathLike[str] | None = None,
    adapters: Sequence[tuple[str | PathLike[str], float]] = (),
) -> DiffusionPipeline:
    """The pipeline that made a picture, checked against its recipe.

    Raises `RepositoryError` or `ComponentError`, as `replay` does.
    """
    _refuse_given(recipe, path)
    where = source if source is not None else recipe.source
    if where is None:
        raise RepositoryError(
            f"{path} was made by a {recipe.pipeline} that was put together by hand, so where its weights are is not "
            "known; save it with save_pretrained and give that folder as the model"
        )
    code = named_code(recipe, path, where) if custom_pipeline is None else {"custom_pipeline": custom_pipeline}
    try:
        found, place = find_pipeline(where, **code)
    except RepositoryError as error:
        if source is not None or isinstance(error, UntrustedCode):
            raise
        raise RepositoryError(
            f"{path} was made from {recipe.source!r}, which is not there ({error}); give the folder where it is now as "
            "the model (--model FOLDER)"
        ) from None
    if found.__name__ != recipe.pipeline.partition("+")[0]:  # what follows names inserted units
        raise RepositoryError(
            f"{path} was made by a {recipe.pipeline}, but {where} is for a {found.__name__}; make that pipeline and "
            "call calotype.replay(path, pipe=...) from Python"
        )
    dtypes = {name: dtype for name, dtype in recipe.dtypes.items() if name in recipe.components}
    pipe = found.from_pretrained(place, dtype=dtypes or None, device=device or recipe.device, memory=memory,
                                 placement=placement)  # fmt: skip
    pipe = with_packs(pipe, recipe, path)
    for file, weight in adapters:
        pipe.load_adapter(file, weight=weight)
    check_pipeline(pipe, recipe, path)
    return pipe


def check_pipeline(pipe: DiffusionPipeline, recipe: Recipe, path: Path) -> None:
    """Raise unless a pipeline has the units and the components that made a picture."""
    units = tuple(node.name for node in pipe.graph.nodes)
    if units != recipe.units:
        raise RepositoryError(
            f"{path} was made by a {recipe.pipeline} with the units {', '.join(recipe.units)}, this "
            f"{type(pipe).__name__} has {', '.join(units)}"
        )
    check_code(pipe, recipe, path)
    check_adapters(pipe, recipe, path)
    check_components(pipe, recipe, f"{path}, made from {recipe.source!r}")


def check_adapters(pipe: DiffusionPipeline, recipe: Recipe, path: Path) -> None:
    """Raise `ComponentError` unless a pipeline runs the adapters, from the same files and at the same weights, and
    knows the learned words, that made a picture. What they are called does not matter, but for words."""
    found = adapters_of({name: pipe.components.get(name) for name in recipe.components})
    if Counter(map(_identity, found)) != Counter(map(_identity, recipe.adapters)):
        then = ", ".join(map(_spelled, recipe.adapters)) or "none"
        now = ", ".join(map(_spelled, found)) or "none"
        raise ComponentError(
            f"{path} was made with the adapters {then}; this {type(pipe).__name__} runs {now}. Load the same files "
            "with load_adapter and load_textual_inversion, set_adapters to the same weights, and give the pipeline: "
            "calotype.replay(path, pipe=...). On the command line: --adapter FILE:WEIGHT"
        )


def _identity(adapter: AdapterRecord) -> tuple[Any, ...]:
    name = adapter.name if adapter.word else ""
    return adapter.component, name, adapter.digest, adapter.weight, adapter.fused


def _spelled(adapter: AdapterRecord) -> str:
    how = "a learned word" if adapter.word else f"at {adapter.weight:g}{', fused' if adapter.fused else ''}"
    return f"{adapter.name!r} ({adapter.component}, {how}, SHA-256 {adapter.digest[:12]})"


def _refuse_given(recipe: Recipe, path: Path) -> None:
    if recipe.given:
        raise RepositoryError(
            f"{path} cannot be replayed: {' and '.join(recipe.given)} was given to the call as a computed value, which "
            "the picture does not carry"
        )


def check_components(pipe: DiffusionPipeline, recipe: Recipe, what: str) -> None:
    """Raise `ComponentError`, naming every component of the pipeline that is not the one a recipe used.

    Args:
        what: the picture that the recipe is of, for the message.
    """
    problems = []
    for name, wanted in recipe.components.items():
        component = pipe.components.get(name)
        if component is None:
            problems.append(f"{name!r} is not loaded")
            continue
        digest = pipe._digests.of(name, component)
        if digest != wanted:
            problems.append(f"{name!r} is not the same ({_short(wanted)} then, {_short(digest)} now)")
    if problems:
        raise ComponentError(f"{what}: the components differ from those that made it: {'; '.join(problems)}")


def _weighed(adapters: object) -> Iterator[tuple[str | PathLike[str], float]]:
    """Files of adapters, each with its weight. Raises `InputError` where one is not."""
    for one in adapters if isinstance(adapters, Sequence) and not isinstance(adapters, str) else [adapters]:
        if not isinstance(one, Sequence) or isinstance(one, str) or len(one) != 2:
            raise InputError(
                f"replay: adapters= takes pairs, such as [('oil.safetensors', 0.8)], got {one!r} among them"
            )
        yield one[0], one[1]


def _kind(picture: Image.Image) -> str:
    return f"{picture.width}x{picture.height} {picture.mode}"


def _short(digest: str) -> str:
    return digest if len(digest) <= 300 else digest[:297] + "..."
