"""What the first document leaves open: its placeholder models, with real ones that are small, and its `...` bodies.

The models are those of `calotype/emoji-64`, called as the document calls its placeholders.
"""

import torch

from calotype import MiniAutoencoderKL, MiniTransformer2DModel, WordTextEncoder, WordTokenizer
from calotype.compat.diffsynth import PipelineUnit
from calotype.models.mini_autoencoder import keys as mini_autoencoder
from calotype.models.mini_transformer import keys as mini_transformer
from calotype.models.word_text_encoder import keys as word_text_encoder
from calotype.weights.pool.catalogue import Catalogue


class XXX_Model(WordTextEncoder):
    """A text encoder."""


class YYY_Model(MiniTransformer2DModel):
    """A denoiser that is called `dit(latents, prompt_emb, timestep)`. The first row of `prompt_emb` is the prompt as a
    whole, the others are its words, zero where there is none."""

    def forward(self, latents, prompt_emb, timestep):
        pooled, words = prompt_emb[:, 0], prompt_emb[:, 1:]
        sigma = (timestep / 1000).to(latents.dtype).expand(len(latents))
        return super().forward(latents, sigma, words, (words != 0).any(dim=-1), pooled)


class ZZZ_Model(MiniAutoencoderKL):
    """An autoencoder that is called `vae.decode(latents, device=...)`."""

    def decode(self, latents, device=None):
        return super().decode(latents.to(device))


def as_in(keys):
    """What tells the files of a network, and its config, from the module of its keys."""
    return {"keys": keys.TELLING, "config": keys.config_from_shapes, "asks": keys.ASKS}


NEW_MODELS = (
    Catalogue()
    .with_model("xxx_text_encoder", XXX_Model, **as_in(word_text_encoder))
    .with_model("yyy_dit", YYY_Model, **as_in(mini_transformer))
    .with_model("zzz_vae", ZZZ_Model, **as_in(mini_autoencoder))
)
"""The names that `fetch_model` is asked for."""


def load_tokenizer(tokenizer_config):
    return WordTokenizer.from_pretrained(tokenizer_config.path)


def encode_prompt(pipe, prompt):
    """The prompt as a whole and its words, [1, 1 + l, c], and which of these there are, [1, 1 + l]."""
    ids, mask = pipe.tokenizer(prompt)
    words, mask, pooled = pipe.text_encoder(ids[None], mask[None])
    return torch.cat([pooled[:, None], words], dim=1), torch.cat([mask.new_ones(1, 1), mask], dim=1)


def control_entities(pipe, inputs_shared, inputs_posi, inputs_nega):
    """Embeddings of each entity's prompt, each for a vertical strip of the latents."""
    prompts = inputs_shared.get("eligen_entity_prompts")
    if prompts is None:
        return inputs_posi, inputs_nega
    made = [encode_prompt(pipe, prompt) for prompt in prompts]
    height, width = inputs_shared["height"] // 8, inputs_shared["width"] // 8
    strips = torch.arange(width) * len(prompts) // width
    masks = [(strips == number).expand(1, height, width) for number in range(len(prompts))]
    entities = {
        "entity_prompt_emb": [embeds for embeds, _ in made],
        "entity_prompt_emb_mask": [mask for _, mask in made],
        "entity_masks": masks,
    }
    inputs_posi.update(entities)
    if inputs_shared["cfg_scale"] != 1 and inputs_shared.get("eligen_enable_on_negative"):
        inputs_nega.update(entities)
    return inputs_posi, inputs_nega


class InputImageEmbedder(PipelineUnit):
    """Where the loop starts: noise, or the picture that was given, noised to the first level."""

    def __init__(self):
        super().__init__(
            input_params=("input_image", "noise", "height", "width"),
            output_params=("latents", "input_latents"),
            onload_model_names=("vae",),
        )

    def process(self, pipe, input_image, noise, height, width):
        if input_image is None:
            return {"latents": noise, "input_latents": None}
        pipe.load_models_to_device(self.onload_model_names)
        input_latents = pipe.vae.encode(pipe.preprocess_image(input_image.resize((width, height))))
        latents = pipe.scheduler.add_noise(input_latents, noise, timestep=pipe.scheduler.timesteps[0])
        return {"latents": latents, "input_latents": input_latents}
