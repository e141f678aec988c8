"""The network that steers a text-conditioned denoiser by a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.functional import silu

from calotype.errors import ConfigError, InputError, UnusedInput
from calotype.models.controlnet.config import ControlNetConfig
from calotype.nn.activations import ACTIVATIONS
from calotype.nn.conditions import added_vector, times
from calotype.nn.network import Network
from calotype.nn.time import SinusoidalTime, TimestepEmbedding
from calotype.nn.transformer import Text
from calotype.nn.unet_blocks import BlockSettings, LevelAttention, TextDownBlock, TextMidBlock

_DISCARDED = -10000.0
_ONLY = {"center_input_sample": False, "conv_in_kernel": 3, "time_embedding_dim": None, "time_cond_proj_dim": None}


class ControlNetOutput(NamedTuple):
    """What a `ControlNetModel` adds to the network that it steers: one map for each on the way down, and one for the
    middle; with `global_pool_conditions` maps of one pixel, which broadcast."""

    down_block_res_samples: tuple[Tensor, ...]
    mid_block_res_sample: Float[Tensor, "b c h w"]


@dataclass(frozen=True)
class EmbeddedCondition:
    """A picture as the network's first map takes it in: `ControlNetModel.embed_condition` makes one.

    The picture does not change from step to step, so neither does this. It is valid for the network that made it.
    """

    hint: Float[Tensor, "b c h w"]


class ConditionEmbedding(nn.Module):
    """Convolutions that shrink a picture to the size of latents; the last starts at zero.

    Args:
        widths: of the layers; each after the first halves the picture.
    """

    def __init__(self, in_channels: int, out_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        layers: list[nn.Conv2d] = []
        for width, wider in pairwise(widths):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, wider, 3, padding=1, stride=2)]
        self.blocks = nn.ModuleList(layers)
        self.conv_out = _zeroed(nn.Conv2d(widths[-1], out_channels, 3, padding=1))

    def forward(self, picture: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        h = silu(self.conv_in(picture))
        for layer in self.blocks:
            h = silu(layer(h))
        out: Tensor = self.conv_out(h)
        return out


class ControlNetModel(Network):
    """A copy of a denoiser's way down and middle that sees a picture beside the latents, and whose maps are added to
    the denoiser's own. Source: Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models", 2023.
    Keywords: the fields of `ControlNetConfig`."""

    Config = ControlNetConfig
    config: ControlNetConfig

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        config = self.config
        widths, waves = config.block_out_channels, config.block_out_channels[0]
        self.conv_in = nn.Conv2d(config.in_channels, waves, 3, padding=1)
        self.time_proj = SinusoidalTime(waves, cos_first=config.flip_sin_to_cos, freq_shift=config.freq_shift)
        self.time_embedding = TimestepEmbedding(waves, config.time_channels, act=config.act_fn)
        self.add_time_proj: SinusoidalTime | None = None
        self.add_embedding: TimestepEmbedding | None = None
        if config.addition_embed_type is not None:
            assert config.addition_time_embed_dim is not None
            assert config.projection_class_embeddings_input_dim is not None
            self.add_time_proj = SinusoidalTime(
                config.addition_time_embed_dim, cos_first=config.flip_sin_to_cos, freq_shift=config.freq_shift
            )
            self.add_embedding = TimestepEmbedding(config.projection_class_embeddings_input_dim, config.time_channels)
        self.act = ACTIVATIONS[config.act_fn]
        self.controlnet_cond_embedding = ConditionEmbedding(
            config.conditioning_channels, waves, config.conditioning_embedding_out_channels
        )
        self.down_blocks, self.mid_block = _blocks(config)
        maps = [waves]
        for level, width in enumerate(widths):
            maps += [width] * (config.layers_per_block + (level < config.levels - 1))
        self.controlnet_down_blocks = nn.ModuleList(_zeroed(nn.Conv2d(width, width, 1)) for width in maps)
        self.controlnet_mid_block = _zeroed(nn.Conv2d(widths[-1], widths[-1], 1))

    @classmethod
    def from_unet(cls, unet: Network, **fields: Any) -> "ControlNetModel":
        """A new one for training: as large as the denoiser, with its weights, and without any effect yet.

        `fields` are those that the denoiser does not have, such as `conditioning_channels`.

        Raises:
            ConfigError: the denoiser has a setting that no `ControlNetModel` has.
        """
        known = {name: unet.config[name] for name in cls.Config.model_fields if name in unet.config}
        for name, only in _ONLY.items():
            if unet.config.get(name, only) != only:
                raise ConfigError(f"no {cls.__name__} is like this network: its {name!r} is {unet.config[name]!r}")
        network = cls(**{**known, **fields}).to(unet.device, unet.dtype)
        own, theirs = network.state_dict(), unet.state_dict()
        network.load_state_dict({name: theirs.get(name, tensor) for name, tensor in own.items()})
        return network

    def forward(
        self,
        sample: Float[Tensor, "b c h w"],
        timestep: Shaped[Tensor, "*batch"] | float | int,
        encoder_hidden_states: Float[Tensor, "texts tokens width"],
        controlnet_cond: Float[Tensor, "pictures c2 h2 w2"] | EmbeddedCondition,
        conditioning_scale: float | Float[Tensor, " b"] = 1.0,
        class_labels: None = None,
        timestep_cond: None = None,
        attention_mask: None = None,
        added_cond_kwargs: Mapping[str, Tensor] | None = None,
        cross_attention_kwargs: Mapping[str, Any] | None = None,
        guess_mode: bool = False,
        return_dict: bool = True,
        *,
        encoder_attention_mask: Shaped[Tensor, "texts tokens"] | None = None,
    ) -> ControlNetOutput | tuple[tuple[Tensor, ...], Tensor]:
        """What to add to the denoiser's maps for `sample`.

        Args:
            sample: noisy latents, as the denoiser is given them.
            timestep: a number for all items or a tensor of one, or a number for each item.
            encoder_hidden_states: the text's hidden states.
            controlnet_cond: the pictures, in [0, 1], `config.downscale` times as large as `sample`; or what
                `embed_condition` made of them.
            conditioning_scale: what the maps are multiplied by: a number, or one for each item.
            class_labels, timestep_cond, attention_mask, cross_attention_kwargs: not taken; there to keep the places of
                the arguments.
            added_cond_kwargs: the pooled `text_embeds` and `time_ids`, for a network with `addition_embed_type`.
            guess_mode: scale the larger maps down, by 0.1 for the first, so that the picture decides without a prompt.
            return_dict: `False` for a plain tuple.
            encoder_attention_mask: 1 for tokens that count, 0 for others.

        Raises:
            InputError: a shape does not fit, or a condition is missing or has no meaning for this network.
        """
        refused = {
            "class_labels": class_labels, "timestep_cond": timestep_cond, "attention_mask": attention_mask,
            "cross_attention_kwargs": cross_attention_kwargs or None,
        }  # fmt: skip
        self._check(sample, encoder_hidden_states, refused)
        condition = controlnet_cond
        if not isinstance(condition, EmbeddedCondition):
            condition = self.embed_condition(condition)
        waves = self.time_proj(times(timestep, sample)).to(sample.dtype)
        temb: Tensor = self.time_embedding(waves)
        added = added_vector(type(self).__name__, self.add_time_proj, self.add_embedding, added_cond_kwargs, sample)
        temb = self.act(temb if added is None else temb + added)
        bias = None
        if encoder_attention_mask is not None:
            bias = ((1 - encoder_attention_mask.to(sample.dtype)) * _DISCARDED)[:, None, None]
        maps = self._maps(sample, temb, Text(encoder_hidden_states, bias), condition.hint)
        output = self._scaled(maps, conditioning_scale, guess_mode)
        return output if return_dict else (output.down_block_res_samples, output.mid_block_res_sample)

    def embed_condition(self, picture: Float[Tensor, "b c h w"]) -> EmbeddedCondition:
        """Pictures in [0, 1] as the first map takes them in, to give in their place to any number of steps."""
        if picture.ndim != 4 or picture.shape[1] != self.config.conditioning_channels:
            raise InputError(
                f"controlnet_cond must be [batch, {self.config.conditioning_channels}, height, width], got "
                f"{list(picture.shape)}"
            )
        if self.config.controlnet_conditioning_channel_order == "bgr":
            picture = picture.flip(1)
        return EmbeddedCondition(self.controlnet_cond_embedding(picture))

    def _maps(self, sample: Tensor, temb: Tensor, text: Text, hint: Tensor) -> list[Tensor]:
        """What leaves each zero convolution, the middle's last."""
        x = self.conv_in(sample)
        if hint.shape[1:] != x.shape[1:] or len(hint) not in (1, len(x)):
            raise InputError(
                f"controlnet_cond must be {self.config.downscale} times as large as sample, one for each item, but "
                f"makes a map {list(hint.shape)} for one of {list(x.shape)}"
            )
        x = x + hint
        skips = [x]
        for block in self.down_blocks:
            x, more = block(x, temb, text)
            skips += more
        maps = [layer(skip) for layer, skip in zip(self.controlnet_down_blocks, skips, strict=True)]
        return [*maps, self.controlnet_mid_block(self.mid_block(x, temb, text))]

    def _scaled(self, maps: Sequence[Tensor], scale: float | Tensor, guess_mode: bool) -> ControlNetOutput:
        if isinstance(scale, Tensor):
            scale = scale.to(maps[0]).view(-1, 1, 1, 1)
        scales: Sequence[float | Tensor] = [scale] * len(maps)
        if self.config.global_pool_conditions:
            maps = [m.mean(dim=(2, 3), keepdim=True) for m in maps]
        elif guess_mode:
            scales = [rising * scale for rising in torch.logspace(-1, 0, len(maps)).tolist()]
        if not (isinstance(scale, float | int) and scale == 1 and not guess_mode):
            maps = [m * one for m, one in zip(maps, scales, strict=True)]
        return ControlNetOutput(tuple(maps[:-1]), maps[-1])

    def _check(self, sample: Tensor, text: Tensor, refused: Mapping[str, object]) -> None:
        if sample.ndim != 4 or sample.shape[1] != self.config.in_channels:
            raise InputError(
                f"sample must be [batch, {self.config.in_channels}, height, width], got {list(sample.shape)}"
            )
        if text.ndim != 3 or text.shape[-1] != self.config.cross_attention_dim or len(text) != len(sample):
            raise InputError(
                f"encoder_hidden_states must be [{len(sample)}, tokens, {self.config.cross_attention_dim}], got "
                f"{list(text.shape)}"
            )
        for name, value in refused.items():
            if value is not None:
                raise UnusedInput(f"{name} is not taken by a {type(self).__name__}")


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """A layer that adds nothing until it is trained."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _blocks(config: ControlNetConfig) -> tuple[nn.ModuleList, TextMidBlock]:
    """The way down and the middle."""
    settings = BlockSettings(
        config.time_channels,
        norm_groups=config.norm_num_groups,
        eps=config.norm_eps,
        act=config.act_fn,
        time_scale_shift=config.resnet_time_scale_shift == "scale_shift",
        linear_projection=config.use_linear_projection,
        downsample_padding=config.downsample_padding,
    )
    widths, last, count = config.block_out_channels, config.levels - 1, config.layers_per_block
    heads, only = config.per_level(config.attention_head_dim), config.per_level(config.only_cross_attention)
    depths, text = config.per_level(config.transformer_layers_per_block), config.cross_attention_dim
    down = nn.ModuleList(
        TextDownBlock(
            settings,
            widths[max(level - 1, 0)],
            widths[level],
            count=count,
            attention=LevelAttention(heads[level], text, (depths[level],) * count, only[level])
            if config.attends(level)
            else None,
            last=level == last,
        )
        for level in range(config.levels)
    )
    middle = None
    if config.mid_block_type == "UNetMidBlock2DCrossAttn":
        middle = LevelAttention(heads[last], text, depths[-1:])
    return down, TextMidBlock(settings, widths[-1], attention=middle, output_scale=config.mid_block_scale_factor)
