"""A pipeline of a few numbers that can be trained, and data for it."""

import multiprocessing
from pathlib import Path
from typing import Annotated, Any

import torch
from PIL import Image
from torch import Tensor, nn

from calotype.graph.branches import NegativeOf
from calotype.graph.hints import Each
from calotype.graph.inputs import Inputs
from calotype.graph.unit import unit
from calotype.nn.network import Network, NetworkConfig
from calotype.pipelines.base import DiffusionPipeline, takes
from calotype.pipelines.latents import CleanLatents, Latents, Noise, latents, sigmas
from calotype.pipelines.pictures import Picture, fitted, to_array, to_picture
from calotype.sampling import Denoise, FlowMatchEuler, Scheduler, Step


class SmallConfig(NetworkConfig):
    """What describes the small network."""

    width: int = 8


class Small(Network):
    """A velocity of 3-channel pictures from their values, the time and a text's vector."""

    Config = SmallConfig

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        width = self.config.width
        self.into = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(2)])
        self.to_q = nn.Linear(5, width)
        self.drop = nn.Dropout(0.1)
        self.out = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        vector = self.to_q(torch.cat([text.mean(1), sigma[:, None]], dim=1))
        hidden = self.into(x) + vector[..., None, None]
        for block in self.blocks:
            hidden = torch.tanh(block(self.drop(hidden)))
        return self.out(hidden)


class Words(Network):
    """Texts as [1, 2, 4]; counts how often it is asked."""

    Config = NetworkConfig

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.table = nn.Embedding(101, 4)
        self.asked = 0

    def forward(self, text: str) -> Tensor:
        self.asked += 1
        ids = torch.tensor([[sum(map(ord, text)) % 101, len(text) % 101]])
        return self.table(ids)


class SmallInputs(Inputs):
    """What a user may set."""

    prompt: Each[str]
    negative_prompt: Annotated[Each[str], NegativeOf("prompt")] = ""
    image: Each[Picture] | None = None
    guidance_scale: float = 2.0
    steps: int = 3
    size: int = 8


@unit
def embeds(prompt: str, *, words: Words) -> Tensor:
    """Encode one prompt."""
    return words(prompt)


@unit
def noise(seed: int, size: int) -> Noise:
    """Standard normal noise."""
    return Noise(torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed)))


@unit
def image_latents(image: Picture, size: int) -> CleanLatents:
    """A picture's values."""
    return CleanLatents(to_array(fitted(image, size, size)))


@unit
def start(image: Picture) -> float:
    """Half the noise, where there is a picture."""
    return 0.5


@unit
def velocity(latents: Latents, step: Step, embeds: Tensor, *, net: Small) -> Latents:
    """The velocity at each item's level."""
    sigma = torch.as_tensor(step.each_sigma, dtype=torch.float32).expand(len(latents))
    return Latents(net(latents, sigma, embeds))


@unit
def velocity_of_one(latents: Latents, step: Step, embeds: Tensor, *, net: Small) -> Latents:
    """The same, by the one level of the step."""
    return Latents(net(latents, torch.full((len(latents),), step.sigma), embeds))


@unit
def image(latents: Latents, image: Picture | None) -> Picture:
    """Values as a picture."""
    return to_picture(latents)


class SmallPipeline(DiffusionPipeline):
    words: Words
    net: Small
    scheduler: Scheduler = FlowMatchEuler()

    units = (embeds, noise, image_latents, start, sigmas, latents, Denoise(velocity), image)
    __call__ = takes(SmallInputs)


class OneByOne(DiffusionPipeline):
    """The same with a predictor that knows one level at a time."""

    words: Words
    net: Small
    scheduler: Scheduler = FlowMatchEuler()

    units = (embeds, noise, image_latents, start, sigmas, latents, Denoise(velocity_of_one), image)
    __call__ = takes(SmallInputs)


def slow(prompt: str, *, words: Words) -> Tensor:
    """Encode one prompt for so long that no test waits for it, and say which process does in place of its parent."""
    import os
    import time
    from pathlib import Path

    parent = multiprocessing.parent_process()
    if parent is not None and parent.name != "MainProcess":
        Path(os.environ["STARTED"]).write_text(str(os.getpid()))
    time.sleep(120)
    return words(prompt)


class Slow(SmallPipeline):
    units = (unit(slow).renamed(slow="embeds"), *SmallPipeline.units[1:])


def small(cls: type[DiffusionPipeline] = SmallPipeline, **components: Any) -> Any:
    """A pipeline whose weights are always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = {"words": Words(), "net": Small()}
    pipe = cls(**{**made, **components}, device="cpu")
    for network in (pipe.words, pipe.net):
        if network is not None:
            network.eval()
    return pipe


def color(red: int, green: int, blue: int, size: int = 8) -> Image.Image:
    """A picture of one colour."""
    return Image.new("RGB", (size, size), (red, green, blue))


def rows(count: int = 4) -> list[dict[str, Any]]:
    """Rows of coloured squares."""
    return [{"prompt": f"colour {n}", "image": color(40 * n % 256, 255 - 30 * n % 256, 7 * n)} for n in range(count)]


def files(folder: Path, count: int = 4) -> list[dict[str, Any]]:
    """The same as files."""
    found = []
    for number, row in enumerate(rows(count)):
        path = folder / f"{number}.png"
        row["image"].save(path)
        found.append({**row, "image": path})
    return found


SETTINGS: dict[str, Any] = {
    "target": {"kind": "full", "component": "net", "result": "component"},
    "steps": 40,
    "batch": 2,
    "accumulate": 2,
    "average": 0.9,
    "optimizer": {"kind": "adamw", "rate": 1e-2},
    "rate": {"curve": "cosine", "warmup": 3},
    "dropout": {"prompt": 0.3},
    "checkpoint_every": 1,
    "validation": {"every": 7, "held_out": 0.2, "calls": [{"prompt": "colour 1"}]},
}
"""A run that uses everything whose state could be lost."""


def train_for_long(folder: Path) -> None:
    """A run that is meant to be killed: in a process of its own."""
    from calotype.training.trainer import Trainer

    torch.set_num_threads(1)
    Trainer(small(), rows(5), folder, **SETTINGS).train(resume=True, progress=False)


def train_spread(rank: int, world: int, port: int, folder: Path, settings: dict[str, Any]) -> None:
    """One of several processes that train together."""
    from calotype.training.trainer import Trainer

    torch.set_num_threads(1)
    _placed(rank, world, port)
    Trainer(small(), rows(5), folder, **settings).train(resume=True, progress=False)
    group: Any = torch.distributed.group.WORLD
    assert group._get_backend(torch.device("cpu")).options._timeout.days > 1, "one may fill a cache for hours"
    torch.distributed.destroy_process_group()


def train_in_turn(rank: int, world: int, port: int, folder: Path) -> None:
    """One of several processes that begin a run with pictures of a class, of which the first draws them."""
    import time
    from types import SimpleNamespace

    from calotype.training import config as module

    def trainer(*_: Any) -> Any:
        if rank == 0:
            time.sleep(0.3)
            (folder / "drawn").touch()
        assert (folder / "drawn").exists(), "the others wait"
        return SimpleNamespace(train=lambda **_: (folder / f"{rank}").touch())

    module._trainer = trainer  # type: ignore[assignment]
    _placed(rank, world, port)
    (folder / f"{rank}.txt").write_text("a dog")
    data = {"kind": "texts", "path": str(folder / f"{rank}.txt")}
    fields = {"target": {"kind": "full", "component": "net"}, "prior": {"call": {"prompt": "a dog"}}, "device": "cpu"}
    module.run_training(module.TrainingConfig(pipeline="none", data=data, output=str(folder), steps=1, **fields))
    torch.distributed.destroy_process_group()


def _placed(rank: int, world: int, port: int) -> None:
    """Say which of several processes this is."""
    import os

    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})


def processes() -> Any:
    """Processes of their own that start with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["calotype.training.trainer", "accelerate", "torch._dynamo"])
    return context


def starts_another(folder: Path) -> None:
    """A process that starts one as `calotype train` does to fill a cache, and waits for it."""
    process = multiprocessing.get_context("spawn").Process(target=waits, args=(folder,))
    process.start()
    process.join()


def starts_a_worker(folder: Path) -> None:
    """A process that fills a cache with another, of which both take long."""
    import os

    from calotype.training.cache import prepare_cache
    from calotype.training.wires import trained_wires

    os.environ["STARTED"] = str(folder / "started")
    wires = trained_wires(Slow.graph, ["net"])
    prepare_cache(small(Slow), wires, files(folder, 40), folder / "cache", workers=2)


def waits(folder: Path) -> None:
    """What is left to do, for so long that no test waits for it."""
    import os
    import time

    from calotype.training.parent import end_with_parent

    end_with_parent()
    (folder / "started").write_text(str(os.getpid()))
    time.sleep(120)


def train_a_little(folder: Path, data: list[dict[str, Any]]) -> None:
    """A run of six steps on a cache that changes the disk in every way that a run does."""
    from calotype.training import LowRankChange
    from calotype.training.trainer import Trainer

    torch.set_num_threads(1)
    target = LowRankChange(component="net", rank=2, layers="(into|to_q)")
    Trainer(
        small(), data, folder, target=target, steps=6, batch=2, average=0.9, checkpoint_every=2, keep=1, cache="cache",
        validation={"every": 3, "held_out": 0.25, "calls": [{"prompt": "red", "seed": 1}]},
    ).train(resume=True, progress=False)  # fmt: skip


def train_until_change(folder: Path, data: list[dict[str, Any]], number: int) -> None:
    """`train_a_little`, killed before it changes the disk for the time after so many: in a process of its own."""
    import os
    import signal
    import sys

    left = [number]

    def watch(event: str, args: tuple[Any, ...]) -> None:
        writes = event == "open" and bool((args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        moves = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "shutil.rmtree")
        if (writes or moves) and str(args[0]).startswith(str(folder)):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    train_a_little(folder, data)
