"""The pipeline of a run that a file describes: what is stored, and what the run puts beside it or in its place."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import nn

from calotype.errors import ConfigError, did_you_mean
from calotype.paths import path_of
from calotype.training.pictures import PICTURES
from calotype.training.prior import prior_rows
from calotype.training.rows import Row, mixed
from calotype.training.values import Value

if TYPE_CHECKING:
    from calotype.nn.network import Network
    from calotype.pipelines.base import DiffusionPipeline
    from calotype.pipelines.packs import UnitPack

NEW = "new"
"""In place of where a ControlNet is: one that adds nothing yet."""
CONTROLNET = "controlnet"
"""The component that a run's ControlNet is."""


class Prior(Value):
    """Pictures of a class that the pipeline makes before it is trained, as rows beside those of the data, so that it
    does not forget the class while it learns something of it (DreamBooth's prior preservation).

    Attributes:
        call: inputs of a call for the class, such as `{"prompt": "a dog"}`, beside those of the run.
        count: how many pictures.
        weight: how much each counts beside a row of the data.
        folder: where they are kept, below the run's or an absolute path.
        picture: the input that the picture is for.
    """

    call: Mapping[str, Any]
    count: int = Field(default=100, ge=1)
    weight: float = Field(default=1.0, gt=0.0)
    folder: str = "prior"
    picture: str = "image"

    def rows(self, pipe: "DiffusionPipeline", output: Path, inputs: Mapping[str, Any]) -> list[Row]:
        """The rows. Those pictures that are not there yet are made.

        Raises:
            InputError: the call has a seed, or inputs that are wrong.
        """
        call, folder = {**inputs, **self.call}, output / path_of(self.folder, "prior: folder", "the path of a folder")
        return prior_rows(pipe, call, folder, count=self.count, weight=self.weight, picture=self.picture)


def assembled(
    source: str,
    options: Mapping[str, Any],
    *,
    untrained: Mapping[str, Mapping[str, Any]],
    controlnet: str | None,
    pictures: bool,
    seed: int,
    only: Sequence[str] | None = None,
) -> "DiffusionPipeline":
    """A stored pipeline, with networks that begin from nothing, a ControlNet and an input for pictures, where the run
    has such.

    Args:
        source: a folder, or an id on a hub.
        options: of `from_pretrained`.
        untrained: networks to be made anew, and the fields of their configurations that are to be others.
        controlnet: a folder or an id of one, or `"new"`.
        pictures: whether rows have a `training_image`, which pipelines on pixels that take no picture learn from.
        seed: of what is random in new networks.
        only: load these components alone.

    Raises:
        ConfigError: there is no such network, or no ControlNet for such a pipeline.
    """
    from calotype.pipelines.base import DiffusionPipeline

    stored = None if only is None else [name for name in only if name != CONTROLNET]
    pipe: DiffusionPipeline = DiffusionPipeline.from_pretrained(source, only=stored, memo=0, **options)
    for name, fields in untrained.items():
        _make_anew(pipe, name, fields, seed)
    if pictures:
        pipe = pipe.with_units(PICTURES)
    if controlnet is None:
        return pipe

    def part(name: str) -> Any:
        """A component, also where it is not loaded and only its configuration is asked for."""
        here = pipe.components[name]
        return here or DiffusionPipeline.from_pretrained(source, only=[name], device="cpu", memo=0).components[name]

    pack, load, make = _control(pipe, part)
    if only is not None and CONTROLNET not in only:
        return pipe.with_units(pack)
    network = _seeded(seed, CONTROLNET, make) if controlnet == NEW else load(controlnet)
    return pipe.with_units(pack, controlnet=network)


def _make_anew(pipe: "DiffusionPipeline", name: str, fields: Mapping[str, Any], seed: int) -> None:
    """Put an untrained network in the place of one that is loaded, of the same configuration but for some fields."""
    from calotype.nn.network import Network

    if name not in pipe.components:
        known = [name for name, c in pipe.components.items() if c is None or isinstance(c, nn.Module)]
        raise ConfigError(f"untrained: there is no network {name!r}{did_you_mean(name, known)}")
    network = pipe.components[name]
    if network is None:
        return  # not loaded
    if not isinstance(network, Network):
        raise ConfigError(f"untrained: {name!r} is a {type(network).__name__}, which its configuration does not make")
    made = _seeded(seed, name, lambda: type(network)(**{**dict(network.config), **fields}))
    setattr(pipe, name, made.to(network.device, network.dtype).eval())


def _seeded(seed: int, name: str, make: Callable[[], "Network"]) -> "Network":
    """A network whose random numbers follow from a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(mixed(seed, "untrained", name))
        return make()


def _control(
    pipe: "DiffusionPipeline", part: Callable[[str], Any]
) -> "tuple[UnitPack, Callable[[str], Network], Callable[[], Network]]":
    """The units of a ControlNet for a pipeline, what loads one, and what makes a new one of the pipeline's parts."""
    from calotype.pipelines.text_to_image import TextToImagePipeline

    if isinstance(pipe, TextToImagePipeline):
        from calotype.models.qwen_image_blockwise_controlnet import QwenImageBlockwiseControlNetModel
        from calotype.pipelines.text_to_image.controls import control, new_controlnet

        return (
            control(),
            QwenImageBlockwiseControlNetModel.from_pretrained,
            lambda: new_controlnet(part("transformer"), part("vae").config.downscale),
        )
    from calotype.models.controlnet import ControlNetModel
    from calotype.pipelines import stable_diffusion

    xl = isinstance(pipe, stable_diffusion.StableDiffusionXLPipeline)
    if xl or isinstance(pipe, stable_diffusion.StableDiffusionPipeline):
        return (
            stable_diffusion.control(xl=xl),
            ControlNetModel.from_pretrained,
            lambda: ControlNetModel.from_unet(part("unet")),
        )
    raise ConfigError(
        f"controlnet: a file can have none for {type(pipe).__name__}; in Python any is trained, with "
        "Trainer(pipe.with_units(pack, controlnet=network), ...)"
    )


def device_of_process(given: str | None) -> str | None:
    """Where this process runs: of several that train together, each on a GPU of its own.

    Raises:
        ConfigError: one GPU is named for several processes.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1 or given == "cpu":
        return given
    if given is not None and ":" in given:
        kind = given.partition(":")[0]
        raise ConfigError(f"device: {given!r} is one, and {processes} processes train together; give {kind!r}")
    if given is None and not torch.cuda.is_available():
        return None
    return f"{given or 'cuda'}:{os.environ.get('LOCAL_RANK', '0')}"
