"""Qwen-Image written as the first document writes pipelines: it draws what calotype's own pipeline draws."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from calotype import QwenImageBlockwiseControlNetModel, QwenImageEditPlusPipeline, QwenImagePipeline
from calotype.compat.diffsynth import BasePipeline, FlowMatchScheduler, PipelineUnit
from calotype.nn.patches import patched, unpatched
from calotype.nn.streams import Region, Words, references, regions
from calotype.pipelines.autoencoder import encoded, scaled
from calotype.pipelines.pictures import to_array
from calotype.pipelines.qwen_image import blockwise_control, editing
from calotype.pipelines.qwen_image import regions as regions_pack
from calotype.pipelines.qwen_image.text import encoded_text, encoded_with_pictures
from tiny_qwen import SEED, parts, picture, tiny_processor, with_weights_of


class QwenImageUnit_NoiseInitializer(PipelineUnit):
    def __init__(self) -> None:
        super().__init__(input_params=("height", "width", "seed", "rand_device"), output_params=("latents",))

    def process(self, pipe: Any, height: int, width: int, seed: int, rand_device: str) -> dict[str, Any]:
        return {"latents": pipe.generate_noise((1, 4, height // 8, width // 8), seed=seed, rand_device=rand_device)}


class QwenImageUnit_PromptEmbedder(PipelineUnit):
    def __init__(self) -> None:
        super().__init__(
            seperate_cfg=True,
            input_params_posi={"prompt": "prompt"},
            input_params_nega={"prompt": "negative_prompt"},
            output_params=("prompt_emb", "prompt_emb_mask"),
            onload_model_names=("text_encoder",),
        )

    def process(self, pipe: Any, prompt: str) -> dict[str, Any]:
        pipe.load_models_to_device(self.onload_model_names)
        embeds = encoded_text(prompt, pipe.tokenizer, pipe.text_encoder)
        return {"prompt_emb": embeds, "prompt_emb_mask": torch.ones(embeds.shape[:2])}


class QwenImageUnit_EntityControl(PipelineUnit):
    def __init__(self) -> None:
        super().__init__(
            take_over=True,
            input_params=(
                "eligen_entity_prompts",
                "eligen_entity_masks",
                "eligen_enable_on_negative",
                "height",
                "width",
            ),
            input_params_nega={"prompt_emb": "prompt_emb"},
            output_params=("entity_prompt_emb", "entity_masks"),
            onload_model_names=("text_encoder",),
        )

    def process(self, pipe: Any, inputs_shared: Any, inputs_posi: Any, inputs_nega: Any) -> Any:
        prompts = inputs_shared["eligen_entity_prompts"]
        if prompts is None:
            return inputs_shared, inputs_posi, inputs_nega
        pipe.load_models_to_device(self.onload_model_names)
        size = (inputs_shared["width"] // 8, inputs_shared["height"] // 8)
        masks = [
            torch.from_numpy(np.array(mask.resize(size, Image.Resampling.NEAREST)))[None] > 127
            for mask in inputs_shared["eligen_entity_masks"]
        ]
        embeds = [encoded_text(prompt, pipe.tokenizer, pipe.text_encoder) for prompt in prompts]
        inputs_posi["entity_prompt_emb"], inputs_posi["entity_masks"] = embeds, masks
        if inputs_shared["eligen_enable_on_negative"]:
            inputs_nega["entity_prompt_emb"] = [inputs_nega["prompt_emb"]] * len(masks)
            inputs_nega["entity_masks"] = masks
        return inputs_shared, inputs_posi, inputs_nega


class QwenImageUnit_BlockwiseControlNet(PipelineUnit):
    def __init__(self) -> None:
        super().__init__(
            input_params=("blockwise_controlnet_image",),
            output_params=("blockwise_controlnet_conditioning",),
            onload_model_names=("vae",),
        )

    def process(self, pipe: Any, blockwise_controlnet_image: Any) -> dict[str, Any]:
        if blockwise_controlnet_image is None:
            return {}
        pipe.load_models_to_device(self.onload_model_names)
        latents = scaled(encoded(to_array(blockwise_controlnet_image), pipe.vae, None), pipe.vae)
        return {"blockwise_controlnet_conditioning": patched(latents).tokens}


def model_fn_qwen_image(
    dit: Any,
    latents: Any,
    timestep: Any,
    prompt_emb: Any,
    prompt_emb_mask: Any,
    blockwise_controlnet: Any = None,
    entity_prompt_emb: Any = None,
    entity_masks: Any = None,
    blockwise_controlnet_conditioning: Any = None,
) -> Any:
    tokens, conditions, residuals = patched(latents), [], []
    if entity_prompt_emb is not None:
        places = zip(entity_prompt_emb, entity_masks, strict=True)
        conditions.append(regions(*(Region(Words(text), area.float()) for text, area in places)))
    if blockwise_controlnet_conditioning is not None:
        control = blockwise_controlnet.prepare(blockwise_controlnet_conditioning)
        residuals.append(blockwise_controlnet.residual(control))
    ready = dit.prepare(prompt_emb, [tokens.grid], prompt_emb_mask, conditions=conditions)
    return unpatched(dit.predict(tokens.tokens, dit.modulate(timestep / 1000), ready, residuals=residuals), tokens.grid)


class TinyQwenImage(BasePipeline):
    def __init__(self, device: str = "cpu", torch_dtype: torch.dtype = torch.float32) -> None:
        super().__init__(device=device, torch_dtype=torch_dtype)
        self.scheduler = FlowMatchScheduler("Qwen-Image")
        self.tokenizer: Any = None
        self.text_encoder: Any = None
        self.dit: Any = None
        self.vae: Any = None
        self.blockwise_controlnet: Any = None
        self.in_iteration_models = ("dit", "blockwise_controlnet")
        self.units = [
            QwenImageUnit_NoiseInitializer(),
            QwenImageUnit_PromptEmbedder(),
            QwenImageUnit_EntityControl(),
            QwenImageUnit_BlockwiseControlNet(),
        ]
        self.model_fn = model_fn_qwen_image

    @torch.no_grad()
    def __call__(
        self,
        prompt: str,
        negative_prompt: str = "",
        cfg_scale: float = 4.0,
        height: int = 48,
        width: int = 64,
        seed: int | None = None,
        rand_device: str = "cpu",
        num_inference_steps: int = 3,
        eligen_entity_prompts: Any = None,
        eligen_entity_masks: Any = None,
        eligen_enable_on_negative: bool = False,
        blockwise_controlnet_image: Any = None,
    ) -> Any:
        self.scheduler.set_timesteps(num_inference_steps, dynamic_shift_len=(height // 16) * (width // 16))
        posi, nega = {"prompt": prompt}, {"negative_prompt": negative_prompt}
        shared = {
            "cfg_scale": cfg_scale, "height": height, "width": width, "seed": seed, "rand_device": rand_device,
            "eligen_entity_prompts": eligen_entity_prompts, "eligen_entity_masks": eligen_entity_masks,
            "eligen_enable_on_negative": eligen_enable_on_negative,
            "blockwise_controlnet_image": blockwise_controlnet_image,
        }  # fmt: skip
        for unit in self.units:
            shared, posi, nega = self.unit_runner(unit, self, shared, posi, nega)
        self.load_models_to_device(self.in_iteration_models)
        models = {name: getattr(self, name) for name in self.in_iteration_models}
        for progress_id, timestep in enumerate(self.scheduler.timesteps):
            timestep = timestep.unsqueeze(0).to(dtype=self.torch_dtype, device=self.device)
            velocity = self.model_fn(**models, **shared, **posi, timestep=timestep)
            other = self.model_fn(**models, **shared, **nega, timestep=timestep)
            guided = other + cfg_scale * (velocity - other)
            shared["latents"] = self.step(self.scheduler, progress_id=progress_id, noise_pred=guided, **shared)
        return shared["latents"]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """The pipeline in the dialect, and calotype's own with the same networks."""
    torch.manual_seed(SEED)
    control = QwenImageBlockwiseControlNetModel(num_layers=2, in_dim=16, dim=32).eval().requires_grad_(False)
    own = with_weights_of(QwenImagePipeline, parts(), tmp_path_factory.mktemp("qwen"))
    own = own.with_units(regions_pack()).with_units(blockwise_control(), blockwise=control)
    dialect = TinyQwenImage()
    own.scheduler = dialect.scheduler
    for name, part in {"tokenizer": own.tokenizer, "text_encoder": own.text_encoder, "dit": own.transformer}.items():
        setattr(dialect, name, part)
    dialect.vae, dialect.blockwise_controlnet = own.vae, control
    return dialect, own


def halves() -> list[Image.Image]:
    left = np.zeros((48, 64), dtype=np.uint8)
    left[:, :32] = 255
    return [Image.fromarray(left), Image.fromarray(255 - left)]


@pytest.mark.parametrize("negative", [None, False, True], ids=["plain", "regions", "regions on both sides"])
@pytest.mark.parametrize("controlled", [False, True], ids=["free", "controlled"])
def test_the_dialect_draws_the_same(negative: bool | None, controlled: bool, both: tuple[Any, Any]) -> None:
    dialect, own = both
    words = {"prompt": "two animals", "negative_prompt": "blue", "height": 48, "width": 64, "seed": 4}
    theirs: dict[str, Any] = {}
    ours: dict[str, Any] = {}
    if negative is not None:
        prompts = ["a cat", "a dog"]
        theirs |= {
            "eligen_entity_prompts": prompts,
            "eligen_entity_masks": halves(),
            "eligen_enable_on_negative": negative,
        }
        ours |= {"region_prompts": prompts, "region_masks": halves(), "region_negative": negative}
    if controlled:
        theirs["blockwise_controlnet_image"] = ours["control_image"] = picture()
    found = dialect(**words, **theirs, cfg_scale=3.0, num_inference_steps=3)
    levels = own.scheduler.schedule(3, image_tokens=12)
    call = {**words, **ours, "guidance_scale": 3.0, "guidance_norm": False, "outputs": ["latents"]}
    wanted = own(**call, given={"sigmas": levels}).latents
    assert torch.allclose(found, wanted, atol=1e-4)


class QwenImageUnit_EditImageEmbedder(PipelineUnit):
    def __init__(self) -> None:
        super().__init__(input_params=("edit_image",), output_params=("edit_latents",), onload_model_names=("vae",))

    def process(self, pipe: Any, edit_image: Any) -> dict[str, Any]:
        pipe.load_models_to_device(self.onload_model_names)
        return {"edit_latents": [scaled(encoded(to_array(one), pipe.vae, None), pipe.vae) for one in edit_image]}


class QwenImageUnit_EditPromptEmbedder(PipelineUnit):
    def __init__(self) -> None:
        super().__init__(
            seperate_cfg=True,
            input_params_posi={"prompt": "prompt"},
            input_params_nega={"prompt": "negative_prompt"},
            input_params=("edit_image",),
            output_params=("prompt_emb",),
            onload_model_names=("text_encoder",),
        )

    def process(self, pipe: Any, prompt: str, edit_image: Any) -> dict[str, Any]:
        pipe.load_models_to_device(self.onload_model_names)
        shown = [one.resize((64, 64), Image.Resampling.LANCZOS) for one in edit_image]
        parts_of = (pipe.tokenizer, pipe.processor, pipe.text_encoder)
        return {"prompt_emb": encoded_with_pictures(prompt, shown, *parts_of, numbered=True)}


def model_fn_qwen_image_edit(
    dit: Any, latents: Any, timestep: Any, prompt_emb: Any, edit_latents: Any, edit_rope_interpolation: bool = False
) -> Any:
    tokens, beside = patched(latents), [references(*(patched(one) for one in edit_latents))]
    ready = dit.prepare(prompt_emb, [tokens.grid], conditions=beside, interpolate_rope=edit_rope_interpolation)
    return unpatched(dit.predict(tokens.tokens, dit.modulate(timestep / 1000), ready), tokens.grid)


class TinyQwenImageEdit(BasePipeline):
    def __init__(self, device: str = "cpu", torch_dtype: torch.dtype = torch.float32) -> None:
        super().__init__(device=device, torch_dtype=torch_dtype)
        self.scheduler = FlowMatchScheduler("Qwen-Image")
        self.tokenizer: Any = None
        self.processor: Any = None
        self.text_encoder: Any = None
        self.dit: Any = None
        self.vae: Any = None
        self.in_iteration_models = ("dit",)
        self.units = [
            QwenImageUnit_NoiseInitializer(),
            QwenImageUnit_EditImageEmbedder(),
            QwenImageUnit_EditPromptEmbedder(),
        ]
        self.model_fn = model_fn_qwen_image_edit

    @torch.no_grad()
    def __call__(
        self,
        prompt: str,
        edit_image: Any,
        negative_prompt: str = "",
        cfg_scale: float = 4.0,
        height: int = 48,
        width: int = 64,
        seed: int | None = None,
        rand_device: str = "cpu",
        num_inference_steps: int = 2,
        edit_rope_interpolation: bool = False,
    ) -> Any:
        self.scheduler.set_timesteps(num_inference_steps, dynamic_shift_len=(height // 16) * (width // 16))
        posi, nega = {"prompt": prompt}, {"negative_prompt": negative_prompt}
        shared = {
            "cfg_scale": cfg_scale, "height": height, "width": width, "seed": seed, "rand_device": rand_device,
            "edit_image": edit_image, "edit_rope_interpolation": edit_rope_interpolation,
        }  # fmt: skip
        for unit in self.units:
            shared, posi, nega = self.unit_runner(unit, self, shared, posi, nega)
        self.load_models_to_device(self.in_iteration_models)
        models = {name: getattr(self, name) for name in self.in_iteration_models}
        for progress_id, timestep in enumerate(self.scheduler.timesteps):
            timestep = timestep.unsqueeze(0).to(dtype=self.torch_dtype, device=self.device)
            velocity = self.model_fn(**models, **shared, **posi, timestep=timestep)
            other = self.model_fn(**models, **shared, **nega, timestep=timestep)
            guided = other + cfg_scale * (velocity - other)
            shared["latents"] = self.step(self.scheduler, progress_id=progress_id, noise_pred=guided, **shared)
        return shared["latents"]


@pytest.mark.parametrize("interpolated", [False, True], ids=["apart", "on the same ground"])
def test_the_dialect_edits_the_same(interpolated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(editing, "SEEN_AREA", 64**2)
    own = with_weights_of(QwenImageEditPlusPipeline, parts(), tmp_path, processor=tiny_processor())
    dialect = TinyQwenImageEdit()
    own.scheduler = dialect.scheduler
    for name in ("tokenizer", "processor", "text_encoder", "vae"):
        setattr(dialect, name, getattr(own, name))
    dialect.dit = own.transformer
    images = [picture(32, 32), picture(64, 64, seed=1)]
    words = {"prompt": "the cat of Picture 1", "negative_prompt": "blue", "height": 48, "width": 64, "seed": 4}
    found = dialect(**words, edit_image=images, cfg_scale=3.0, edit_rope_interpolation=interpolated)
    levels = own.scheduler.schedule(2, image_tokens=12)
    wanted = own(
        **words, images=images, image_resize=False, interpolate_rope=interpolated, guidance_scale=3.0,
        guidance_norm=False, outputs=["latents"], given={"sigmas": levels},
    ).latents  # fmt: skip
    assert torch.allclose(found, wanted, atol=1e-4)
