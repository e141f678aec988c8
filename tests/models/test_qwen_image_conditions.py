"""Conditions of Qwen-Image beside what DiffSynth-Studio gave for equal weights (fp32, 1e-5): `recorded/README.md`."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from calotype.models.qwen_image import QwenImageTransformer2DModel
from calotype.models.qwen_image_blockwise_controlnet import QwenImageBlockwiseControlNetModel
from calotype.nn.streams import Patches, Region, Words, references, regions

RECORDED = Path(__file__).parent / "recorded" / "qwen_image_conditions.safetensors"
DRAWN, OTHER = (1, 4, 6), (1, 3, 5)


@pytest.fixture(scope="module")
def recorded():
    return load_file(RECORDED)


def below(tensors, prefix):
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


@pytest.fixture(scope="module")
def transformer(recorded):
    network = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        axes_dims_rope=(4, 6, 6),
    ).eval()
    network.load_state_dict(below(recorded, "transformer."), strict=True)
    return network


@pytest.fixture(scope="module")
def control(recorded):
    network = QwenImageBlockwiseControlNetModel(num_layers=2, in_dim=16, dim=32).eval()
    network.load_state_dict(below(recorded, "control."), strict=True)
    return network


def eligen(given):
    areas = given["area"]
    return regions(*(Region(Words(given[f"entity.{n}"]), areas[n : n + 1]) for n in range(2)))


CASES = {
    "regions": (["regions"], None, False),
    "regions_reference": (["regions"], "reference", False),
    "controlled": (["control"], None, False),
    "controlled_reference": (["control"], "other", False),
    "interpolated": ([], "other", True),
    "all": (["regions", "control"], "reference", False),
}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_equal_to_what_the_reference_gave(name, recorded, transformer, control):
    kinds, beside, interpolated = CASES[name]
    given = below(recorded, "input.")
    conditions = [eligen(given)] if "regions" in kinds else []
    if beside:
        conditions.append(references(Patches(given[beside], DRAWN if beside == "reference" else OTHER)))
    residuals = [control.residual(control.prepare(given["control"]), 0.8)] if "control" in kinds else []
    ready = transformer.prepare(given["prompt"], [DRAWN], conditions=conditions, interpolate_rope=interpolated)
    velocity = transformer.predict(
        given["latents"], transformer.modulate(given["timestep"]), ready, residuals=residuals
    )
    torch.testing.assert_close(velocity, recorded[f"output.{name}"], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_every_condition_changes_the_picture(recorded):
    outputs = list(below(recorded, "output.").values())
    for index, one in enumerate(outputs):
        assert all((one - other).abs().max() > 1e-2 for other in outputs[:index])


@torch.no_grad()
def test_a_region_by_itself_reaches_only_its_area_at_first(recorded, transformer):
    """What another text in a region changes in the first block, before tokens told one another, lies in the area."""
    given = below(recorded, "input.")
    seen = []

    def watch(block, drawn):
        if block == 0:
            seen.append(drawn.clone())

    for words in (given["entity.0"], torch.randn_like(given["entity.0"])):
        condition = regions(Region(Words(words), given["area"][:1]))
        ready = transformer.prepare(given["prompt"], [DRAWN], conditions=[condition])
        transformer.predict(given["latents"], transformer.modulate(0.5), ready, residuals=[watch])
    changed = ((seen[0] - seen[1]).abs().amax(-1) > 1e-6).view(4, 6)
    inside = given["area"][0].view(4, 2, 6, 2).amax((1, 3)) > 0
    assert torch.equal(changed, inside)
