"""Pictures as values: the `Picture` input type with its codecs, and the conversion between pictures and arrays."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from calotype.errors import ComponentError, InputError
from calotype.graph.hints import ClassRef, bare
from calotype.paths import path_of

if TYPE_CHECKING:
    from PIL import Image
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import PydanticCustomError
    from pydantic_core.core_schema import CoreSchema

DATA_URL = "data:image/png;base64,"


class PictureCodec:
    """Reads a picture from a PIL image, a path or a `data:` URL, and writes it to JSON as a PNG `data:` URL."""

    def __get_pydantic_core_schema__(self, source: Any, handler: "GetCoreSchemaHandler") -> "CoreSchema":
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            read_picture, serialization=core_schema.plain_serializer_function_ser_schema(write_data_url)
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: "GetJsonSchemaHandler") -> dict[str, Any]:
        return {"type": "string", "format": "data-url", "description": "A picture as a data: URL, or a file's path."}


if TYPE_CHECKING:
    Picture = Annotated[Image.Image, PictureCodec()]
else:
    Picture = Annotated[Any, ClassRef("PIL.Image:Image"), PictureCodec()]  # Pillow waits for the first picture
"""A picture among the inputs: a PIL image, the path of a file, or a `data:` URL."""


def is_picture(hint: Any) -> bool:
    """Whether a type of a wire or of an input is that of pictures. Imports nothing."""
    kind, picture = bare(hint), ClassRef("PIL.Image:Image")
    return kind == picture or (isinstance(kind, type) and picture.names(kind))


def read_picture(value: Any) -> Picture:
    """The picture that a value is or names, loaded whole and turned the way its file says. Raises the validation error
    that says what is wrong."""
    from PIL import Image, ImageOps

    if isinstance(value, Image.Image):
        return _readable(value)
    if not isinstance(value, str | Path):
        raise _wrong(
            "must be a picture (a PIL image, a path or a data: URL), got {kind}",
            {"kind": type(value).__name__},
        )
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        raise _wrong(
            "{url} is not fetched: a picture is a file here; download it first, and give its path", {"url": value}
        )
    is_data = isinstance(value, str) and value.startswith("data:")
    source: Any = None if is_data else path_of(value, "a picture", "a path")
    try:
        if is_data:
            _, _, payload = str(value).partition(",")
            source = io.BytesIO(base64.b64decode(payload, validate=True))
        with Image.open(source) as opened:
            opened.load()
            return _readable(ImageOps.exif_transpose(opened))
    except FileNotFoundError:
        raise _wrong("there is no picture file {path}", {"path": str(value)}) from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        what = "the data: URL" if is_data else str(value)
        raise _wrong("{what} is not a picture that can be read: {error}", {"what": what, "error": str(error)}) from None


def _wrong(template: str, context: dict[str, Any]) -> "PydanticCustomError":
    from pydantic_core import PydanticCustomError

    return PydanticCustomError("picture", template, context)


def _readable(picture: Picture) -> Picture:
    """A picture in a mode of 8 bits. 16-bit grey is rounded to 8; other ranges are not known, and refused."""
    from PIL import Image

    if 0 in picture.size:
        width, height = picture.size
        raise _wrong("must have pixels, got {width}x{height}", {"width": width, "height": height})
    if picture.mode.startswith("I;16"):
        levels = np.asarray(picture).astype(np.uint32)
        return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise _wrong(
            "is a picture of mode {mode}, whose range is not known; convert it to 'L' or 'RGB' first",
            {"mode": picture.mode},
        )
    return picture


def write_data_url(picture: Picture) -> str:
    """A picture as a PNG `data:` URL; reading it back gives the same pixels."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return DATA_URL + base64.b64encode(buffer.getvalue()).decode("ascii")


def to_array(picture: Picture) -> Float[Tensor, "1 3 h w"]:
    """A picture as values in [-1, 1]; transparent parts over white."""
    from PIL import Image

    if picture.has_transparency_data:
        over = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(over, picture.convert("RGBA"))
    pixels = torch.from_numpy(np.array(picture.convert("RGB")))
    return (pixels.permute(2, 0, 1).float() / 127.5 - 1.0)[None]


def to_mask(picture: Picture) -> Float[Tensor, "1 1 h w"]:
    """A mask picture as values in [0, 1]: white (1) is what may change, black (0) what is kept."""
    return torch.from_numpy(np.array(picture.convert("L"))).float()[None, None] / 255.0


def to_picture(values: Float[Tensor, "1 c h w"]) -> Picture:
    """Values in [-1, 1] as a picture, rounded to the nearest of 256 levels: grey, RGB or RGBA by the channels.

    Raises:
        InputError: the values are not those of one picture of one, three or four channels.
        ComponentError: a value is not finite, which damaged weights or a type of too small a range make.
    """
    from PIL import Image

    if not isinstance(values, Tensor) or values.ndim != 4 or len(values) != 1 or values.shape[1] not in (1, 3, 4):
        found = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InputError(
            f"to_picture takes the values of one picture, a tensor [1, 1, 3 or 4, height, width], got {found}; of a "
            "batch take values[i : i + 1]"
        )
    if not values.isfinite().all():
        raise ComponentError(
            "these values make no picture: some are not finite. Weights are damaged (NaN), or their type overflows; "
            "load the pipeline with dtype='float32', or load the weights again"
        )
    levels = ((values[0].detach().float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
    pixels = levels.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def fitted(picture: Picture, height: int, width: int) -> Picture:
    """A picture scaled to cover height x width and cropped around its middle."""
    if picture.size == (width, height):
        return picture
    from PIL import Image, ImageOps

    return ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
