"""Drawing only a mask's surroundings, at the whole size: the box, what is drawn, and what comes back to the pixel."""

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from calotype import StableDiffusionControlNetInpaintPipeline, StableDiffusionInpaintPipeline, StableDiffusionXLPipeline
from calotype.errors import InputError, UnusedInput
from calotype.memory.peak import watched
from calotype.pipelines.stable_diffusion.controlled import cut_control
from calotype.pipelines.stable_diffusion.units import cut, put_back
from pipelines.stable_diffusion.test_both_loops import controls
from tiny_sd import picture, reference_pipeline, reference_xl, with_weights_of

SIZE = (32, 24)
BOX = (20, 8, 26, 12)
"""What the mask lets change of a picture of this size."""


def spot(size: tuple[int, int] = SIZE, box: tuple[int, int, int, int] = BOX) -> Image.Image:
    mask = Image.new("L", size, 0)
    mask.paste(255, box)
    return mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sd")
    reference_pipeline(diffusers.StableDiffusionInpaintPipeline).save_pretrained(path)
    return path


CALL: dict[str, Any] = {"prompt": "a red cat", "num_inference_steps": 2, "seed": 4}


def drawn(pipe: Any, **more: Any) -> Any:
    return pipe(**CALL, image=picture(SIZE), mask_image=spot(), **more)


@pytest.mark.parametrize("padding", [0, 3, 40])
@pytest.mark.parametrize("box", [BOX, (0, 0, 3, 9), (25, 20, 32, 24), (10, 2, 12, 22)])
@pytest.mark.parametrize("shape", [(24, 32), (48, 64), (18, 24)])
def test_the_box_is_the_references(padding: int, box: tuple[int, int, int, int], shape: tuple[int, int]) -> None:
    mask = spot(box=box)
    found = cut.fn(picture(SIZE), mask, *shape, padding)
    wanted = VaeImageProcessor.get_crop_region(mask, shape[1], shape[0], pad=padding)
    assert max(abs(a - b) for a, b in zip(found.cut_box, wanted, strict=True)) <= 1
    left, top, right, bottom = found.cut_box
    assert 0 <= left <= max(box[0] - padding, 0) and min(box[2] + padding, SIZE[0]) <= right <= SIZE[0]
    assert 0 <= top <= max(box[1] - padding, 0) and min(box[3] + padding, SIZE[1]) <= bottom <= SIZE[1]
    assert abs((right - left) * shape[0] - (bottom - top) * shape[1]) < max(shape)
    assert found.image.tobytes() == picture(SIZE).crop(found.cut_box).tobytes()
    assert found.mask_image.size == found.image.size
    assert found.whole_mask is mask


def test_the_part_is_drawn_at_the_whole_size_and_the_rest_comes_back(folder: Path) -> None:
    pipe = StableDiffusionInpaintPipeline.from_pretrained(folder, device="cpu")
    made = drawn(pipe, padding_mask_crop=2, outputs=("image", "pixels", "cut_box"))
    assert made["pixels"][0].shape[-2:] == (24, 32)
    before, after = np.asarray(picture(SIZE)), np.asarray(made["image"][0])
    inside = np.asarray(spot()) > 0
    assert np.array_equal(after[~inside], before[~inside])
    assert not np.array_equal(after[inside], before[inside])


def test_what_is_drawn_is_what_the_part_alone_is_drawn_as(folder: Path) -> None:
    pipe = StableDiffusionInpaintPipeline.from_pretrained(folder, device="cpu")
    made = drawn(pipe, padding_mask_crop=2, outputs=("image", "latents", "cut_box"))
    (box,) = made["cut_box"]
    part = {"image": picture(SIZE).crop(box), "mask_image": spot().crop(box), "height": 24, "width": 32}
    alone = pipe(**CALL, **part, outputs=("image", "latents"))
    assert torch.equal(alone["latents"][0], made["latents"][0])
    wanted = put_back.fn(alone["image"][0], picture(SIZE), spot(), box)
    assert wanted.tobytes() == made["image"][0].tobytes()


def test_without_it_nothing_is_cut(folder: Path) -> None:
    pipe = StableDiffusionInpaintPipeline.from_pretrained(folder, device="cpu")
    plan = pipe.plan(**CALL, image=picture(SIZE), mask_image=spot())
    assert {"cut", "put_back"}.isdisjoint(node.name for node in plan.nodes)
    assert drawn(pipe).image.tobytes() != drawn(pipe, padding_mask_crop=2).image.tobytes()


def test_grey_counts_once(folder: Path) -> None:
    pipe = StableDiffusionInpaintPipeline.from_pretrained(folder, device="cpu")
    call = {**CALL, "image": picture(SIZE), "mask_image": Image.new("L", SIZE, 128)}
    assert pipe(**call, padding_mask_crop=0).image.tobytes() == pipe(**call).image.tobytes()


def test_xl_cuts_too(tmp_path: Path) -> None:
    pipe = with_weights_of(StableDiffusionXLPipeline, reference_xl(diffusers.StableDiffusionXLPipeline), tmp_path)
    before, after = np.asarray(picture(SIZE)), np.asarray(drawn(pipe, padding_mask_crop=2).image)
    inside = np.asarray(spot()) > 0
    assert np.array_equal(after[~inside], before[~inside])
    assert not np.array_equal(after[inside], before[inside])


def test_what_is_followed_is_cut_alike(folder: Path) -> None:
    plain = StableDiffusionInpaintPipeline.from_pretrained(folder, device="cpu")
    pipe = StableDiffusionControlNetInpaintPipeline(**plain.components, controlnet=controls(plain.unet), device="cpu")
    edges = picture((64, 48), seed=7)
    made = drawn(pipe, padding_mask_crop=2, control_image=edges, outputs=("image", "control_image", "cut_box"))
    (box,) = made["cut_box"]
    assert made["control_image"][0].tobytes() == edges.crop(tuple(2 * side for side in box)).tobytes()
    assert cut_control.fn(edges, picture(SIZE), (0, 0, *SIZE)).tobytes() == edges.tobytes()


@pytest.mark.parametrize(
    ("more", "kind", "message"),
    [
        ({"mask_image": spot(box=(0, 0, 0, 0))}, InputError, "black all over"),
        ({"mask_image": spot((8, 8))}, InputError, "as large as image, 32x24, got 8x8"),
        ({"height": 64, "width": 16, "padding_mask_crop": 12}, InputError, "needs a box of 24x96 around the mask"),
    ],
)
def test_what_cannot_be_cut_is_said(more: dict[str, Any], kind: type[Exception], message: str, folder: Path) -> None:
    pipe = StableDiffusionInpaintPipeline.from_pretrained(folder, device="cpu")
    with pytest.raises(kind, match=message):
        pipe(**{**CALL, "image": picture(SIZE), "mask_image": spot(), "padding_mask_crop": 2, **more})


def test_it_has_no_meaning_without_a_mask(folder: Path) -> None:
    from calotype import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, device="cpu")
    with pytest.raises(UnusedInput, match="padding_mask_crop was given"):
        pipe(**CALL, image=picture(SIZE), padding_mask_crop=2)


def test_what_it_takes_is_known_before(folder: Path) -> None:
    """What comes after the picture works on pictures, and takes no tensors that count."""
    pipe = StableDiffusionInpaintPipeline.from_pretrained(folder, device="cpu", memo=0)
    call = {**CALL, "image": picture(SIZE), "mask_image": spot(), "padding_mask_crop": 2}
    plan = pipe.plan(**call)
    networks = (pipe.unet, pipe.vae, pipe.text_encoder)
    weights = sum(t.nbytes for n in networks for t in (*n.parameters(), *n.buffers()))
    with watched() as watch:
        pipe(**call)
    assert plan.predicted_peak is not None and 0.97 < (plan.predicted_peak - weights) / watch.peak < 1.03
    assert [node.name for node in plan.nodes][-2:] == ["image", "put_back"]
