"""What somebody writes over the public names. Read by mypy without a complaint, in `test_editor.py`; never run."""

from pathlib import Path

import torch
from PIL import Image

from calotype import (
    ClassifierFree,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FirstBlockCache,
    ModelConfig,
    ModelPool,
    Result,
    StableDiffusionPipeline,
    TextToImagePipeline,
    UNet2DConditionModel,
    Within,
    read_recipe,
    replay,
)
from calotype.errors import CalotypeError
from calotype.pipelines.stable_diffusion import control


def drawn(folder: Path, prompt: str) -> Image.Image:
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float16, variant="fp16", memory="8GiB")
    pipe.scheduler = DPMSolverMultistepScheduler(use_karras_sigmas=True)
    pipe.load_adapter(folder / "style.safetensors", "style", weight=0.8)
    result: Result = pipe(prompt=prompt, guidance=Within(ClassifierFree(5.0), (0.0, 0.8)), seed=1)
    result.save(folder / "drawn.png")
    picture: Image.Image = result.image
    return picture


def again(path: Path) -> bool:
    seed: object = read_recipe(path).inputs["seed"]
    assert isinstance(seed, int)
    return replay(path, source="calotype/emoji-64").identical


def steered(pipe: StableDiffusionPipeline, network: UNet2DConditionModel) -> DiffusionPipeline:
    width: int = network.config.in_channels
    assert width == 4
    return pipe.with_units(control("depth", "depth_net"), depth_net=None).to("cpu")


def networks(path: Path) -> list[str]:
    pool = ModelPool([ModelConfig(path=path)])
    network: torch.nn.Module = pool.fetch_model("unet")
    return [*pool.names, *(type(part).__name__ for part in network.children())]


def watched(prompts: list[str]) -> list[float] | str:
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64")
    pipe.scheduler = EulerDiscreteScheduler()
    shares: list[float] = []
    try:
        for event in pipe.stream(prompt=prompts, num_images=2, cache=FirstBlockCache(0.1)):
            shares.append((event.index + 1) / event.total)
            event.preview()["image"].save(f"{event.node}-{event.index}.png")
    except CalotypeError as error:
        return str(error)
    held: int = pipe.plan(prompt="a cat").bytes
    return [*shares, float(held)]
