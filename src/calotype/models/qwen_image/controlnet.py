"""A ControlNet of the transformer's own blocks, which runs before it."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from calotype.errors import InputError
from calotype.models.qwen_image.config import QwenImageControlNetConfig
from calotype.models.qwen_image.parts import DoubleStreamNetwork, Modulation, Prepared
from calotype.models.qwen_image.shapes import shared_grids
from calotype.nn.network import is_compiled
from calotype.nn.streams import Grid


class QwenImageControlNetOutput(NamedTuple):
    """What a forward pass gives: what is added after the transformer's blocks, evenly spread over them."""

    controlnet_block_samples: list[Tensor]


class QwenImageControlNetModel(DoubleStreamNetwork):
    """The ControlNet of "Adding Conditional Control to Text-to-Image Diffusion Models" (2023) for Qwen-Image. Keywords:
    the fields of `QwenImageControlNetConfig`.

    Its control's tokens, embedded by `controlnet_x_embedder`, stay the same from step to step, as what `prepare` gives.
    """

    Config = QwenImageControlNetConfig
    config: QwenImageControlNetConfig

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        config, width = self.config, self.config.width
        self.controlnet_blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(config.num_layers))
        self.controlnet_x_embedder = nn.Linear(config.in_channels + config.extra_condition_channels, width)
        for layer in (*self.controlnet_blocks, self.controlnet_x_embedder):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(
        self,
        hidden_states: Float[Tensor, "b n c"],
        controlnet_cond: Float[Tensor, "#b n c2"],
        conditioning_scale: float = 1.0,
        encoder_hidden_states: Float[Tensor, "b t d"] | None = None,
        encoder_hidden_states_mask: Shaped[Tensor, "b t"] | None = None,
        timestep: Shaped[Tensor, "..."] | float = 1.0,
        img_shapes: Sequence[Sequence[Grid]] | Sequence[Grid] | None = None,
        return_dict: bool = True,
    ) -> QwenImageControlNetOutput | list[Tensor]:
        """What is added to the image after the transformer's blocks: `controlnet_block_samples` of its call.

        Args:
            hidden_states: tokens of the noisy latents.
            controlnet_cond: tokens of the control's latents.
            conditioning_scale: what the result is multiplied by.
            encoder_hidden_states: hidden states of the prompt.
            encoder_hidden_states_mask: which of them are words.
            timestep: sigma, 0 for data and 1 for noise, one number or one for each item.
            img_shapes: frames, rows and columns of the picture's tokens, for each item, whose must be the same.
            return_dict: `False` for a plain list.

        Raises:
            InputError: there is no text, or a shape does not fit.
        """
        if encoder_hidden_states is None:
            raise InputError("a ControlNet of Qwen-Image needs encoder_hidden_states, those of the transformer")
        grids = shared_grids(img_shapes, hidden_states.shape[1])
        ready = self.prepare(encoder_hidden_states, grids, encoder_hidden_states_mask)
        time = self.modulate(timestep, batch=len(hidden_states))
        samples = self.predict(hidden_states, self.controlnet_x_embedder(controlnet_cond), time, ready)
        scaled = [sample * conditioning_scale for sample in samples]
        return QwenImageControlNetOutput(scaled) if return_dict else scaled

    def predict(
        self,
        tokens: Float[Tensor, "b n c"],
        control: Float[Tensor, "#b n w"],
        time: Modulation,
        ready: Prepared,
        *,
        attention: str = "sdpa",
    ) -> list[Tensor]:
        """One sample for each of its blocks, `[b, n, w]`, from tokens of noisy latents and the embedded control.

        Raises:
            InputError: the tokens are not those of the prepared grids, or a condition brought pictures, which this
                network does not look at.
        """
        self._check_tokens(tokens, ready, 0)
        joint = ready.joint(attention, several_times=False, compiled=is_compiled(self.transformer_blocks[0]))
        image, text = (self.img_in(tokens) + control).flatten(0, 1), ready.text
        samples = []
        last = len(self.transformer_blocks) - 1
        for index, (block, out) in enumerate(zip(self.transformer_blocks, self.controlnet_blocks, strict=True)):
            image, text = block(image, text, time.of_block(index, several_times=False), joint, index < last)
            samples.append(out(image).view(len(tokens), -1, self.config.width))
        return samples
