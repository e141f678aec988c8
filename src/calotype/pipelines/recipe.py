"""The recipe of a picture: everything that makes it again, carried in the file itself."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from calotype.errors import RepositoryError
from calotype.weights.atomic import atomic_file

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
        dtypes: the type of each component's weights.
        device: where it ran.
        versions: of calotype and of the libraries that compute.
    """

    pipeline: str
    source: str | None
    components: dict[str, str]
    inputs: dict[str, Any]
    dtypes: dict[str, str]
    device: str
    versions: dict[str, str]
    given: tuple[str, ...] = ()
    item: int = 0

    def of_item(self, item: int) -> Self:
        """The recipe of another picture of the same call."""
        return replace(self, item=item)

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises `RepositoryError` when the text is not a recipe."""
        try:
            fields = json.loads(text)
            return cls(**{**fields, "given": tuple(fields.get("given", ()))})
        except (ValueError, TypeError) as error:
            raise RepositoryError(f"this is not a recipe that this version reads: {error}") from None


def save_png(picture: Image.Image, path: Path, recipe: Recipe) -> None:
    """Write a picture with its recipe, aside first and then renamed."""
    info = PngInfo()
    info.add_itxt(PNG_KEY, recipe.to_json())
    with atomic_file(path) as aside:
        picture.save(aside, format="PNG", pnginfo=info)


def read_recipe(path: str | Path) -> Recipe:
    """The recipe that a picture carries. Raises `RepositoryError` when there is no file, picture or recipe."""
    try:
        with Image.open(path) as picture:
            picture.load()
            text = getattr(picture, "text", {}).get(PNG_KEY)
    except FileNotFoundError:
        raise RepositoryError(f"there is no file {path}") from None
    except OSError as error:
        raise RepositoryError(f"{path} is not a picture that can be read: {error}") from None
    if text is None:
        raise RepositoryError(
            f"{path} carries no recipe; only PNG files that calotype wrote do, and editors often drop it"
        )
    return Recipe.from_json(text)
