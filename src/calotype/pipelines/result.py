"""What a call returns: its outputs by name, and the recipe that makes them again."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calotype.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from PIL import Image

    from calotype.pipelines.replay.recipe import Recipe


def picture_paths(path: str | Path, count: int) -> list[Path]:
    """The files that `count` pictures saved as `path` go to: several get `-0`, `-1`, ... before the suffix.

    Raises `InputError` when the path does not end in `.png`, or is none.
    """
    from calotype.paths import path_of  # only who saves needs it

    path = path_of(path, "saving pictures", "the path of a .png file")
    if path.suffix.lower() != ".png":
        raise InputError(f"{path}: pictures are saved as .png, which carries the recipe; name it {path.stem}.png")
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{number}") for number in range(count)]


class Result:
    """The outputs of one call, prompt-major: image k of prompt p is item `p * num_images + k`.

    `result["latents"]` is the list of an output's values, one for each item; `result.image` is the only value of the
    output `image`, and `result.images` the list of pictures. `save` writes the pictures with their recipe.

    Attributes:
        chosen: in words, what the call did another way than it would have without a budget of memory. Where it is
            empty, the outputs are those without one, bit for bit.
    """

    def __init__(
        self, outputs: Mapping[str, list[Any]], recipe: "Callable[[], Recipe]", chosen: tuple[str, ...] = ()
    ) -> None:
        self._outputs, self._make_recipe, self.chosen = dict(outputs), recipe, chosen

    @cached_property
    def recipe(self) -> "Recipe":
        """What makes these outputs again."""
        return self._make_recipe()

    def __getitem__(self, name: str) -> list[Any]:
        if not isinstance(name, str):
            raise InputError(
                f"a result is read by the name of an output, got {name!r}; write result[{next(iter(self), 'image')!r}]"
                f"[{name!r}]" + (f", or result.images[{name!r}]" if self.images else "")
            )
        if name not in self._outputs:
            raise InputError(f"the result has no {name!r}{did_you_mean(name, self._outputs)}; it has {', '.join(self)}")
        return self._outputs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return max((len(values) for values in self._outputs.values()), default=0)

    def __getattr__(self, name: str) -> Any:
        outputs = self.__dict__.get("_outputs", {})
        if name in outputs:
            values = outputs[name]
            if len(values) != 1:
                raise InputError(f"result.{name} is one value, but there are {len(values)}; use result[{name!r}]")
            return values[0]
        raise AttributeError(
            f"the result has no {name!r}{did_you_mean(name, outputs)}; it has {', '.join(outputs)}; outputs= of the "
            "call names others that the pipeline makes"
        )

    @property
    def images(self) -> "list[Image.Image]":
        """Every picture among the outputs, prompt-major; of an item that has several, one after the other."""
        from PIL import Image

        values = [value for values in self._outputs.values() for value in values]
        each = [one for value in values for one in (value if isinstance(value, tuple) else (value,))]
        return [one for one in each if isinstance(one, Image.Image)]

    def save(self, path: str | Path) -> list[Path]:
        """Write the pictures as PNG files that carry their recipe; several get `-0`, `-1`, ... before the suffix.

        Each file is written aside and renamed, so that no cut file is left.

        Raises:
            InputError: there is no picture among the outputs, the path does not end in `.png`, or its folder does not
                exist.
        """
        from calotype.pipelines.replay.recipe import save_png  # only who saves needs it

        pictures = self.images
        if not pictures:
            raise InputError(f"nothing to save: the outputs {', '.join(self)} hold no picture")
        paths = picture_paths(path, len(pictures))
        if not paths[0].parent.is_dir():
            raise InputError(f"{path}: the folder {paths[0].parent} does not exist; make it first")
        for number, (picture, where) in enumerate(zip(pictures, paths, strict=True)):
            save_png(picture, where, self.recipe.of_item(number))
        return paths

    def _repr_png_(self) -> bytes | None:
        pictures = self.images
        return pictures[0]._repr_png_() if len(pictures) == 1 else None

    def __repr__(self) -> str:
        return f"Result({', '.join(f'{name}: {len(values)}' for name, values in self._outputs.items())})"
