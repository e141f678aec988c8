"""What is computed within a budget: weights make room for it, and what a call does where that is not enough."""

import threading
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel

from calotype import AttentionControl, AttentionSteering, StableDiffusionPipeline, TextToImagePipeline, UnitPack, unit
from calotype.errors import ComponentError
from calotype.memory.groups import Group
from calotype.memory.lanes import HostLane
from calotype.nn import attention_parts
from calotype.nn.attention_control import AttentionSite
from calotype.pipelines.latents import Latents
from calotype.pipelines.replay.again import replay
from tiny_sd import reference_pipeline

MODEL = "calotype/emoji-64"
CALL: dict[str, Any] = {"prompt": "a red apple", "negative_prompt": "blue", "seed": 7, "steps": 3}


def embedded(memory: Any = None, **options: Any) -> Any:
    return TextToImagePipeline.from_pretrained(MODEL, device="cpu", memory=memory, **{"memo": 0, **options})


def smallest(pipe: Any, **call: Any) -> int:
    """The budget that a refusal asks for."""
    with pytest.raises(ComponentError, match=r"give memory=\d+ \(bytes\) or more") as caught:
        pipe.plan(**call)
    return int(str(caught.value).rpartition("memory=")[2].partition(" ")[0])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of every group of layers that came."""
    came: list[int] = []
    start = HostLane.start

    def counting(self: HostLane, group: Group, buffer: Any) -> Any:
        came.append(group.nbytes)
        return start(self, group, buffer)

    monkeypatch.setattr(HostLane, "start", counting)
    return came


@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_the_smallest_budget_is_enough_and_gives_the_same(dtype: str) -> None:
    call = {**CALL, "outputs": ["latents"]}
    budget = smallest(embedded("1MiB", dtype=dtype), **call)
    small = embedded(budget, dtype=dtype)
    plan = small.plan(**call)
    assert plan.chosen == () and plan.predicted_peak is not None and plan.predicted_peak <= budget
    assert torch.equal(small(**call).latents, embedded(dtype=dtype)(**call).latents)
    with pytest.raises(ComponentError, match=rf"give memory={budget} \(bytes\) or more"):
        embedded(budget - 1, dtype=dtype)(**call)


@pytest.mark.parametrize(
    ("dtype", "memory"),
    [("float32", "11MiB"), ("auto", "6MiB"), ("float32", {"cpu": "40MiB", "transformer": "stream"})],
)
def test_the_bytes_that_come_are_those_of_the_plan(counted: list[int], dtype: str, memory: Any) -> None:
    pipe, call = embedded(memory, dtype=dtype), {**CALL, "steps": 6}
    plan = pipe.plan(**call)
    assert counted == []
    pipe(**call)
    assert 0.95 < sum(counted) / plan.bytes_moved < 1.05
    assert plan.bytes_moved == sum(stay.moved for stay in plan.memory.values() if stay.moved is not None)
    assert f"brings {plan.moved['denoise'] / 2**20:.1f} MiB" in str(plan)


def test_what_one_call_computes_is_not_there_for_another() -> None:
    pipe = embedded("20MiB")
    memory, vae, text = pipe._residency, pipe.vae, pipe.text_encoder
    room = 20 * 2**20 - memory.least({"vae": vae}) - memory.least({"text_encoder": text})
    began = threading.Event()

    def other() -> None:
        with memory.hold({"text_encoder": text}, computed=room // 2 + 1000):
            began.set()

    thread = threading.Thread(target=other, daemon=True)
    with memory.hold({"vae": vae}, computed=room // 2 + 1000):
        thread.start()
        assert not began.wait(0.1)
    thread.join(5)
    assert began.is_set() and memory._computed == 0 and not memory._threads


# -- Stable Diffusion --------------------------------------------------------------------------------------------------

LARGE: dict[str, Any] = {
    "prompt": "a cat", "height": 64, "width": 160, "num_inference_steps": 1, "guidance_scale": 1.0, "seed": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sd")
    unet = {
        "block_out_channels": (8,), "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
    }  # fmt: skip
    reference_pipeline(diffusers.StableDiffusionPipeline, unet=unet).save_pretrained(path)
    return path


def load(folder: Path, memory: Any = None) -> Any:
    return StableDiffusionPipeline.from_pretrained(folder, device="cpu", memory=memory, memo=0)


@pytest.fixture(scope="module")
def least(folder: Path) -> int:
    """The smallest budget for the large picture."""
    return smallest(load(folder, "300KiB"), **LARGE)


def test_pictures_are_decoded_in_tiles_only_where_nothing_else_fits(folder: Path, least: int, tmp_path: Path) -> None:
    whole = load(folder, "1GiB").plan(**LARGE)
    assert whole.computed is not None and whole.chosen == () and whole.call.values["vae_tile"] is None
    assert least < max(whole.computed)
    budget = (least + max(whole.computed)) // 2
    pipe, plain = load(folder, budget), load(folder)
    plan = pipe.plan(**LARGE)
    (said,) = plan.chosen
    assert said.startswith("pixels: in tiles of ") and said in str(plan) and plan.predicted_peak <= budget
    side = plan.call.values["vae_tile"]
    result, tiled = pipe(**LARGE), plain(**LARGE, vae_tile=side)
    assert result.chosen == plan.chosen and tiled.chosen == ()
    assert pixels(result.image) == pixels(tiled.image) != pixels(plain(**LARGE).image)
    assert result.recipe.inputs["vae_tile"] == side
    (saved,) = result.save(tmp_path / "a.png")
    assert replay(saved, pipe=load(folder)).identical


def pixels(image: Image.Image) -> bytes:
    return image.tobytes()


def test_a_side_of_the_tiles_that_was_asked_for_is_kept(folder: Path, least: int) -> None:
    with pytest.raises(ComponentError, match=r"pixels computes .* in tiles of 152 pixels, with vae on cpu"):
        load(folder, least).plan(**LARGE, vae_tile=152)


def test_branches_are_predicted_in_turn_where_a_batch_of_them_does_not_fit(folder: Path, tmp_path: Path) -> None:
    call = {"prompt": "a cat", "height": 40, "width": 40, "num_inference_steps": 2, "seed": 5}
    pipe = load(folder, "1GiB")
    plan = pipe.plan(**call)
    assert plan.computed is not None
    at = [node.name for node in plan.nodes].index("denoise")
    least = pipe._residency.least({"unet": pipe.unet})
    small = load(folder, least + plan.computed[at] - 1)
    found = small.plan(**call)
    assert found.in_turn == {"denoise"} and "denoise: branches in turn, as a batch of them computes" in str(found)
    assert found.computed is not None and found.computed[at] < plan.computed[at]
    result = small(**call)
    assert result.recipe.in_turn == ("denoise",) and result.chosen == found.chosen
    (saved,) = result.save(tmp_path / "a.png")
    assert replay(saved, pipe=load(folder)).identical


# -- attention ---------------------------------------------------------------------------------------------------------


class Looked(AttentionControl):
    """Looks into every layer, head by head."""

    by_head = True

    def watches(self, site: AttentionSite) -> bool:
        return True


@unit
def looked(latents: Latents) -> AttentionSteering | None:
    return AttentionSteering((Looked(),))


def within(folder: Path, at: str, call: dict[str, Any], room: float, pack: Any = None) -> Any:
    """A pipeline whose budget has this share of room for what a node computes."""

    def loaded(memory: Any) -> Any:
        pipe = load(folder, memory)
        return pipe if pack is None else pipe.with_units(pack)

    pipe = loaded("1GiB")
    plan = pipe.plan(**call)
    position = [node.name for node in plan.nodes].index(at)
    assert plan.computed is not None and plan.scores[position] > attention_parts.PART and not plan.chosen
    parts = {name: getattr(pipe, name) for name in plan.nodes[position].components}
    return loaded(pipe._residency.least(parts) + int(plan.computed[position] * room))


def test_attention_that_is_looked_into_goes_in_parts_where_the_whole_does_not_fit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_parts, "PART", 2**14)
    call = {"prompt": "a cat", "height": 48, "width": 48, "num_inference_steps": 1, "seed": 5}
    pack = UnitPack((), steer=(looked,))
    pipe, plain = within(folder, "denoise", call, 0.9, pack), load(folder).with_units(pack)
    plan = pipe.plan(**call)
    assert plan.in_parts == {"denoise"} and not plan.in_turn
    assert "denoise: attention in parts, as with all of its scores it computes" in str(plan)
    found, expected = pipe(**call, outputs=["latents"]).latents, plain(**call, outputs=["latents"]).latents
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    result = pipe(**call)
    assert result.recipe.in_parts == ("denoise",) and result.chosen == plan.chosen
    (saved,) = result.save(tmp_path / "a.png")
    assert replay(saved, pipe=plain).identical


def test_attention_of_a_backend_that_holds_its_scores_goes_in_parts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_parts, "PART", 2**14)
    call = {**LARGE, "width": 64, "height": 64}
    with sdpa_kernel(SDPBackend.MATH):
        pipe = within(folder, "denoise", call, 0.9)
        plan = pipe.plan(**call)
        assert plan.in_parts == {"denoise"} and plan.predicted_peak <= pipe._residency.budget
        found, expected = (p(**call, outputs=["latents"]).latents for p in (pipe, load(folder)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert load(folder, pipe._residency.budget).plan(**call).in_parts == frozenset(), "another one holds none"


# -- layouts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [None, "1GiB"])
def test_the_plan_says_how_maps_lie_and_they_do(folder: Path, memory: Any) -> None:
    pipe, lies = load(folder, memory), {}
    for name, layer in (("vae", pipe.vae.decoder.conv_in), ("unet", pipe.unet.down_blocks[0].resnets[0].conv1)):

        def note(module: Any, args: Any, name: str = name) -> None:
            first, last = args[0].is_contiguous(), args[0].is_contiguous(memory_format=torch.channels_last)
            lies[name] = "channels first" if first else "channels last" if last else "neither"

        layer.register_forward_pre_hook(note)
    call = {**LARGE, "width": 64}
    plan = pipe.plan(**call)
    pipe(**call)
    assert plan.layouts.keys() == lies.keys() and all(plan.layouts[name].startswith(lies[name]) for name in lies)
    assert "vae: channels last, in which convolutions of large maps need no copy" in str(plan)
