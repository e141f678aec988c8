"""The recipe of a picture: everything that makes it again, carried in the file itself."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from PIL import Image
from pydantic import ValidationError

from calotype.atomic import atomic_file
from calotype.errors import RepositoryError
from calotype.graph.inputs import ABSENT, Inputs
from calotype.paths import path_of
from calotype.pipelines.adapter_records import AdapterRecord
from calotype.pipelines.replay.origin import CodeRecord

PNG_KEY = "calotype"


@dataclass(frozen=True)
class Recipe:
    """What made a picture.

    Attributes:
        pipeline: the pipeline's class name.
        source: where it was loaded from; None for a pipeline that was put together by hand.
        components: for each component that was used, the digest of its weights, or its class where it has none.
        inputs: every input as JSON, with the seed that was drawn.
        item: which of the call's pictures it is.
        given: the names of computed values that were given in place of units; such a call cannot be replayed.
        outputs: the names of the values that the call returned; empty for the pipeline's own.
        units: the names of the pipeline's units, in order, so that inserted ones are noticed.
        dtypes: the type of each component's weights.
        device: where it ran.
        versions: of calotype and of the libraries that compute.
        adapters: those that ran, and the words that were learned; `components` says what the weights are.
        code: of others, that the pipeline's class and inserted packs of units come from.
        in_turn: the loops whose branches did not share a batch, as memory was too small for it.
        in_parts: the nodes whose attention was computed in parts, as memory was too small for all of its scores.
    """

    pipeline: str
    source: str | None
    components: dict[str, str]
    inputs: dict[str, Any]
    dtypes: dict[str, str]
    device: str
    versions: dict[str, str]
    given: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    item: int = 0
    adapters: tuple[AdapterRecord, ...] = ()
    code: tuple[CodeRecord, ...] = ()
    in_turn: tuple[str, ...] = ()
    in_parts: tuple[str, ...] = ()

    def of_item(self, item: int) -> Self:
        """The recipe of another picture of the same call."""
        return replace(self, item=item)

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises `RepositoryError` when the text is not a recipe."""
        from pydantic import TypeAdapter  # only who reads recipes needs it

        try:
            recipe = TypeAdapter(cls).validate_json(text)
            unknown = set(json.loads(text)) - {field.name for field in fields(cls)}
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise RepositoryError(
                f"this is not a recipe that this version reads: {f'{where}: ' if where else ''}{problem['msg']}"
            ) from None
        if unknown:
            raise RepositoryError(f"this is not a recipe that this version reads: {', '.join(sorted(unknown))} is new")
        return recipe


def recorded_inputs(model: type[Inputs], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a call as a recipe records them: JSON, without what was left out."""
    there = {name: value for name, value in values.items() if value is not ABSENT}
    return model.model_construct(**there).model_dump(mode="json", include=set(there))


def save_png(picture: Image.Image, path: Path, recipe: Recipe) -> None:
    """Write a picture with its recipe, aside first and then renamed."""
    from PIL.PngImagePlugin import PngInfo  # only who saves needs it

    info = PngInfo()
    info.add_itxt(PNG_KEY, recipe.to_json())
    with atomic_file(path) as aside:
        picture.save(aside, format="PNG", pnginfo=info)


def read_recipe(path: str | Path) -> Recipe:
    """The recipe that a picture carries. Raises `RepositoryError` when there is no file, picture or recipe."""
    path = path_of(path, "read_recipe", "the path of a picture")
    try:
        with Image.open(path) as picture:
            picture.load()
            text = getattr(picture, "text", {}).get(PNG_KEY)
    except FileNotFoundError:
        raise RepositoryError(f"there is no file {path}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RepositoryError(f"{path} is not a picture that can be read: {error}") from None
    if text is None:
        raise RepositoryError(
            f"{path} carries no recipe; only PNG files that calotype wrote do, and editors often drop it"
        )
    try:
        return Recipe.from_json(text)
    except RepositoryError as error:
        raise RepositoryError(f"{path}: {error}") from None
