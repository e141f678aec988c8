"""What training takes from a graph."""

from pathlib import Path

import diffusers
import pytest

import tiny_sd
from calotype import DDPMPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline, TextToImagePipeline
from calotype.errors import ComponentError, ComponentNotLoaded, GraphError, MissingInput, UnknownInput
from calotype.pipelines.stable_diffusion import HIGH_RESOLUTION
from calotype.training.wires import item_values, trained_wires
from training.small import SmallPipeline, rows, small


def names(nodes: object) -> list[str]:
    return [node.name for node in nodes]  # type: ignore[attr-defined]


def test_frozen_units_are_cached_and_the_loop_is_replaced() -> None:
    wires = trained_wires(SmallPipeline.graph, ["net"])
    assert (wires.loop.name, wires.clean, list(wires.conditions)) == ("denoise", "image_latents", ["embeds"])
    assert names(wires.cached) == ["embeds", "image_latents"]
    assert wires.live == ()
    assert wires.stored == ("embeds", "image_latents")
    assert wires.components == ("net",)


def test_units_of_a_trained_encoder_are_live() -> None:
    wires = trained_wires(SmallPipeline.graph, ["words"])
    assert names(wires.live) == ["embeds"]
    assert wires.stored == ("image_latents",)
    assert set(wires.components) == {"words", "net"}


@pytest.mark.parametrize(
    ("cls", "component"),
    [(StableDiffusionPipeline, "unet"), (StableDiffusionXLPipeline, "unet"), (TextToImagePipeline, "transformer")],
)
def test_only_the_denoiser_is_needed_in_every_step(cls: type, component: str) -> None:
    wires = trained_wires(cls.graph, [component])  # type: ignore[attr-defined]
    assert component in wires.components
    assert not {"vae", "text_encoder", "text_encoder_2"} & set(wires.components)
    assert wires.clean in wires.stored


def test_a_pipeline_that_takes_no_data_says_how_it_could() -> None:
    with pytest.raises(GraphError, match="DDPMPipeline makes no CleanLatents"):
        trained_wires(DDPMPipeline.graph, ["unet"])


def test_without_data_it_is_the_noise_of_the_loop_that_is_trained(tmp_path: Path) -> None:
    reference = tiny_sd.reference_pipeline(diffusers.StableDiffusionPipeline)
    pipe = tiny_sd.with_weights_of(StableDiffusionPipeline, reference, tmp_path)
    graph = pipe.with_units(HIGH_RESOLUTION, after="denoise")._graph()
    found = [trained_wires(graph, ["unet"], loop=loop, data=False).clean for loop in ("denoise", "hires")]
    assert found == ["noise", "hires_noise"]


def test_wrong_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(GraphError, match="name the loop of SmallPipeline to train; did you mean 'denoise'"):
        trained_wires(SmallPipeline.graph, ["net"], loop="denoiser")
    with pytest.raises(GraphError, match="makes no 'image_latent'; did you mean 'image_latents'"):
        trained_wires(SmallPipeline.graph, ["net"], clean="image_latent")


def test_a_component_that_has_no_part_in_the_prediction_is_refused() -> None:
    message = "the prediction of denoise does not depend on 'vae', so there is nothing to learn; .*; an autoencoder"
    with pytest.raises(ComponentError, match=message):
        trained_wires(TextToImagePipeline.graph, ["vae"])
    with pytest.raises(ComponentError, match="has no 'unett' to train; did you mean 'unet'"):
        trained_wires(StableDiffusionPipeline.graph, ["unett"])


def test_only_what_is_wanted_of_a_row_is_computed() -> None:
    pipe, row = small(), rows(1)[0]
    made = item_values(pipe, row, ("image_latents",), {})
    assert made["image_latents"].shape == (1, 3, 8, 8)
    assert pipe.words.asked == 0
    given = item_values(pipe, row, ("embeds", "image_latents"), {"embeds": made["image_latents"]})
    assert given["embeds"] is made["image_latents"]
    assert pipe.words.asked == 0


def test_a_text_is_encoded_once_not_once_for_its_negative_too() -> None:
    pipe = small()
    item_values(pipe, rows(1)[0], ("embeds", "image_latents"), {})
    assert pipe.words.asked == 1


def test_a_wire_of_a_unit_that_is_skipped_is_none() -> None:
    assert item_values(small(), {"prompt": "red"}, ("image_latents",), {}) == {"image_latents": None}


def test_what_a_row_lacks_is_named() -> None:
    with pytest.raises(MissingInput, match="'prompt' is missing in this row"):
        item_values(small(), {"image": rows(1)[0]["image"]}, ("embeds",), {})
    with pytest.raises(UnknownInput, match="promt"):
        item_values(small(), {"promt": "red"}, ("embeds",), {})


def test_a_component_that_is_not_loaded_is_named() -> None:
    with pytest.raises(ComponentNotLoaded, match="embeds needs component 'words' to prepare the data"):
        item_values(small(words=None), rows(1)[0], ("embeds",), {})
