"""The text-conditioned denoiser of Stable Diffusion 1, 2 and XL, and of what was trained from them."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from calotype.errors import InputError, UnusedInput
from calotype.models.unet_2d_condition.blocks import blocks
from calotype.models.unet_2d_condition.conditioning import (
    Given,
    added_embedding,
    class_embedding,
    class_vector,
    extra,
    is_alone,
    steering,
)
from calotype.models.unet_2d_condition.config import UNet2DConditionConfig
from calotype.models.unet_2d_condition.keys import AVERAGE_REMARKS
from calotype.models.unet_2d_condition.text import ProjectedText
from calotype.nn.activations import ACTIVATIONS, activated
from calotype.nn.attention_control import AttentionControl
from calotype.nn.conditions import added_vector, times
from calotype.nn.network import Network
from calotype.nn.perturbation import Perturbation
from calotype.nn.resnet import ResnetBlock2D
from calotype.nn.reuse import BlockCache, BlockPass
from calotype.nn.time import SinusoidalTime, TimestepEmbedding
from calotype.nn.transformer import Attention, KeysAndValues, PicturePrompt, Text, TransformerBlock
from calotype.nn.unet_blocks import WHOLE, TextDownBlock, TextUpBlock, steered

_DISCARDED = -10000.0


class UNet2DConditionOutput(NamedTuple):
    """What a `UNet2DConditionModel` predicts: the noise, the velocity, or whatever it was trained to."""

    sample: Float[Tensor, "b c h w"]


class UNet2DConditionModel(Network):
    """The U-Net of "High-Resolution Image Synthesis with Latent Diffusion Models" and, with added conditions, of
    "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis". Keywords: the fields of
    `UNet2DConditionConfig`."""

    Config = UNet2DConditionConfig
    config: UNet2DConditionConfig
    repeated_blocks = (TransformerBlock, ResnetBlock2D)
    map_layouts = (("cpu", "channels first, as the weights of small maps would be reordered in every step otherwise"),)

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        config = self.config
        widths, waves = config.block_out_channels, config.block_out_channels[0]
        self.conv_in = nn.Conv2d(
            config.in_channels, waves, config.conv_in_kernel, padding=(config.conv_in_kernel - 1) // 2
        )
        self.time_proj = SinusoidalTime(waves, cos_first=config.flip_sin_to_cos, freq_shift=config.freq_shift)
        self.time_embedding = TimestepEmbedding(
            waves, config.time_channels, act=config.act_fn, condition_channels=config.time_cond_proj_dim
        )
        self.encoder_hid_proj = (
            None
            if config.encoder_hid_dim is None
            else nn.Linear(config.encoder_hid_dim, config.per_level(config.cross_attention_dim)[0])
        )
        self.class_embedding = class_embedding(config)
        self.add_time_proj, self.add_embedding = added_embedding(config)
        self.act = ACTIVATIONS[config.act_fn]
        self.down_blocks, self.mid_block, self.up_blocks = blocks(config)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(
            widths[0], config.out_channels, config.conv_out_kernel, padding=(config.conv_out_kernel - 1) // 2
        )
        for place, block in enumerate(self._picture_blocks()):
            block.place = place
        first = 0
        for block in self._text_blocks():
            block.first, first = first, first + block.text_layers
        self._text_widths = [layer.to_k.out_features for layer in self._text_layers()]
        for name, module in self.named_modules():
            if isinstance(module, Attention):
                module.name = name

    @classmethod
    def parse_config(cls, fields: Mapping[str, Any]) -> Any:
        return super().parse_config({name: value for name, value in fields.items() if name not in AVERAGE_REMARKS})

    def forward(
        self,
        sample: Float[Tensor, "b c h w"],
        timestep: Shaped[Tensor, "*batch"] | float | int,
        encoder_hidden_states: Float[Tensor, "texts tokens width"] | ProjectedText,
        class_labels: Shaped[Tensor, "labels ..."] | None = None,
        timestep_cond: Float[Tensor, "#b cond"] | None = None,
        attention_mask: Tensor | None = None,
        cross_attention_kwargs: Mapping[str, Any] | None = None,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        down_block_additional_residuals: Sequence[Tensor] | None = None,
        mid_block_additional_residual: Tensor | None = None,
        down_intrablock_additional_residuals: Sequence[Tensor] | None = None,
        encoder_attention_mask: Shaped[Tensor, "texts tokens"] | None = None,
        return_dict: bool = True,
        perturbation: Perturbation | None = None,
        picture_prompts: Sequence[PicturePrompt] = (),
        attention: Sequence[AttentionControl] = (),
        cache: BlockCache | None = None,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """Predict what was added to `sample`.

        Args:
            sample: noisy latents, of any height and width; beside them, as further channels, what the network was
                trained to see there (a mask and masked latents, or a picture's latents).
            timestep: a number for all items or a tensor of one, or a number for each item.
            encoder_hidden_states: the text's hidden states, or what `project_text` made of them.
            class_labels: one for each item. Required by a network with classes, and refused by one without.
            timestep_cond: the guidance scale's waves, for a network with `time_cond_proj_dim`.
            attention_mask, cross_attention_kwargs: not taken; there to keep the places of the arguments.
            added_cond_kwargs: for a network with `addition_embed_type="text_time"` the pooled `text_embeds` `[b, c]`
                and `time_ids` `[b, n]`: original size, crop top and left, then target size or an aesthetic score.
            down_block_additional_residuals, mid_block_additional_residual: a ControlNet's, one for each map on the way
                down, and for the middle.
            down_intrablock_additional_residuals: a T2I-Adapter's, one for each level and perhaps one for the middle.
            encoder_attention_mask: 1 for tokens that count, 0 for others.
            return_dict: `False` for a plain tuple.
            perturbation: `"identity_attention"` of the middle, for guidance away from what that predicts.
            picture_prompts: an IP-Adapter's, one for each picture.
            attention: what observes and alters the attention of every layer.
            cache: what may leave out all but the outermost layers, next to the first and the last convolution
                ("DeepCache: Accelerating Diffusion Models for Free", section 3.2).

        Raises:
            InputError: a shape does not fit, or a condition is missing or has no meaning for this network.
        """
        self._check(sample, encoder_hidden_states, attention_mask, cross_attention_kwargs)
        text = self._text(encoder_hidden_states, encoder_attention_mask, sample)
        given = Given(
            self._time_vector(sample, timestep, timestep_cond, class_labels, added_cond_kwargs),
            text._replace(pictures=self._pictures(picture_prompts, len(sample)), controls=tuple(attention)),
            extra(len(self.down_blocks), down_intrablock_additional_residuals),
            is_alone(perturbation, self.mid_block),
            steering(self.config, down_block_additional_residuals, mid_block_additional_residual),
        )
        x = self._through(sample, given, cache)
        return UNet2DConditionOutput(x) if return_dict else (x,)

    def _through(self, sample: Tensor, given: Given, cache: BlockCache | None) -> Tensor:
        """All layers, but those that a cache leaves out."""
        x, maps = self._enter(self.conv_in(2 * sample - 1 if self.config.center_input_sample else sample), given)
        inner = partial(self._inner, maps=maps, given=given)
        if cache is None:
            x = inner(x)
        else:
            outer = x
            x = cache.passed(BlockPass(type(self).__name__, first=lambda: outer, hidden=_itself, rest=inner))
        last = cast(TextUpBlock, self.up_blocks[-1])
        x = last(x, given.temb, given.text, maps, slice(len(last.resnets) - len(maps), None))
        out: Tensor = self.conv_out(activated(self.act, self.conv_norm_out(x)))
        return out

    def _enter(self, x: Tensor, given: Given) -> tuple[Tensor, list[Tensor]]:
        """The first layer, and the maps up to it for the last ones; of a network of one level, all on the way down."""
        y, more = self.down_blocks[0](x, given.temb, given.text, given.extra[0], self._outer)
        maps = [x, *more]
        return y, maps if given.steering is None else _sums(maps, given.steering[0][: len(maps)])

    def _inner(self, x: Tensor, maps: list[Tensor], given: Given) -> Tensor:
        """What lies between the outermost layers, whose `maps` tell the sizes to come back to."""
        temb, text = given.temb, given.text
        skips = list(maps)
        for level, (block, residual) in enumerate(zip(self.down_blocks, given.extra, strict=False)):
            part = slice(self._outer.stop, None) if level == 0 else WHOLE
            if level > 0 or part.start is not None:
                x, more = block(x, temb, text, residual, part)
                skips += more
        if self.mid_block is not None:
            x = self.mid_block(x, temb, text, given.alone)
        if given.extra[-1] is not None:
            x = steered(x, given.extra[-1])
        if given.steering is not None:
            outer, (downs, middle) = len(maps), given.steering
            skips[outer:] = _sums(skips[outer:], downs[outer:])
            x = steered(x, middle)
        for block in self.up_blocks[:-1]:
            x = block(x, temb, text, skips)
        last = cast(TextUpBlock, self.up_blocks[-1])
        inside: Tensor = last(x, temb, text, skips, slice(len(last.resnets) - len(maps)))
        return inside

    @property
    def _outer(self) -> slice:
        """The layers of the first level that come first: one, or all where no halving follows."""
        first = cast(TextDownBlock, self.down_blocks[0])
        return WHOLE if first.downsamplers is None else slice(1)

    def project_text(self, encoder_hidden_states: Float[Tensor, "b tokens width"]) -> ProjectedText:
        """The keys and values of a text in every layer, to give in place of its hidden states to any number of steps.

        The numbers are those that each step would compute.
        """
        states = self._hidden(encoder_hidden_states)
        return ProjectedText(tuple(layer.project(states) for layer in self._text_layers()), len(states))

    def picture_layers(self) -> list[Attention]:
        """The layers that attend to pictures beside the text, in the order of published adapters: the middle last."""
        return [block.attn2 for block in self._picture_blocks()]

    def _picture_blocks(self) -> list[TransformerBlock]:
        parts = [part for part in (self.down_blocks, self.up_blocks, self.mid_block) if part is not None]
        return [m for part in parts for m in part.modules() if isinstance(m, TransformerBlock)]

    def _text_blocks(self) -> list[TransformerBlock]:
        """The blocks in the order of a forward pass."""
        return [block for block in self.modules() if isinstance(block, TransformerBlock)]

    def _text_layers(self) -> list[Attention]:
        """The layers that attend to the text, in the order of a forward pass."""
        blocks = self._text_blocks()
        return [layer for block in blocks for layer in (block.attn1, block.attn2) if layer.of_text]

    def _pictures(self, prompts: Sequence[PicturePrompt], batch: int) -> tuple[PicturePrompt, ...]:
        wanted = [layer.to_q.out_features for layer in self.picture_layers()] if prompts else []
        for prompt in prompts:
            found = [keys.shape[-1] for keys, _ in prompt.layers]
            if found != wanted:
                raise InputError(
                    f"picture_prompts must be of {len(wanted)} layers as wide as this network's, got {len(found)}; the "
                    "IP-Adapter is for another network"
                )
            if {len(part) for layer in prompt.layers for part in layer} - {1, batch}:
                raise InputError(f"picture_prompts must be for {batch} items, as sample is, or one for all")
        return tuple(prompts)

    def _hidden(self, states: Tensor) -> Tensor:
        if states.ndim != 3 or states.shape[-1] != self.config.text_channels:
            raise InputError(
                f"encoder_hidden_states must be [batch, tokens, {self.config.text_channels}], got {list(states.shape)}"
            )
        return states if self.encoder_hid_proj is None else self.encoder_hid_proj(states)

    def _text(self, states: Tensor | ProjectedText, mask: Tensor | None, sample: Tensor) -> Text:
        bias = None
        if mask is not None:
            bias = ((1 - mask.to(sample.dtype)) * _DISCARDED)[:, None, None]
        return Text(self._projected(states) if isinstance(states, ProjectedText) else self._hidden(states), bias)

    def _projected(self, text: ProjectedText) -> tuple[KeysAndValues, ...]:
        found = [keys.shape[1] * keys.shape[3] for keys, _ in text.layers]
        if found != self._text_widths:
            raise InputError(
                f"encoder_hidden_states is a ProjectedText for {len(found)} layers as wide as {sorted(set(found))}; "
                f"this network has {len(self._text_widths)} as wide as {sorted(set(self._text_widths))}; make it with "
                "this network's project_text"
            )
        return text.layers

    def _time_vector(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        condition: Tensor | None,
        labels: Tensor | None,
        added: Mapping[str, Tensor] | None,
    ) -> Tensor:
        if condition is not None and self.config.time_cond_proj_dim is None:
            raise UnusedInput("timestep_cond was given, but this UNet2DConditionModel has no time_cond_proj_dim")
        waves = self.time_proj(times(timestep, sample)).to(sample.dtype)
        vector: Tensor = self.time_embedding(waves, condition)
        label_waves = self.time_proj if self.config.class_embed_type == "timestep" else None
        for more in (
            class_vector(self.class_embedding, label_waves, labels, sample),
            added_vector(type(self).__name__, self.add_time_proj, self.add_embedding, added, sample),
        ):
            if more is not None:
                vector = vector + more
        return self.act(vector)

    def _check(
        self,
        sample: Tensor,
        text: Tensor | ProjectedText,
        attention_mask: object,
        cross_attention_kwargs: Mapping[str, Any] | None,
    ) -> None:
        if sample.ndim != 4 or sample.shape[1] != self.config.in_channels:
            raise InputError(
                f"sample must be [batch, {self.config.in_channels}, height, width], got {list(sample.shape)}"
            )
        batch = text.batch if isinstance(text, ProjectedText) else len(text)
        if batch != len(sample):
            raise InputError(f"encoder_hidden_states must be for {len(sample)} items, as sample is, got {batch}")
        if attention_mask is not None:
            raise UnusedInput("attention_mask is not taken; give encoder_attention_mask to leave out tokens")
        if cross_attention_kwargs:
            raise UnusedInput(f"cross_attention_kwargs are not taken, got {sorted(cross_attention_kwargs)}")


def _itself(x: Tensor) -> Tensor:
    return x


def _sums(skips: list[Tensor], residuals: Sequence[Tensor]) -> list[Tensor]:
    return [steered(skip, residual) for skip, residual in zip(skips, residuals, strict=True)]
