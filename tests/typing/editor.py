"""What an editor knows of a pipeline. Read by mypy, in `test_editor.py`; never run."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from calotype import DiffusionPipeline, Each, FlowMatchEuler, Inputs, NegativeOf, Scheduler, takes, unit
from calotype.models.unet_2d import UNet2DModel


class Mine(Inputs):
    prompt: Each[str]
    negative_prompt: Annotated[Each[str], NegativeOf("prompt")] = ""
    steps: Annotated[int, Field(ge=1)] = 4


@unit
def noise(prompt: str, steps: int, *, unet: UNet2DModel) -> Tensor:
    raise NotImplementedError


class Pipe(DiffusionPipeline):
    unet: UNet2DModel
    scheduler: Scheduler = FlowMatchEuler(shift=3.0)
    units = (noise,)
    __call__ = takes(Mine)


pipe = Pipe.from_pretrained("folder")
reveal_type(pipe)  # N: "Pipe"
reveal_type(pipe.unet)  # N: "UNet2DModel"
reveal_type(pipe.unet.config.sample_size)  # N: "int | tuple[int, int] | None"
reveal_type(pipe(prompt="a", seed=1))  # N: "Result"
reveal_type(pipe.to("cpu").unet)  # N: "UNet2DModel"
reveal_type(noise("a", 3, unet=pipe.unet))  # N: "Tensor"
reveal_type(noise.renamed(noise="other")("a", 3, unet=pipe.unet))  # N: "Tensor"
pipe(prompt=["a", "b"], negative_prompt="c", steps=3, num_images=2, outputs=("noise",), given={})
pipe(prmpt="a")  # E: [call-arg]
pipe(prompt="a", steps="three")  # E: [arg-type]
pipe(prompt=3)  # E: [arg-type]
pipe.run(Mine(prompt="a", step=3))  # E: [call-arg]
pipe.unet = "unet"  # E: [assignment]
assert pipe.nett  # E: [attr-defined]
noise("a", 3)  # E: [call-arg]
