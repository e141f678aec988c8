"""The convolutional denoiser of the DDPM and score-SDE repositories."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from calotype.errors import InputError, MissingInput, UnusedInput
from calotype.models.unet_2d.blocks import DownBlock2D, MidBlock2D, UpBlock2D
from calotype.models.unet_2d.config import UNet2DConfig
from calotype.models.unet_2d.skip_blocks import SkipDownBlock2D, SkipUpBlock2D
from calotype.nn.activations import ACTIVATIONS
from calotype.nn.keys import OLDER_ATTENTION
from calotype.nn.network import Network
from calotype.nn.time import GaussianFourierTime, SinusoidalTime, TimestepEmbedding


class UNet2DOutput(NamedTuple):
    """What a `UNet2DModel` predicts: the noise, or whatever it was trained to."""

    sample: Float[Tensor, "b c h w"]


class UNet2DModel(Network):
    """The U-Net of "Denoising Diffusion Probabilistic Models" and, with `Skip` blocks, the NCSN++ of "Score-Based
    Generative Modeling through Stochastic Differential Equations". Keywords: the fields of `UNet2DConfig`."""

    Config = UNet2DConfig
    config: UNet2DConfig
    renames = OLDER_ATTENTION

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        config = self.config
        widths = config.block_out_channels
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_proj, wave_channels = _time_waves(config)
        self.time_embedding = TimestepEmbedding(wave_channels, config.time_channels)
        self.class_embedding = _class_embedding(config, wave_channels)
        self.act = ACTIVATIONS[config.act_fn]
        self.carries_image = "Skip" in config.down_block_types[0]
        down, up = (SkipDownBlock2D, SkipUpBlock2D) if self.carries_image else (DownBlock2D, UpBlock2D)

        last = len(widths) - 1
        self.down_blocks = nn.ModuleList(
            down(config, kind, widths[max(level - 1, 0)], widths[level], last=level == last)
            for level, kind in enumerate(config.down_block_types)
        )
        self.mid_block = MidBlock2D(config, widths[-1]) if config.mid_block_type else None
        self.up_blocks = nn.ModuleList(
            up(config, kind, widths[min(level + 1, last)], widths[level], widths[max(level - 1, 0)], last=level == 0)
            for level, kind in zip(range(last, -1, -1), config.up_block_types, strict=True)
        )
        groups = config.norm_num_groups or min(widths[0] // 4, 32)
        self.conv_norm_out = nn.GroupNorm(groups, widths[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(
        self,
        sample: Float[Tensor, "b c h w"],
        timestep: Shaped[Tensor, "*batch"] | float | int,
        class_labels: Shaped[Tensor, "labels ..."] | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """Predict what was added to `sample`.

        Args:
            sample: noisy pictures; height and width divisible by 2 for each level but the first.
            timestep: a number for all items or a tensor of one, or a number for each item.
            class_labels: `[b]` integers or, with `class_embed_type="identity"`, `[b, time channels]` vectors. Required
                by a network with classes, and refused by one without.
            return_dict: `False` for a plain tuple.

        Raises:
            InputError: a shape does not fit, or class labels are missing or have no meaning.
        """
        self._check_sample(sample)
        times = self._times(timestep, sample)
        temb = self.act(self._time_vector(times, class_labels, sample))
        image: Tensor | None = None
        if self.config.center_input_sample:
            sample = 2 * sample - 1
        x = self.conv_in(sample)
        skips = [x]
        if self.carries_image:
            x, image = self._down_and_up_with_image(x, temb, skips, sample)
        else:
            for block in self.down_blocks:
                x, more = block(x, temb)
                skips += more
            if self.mid_block is not None:
                x = self.mid_block(x, temb)
            for block in self.up_blocks:
                x = block(x, temb, skips)
        x = self.conv_out(functional.silu(self.conv_norm_out(x)))
        if image is not None:
            x = x + image
        if self.config.time_embedding_type == "fourier":
            x = x / times.view(-1, 1, 1, 1)
        return UNet2DOutput(x) if return_dict else (x,)

    def _down_and_up_with_image(
        self, x: Tensor, temb: Tensor, skips: list[Tensor], sample: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        for block in self.down_blocks:
            x, more, sample = block(x, temb, sample)
            skips += more
        if self.mid_block is not None:
            x = self.mid_block(x, temb)
        image: Tensor | None = None
        for block in self.up_blocks:
            x, image = block(x, temb, skips, image)
        return x, image

    def _time_vector(self, times: Tensor, labels: Tensor | None, sample: Tensor) -> Tensor:
        vector: Tensor = self.time_embedding(self.time_proj(times).to(sample.dtype))
        if self.class_embedding is None:
            if labels is not None:
                raise UnusedInput("class_labels were given, but this UNet2DModel has no classes (num_class_embeds)")
            return vector
        if labels is None:
            raise MissingInput("this UNet2DModel has classes: give class_labels, one for each item")
        if labels.shape[:1] != sample.shape[:1]:
            raise InputError(f"class_labels must be one for each of {len(sample)} items, got {list(labels.shape)}")
        if self.config.class_embed_type == "timestep":
            labels = self.time_proj(labels).to(sample.dtype)
        both: Tensor = vector + self.class_embedding(labels)
        return both

    def _times(self, timestep: Tensor | float | int, sample: Tensor) -> Tensor:
        """`timestep` as one number, or one for each item: `[1]` or `[b]`."""
        learned = self.config.time_embedding_type == "learned"
        if not isinstance(timestep, Tensor):
            self._check_number(timestep)
            return torch.tensor([timestep], dtype=torch.int64 if learned else torch.float32, device=sample.device)
        if learned and timestep.is_floating_point():
            raise InputError(f"a learned time embedding takes integer timesteps, got {timestep.dtype}")
        if timestep.ndim == 0:
            timestep = timestep.view(1)
        if timestep.ndim != 1 or len(timestep) not in (1, len(sample)):
            raise InputError(
                f"timestep must be one number or one for each of {len(sample)} items, got {list(timestep.shape)}"
            )
        return timestep if timestep.device == sample.device else timestep.to(sample.device)

    def _check_number(self, timestep: float | int) -> None:
        kind = self.config.time_embedding_type
        if kind == "fourier" and timestep <= 0:
            raise InputError(
                f"a fourier time embedding takes the logarithm of the time: must be positive, got {timestep}"
            )
        count = self.config.num_train_timesteps or 0
        if kind == "learned" and not (isinstance(timestep, int) and 0 <= timestep < count):
            raise InputError(f"timestep must be an integer from 0 to {count - 1}, got {timestep}")

    def _check_sample(self, sample: Tensor) -> None:
        config = self.config
        if sample.ndim != 4 or sample.shape[1] != config.in_channels:
            raise InputError(f"sample must be [batch, {config.in_channels}, height, width], got {list(sample.shape)}")
        factor = 1 << (len(config.block_out_channels) - 1)
        height, width = sample.shape[2:]
        if height % factor or width % factor or not height or not width:
            near = [max(round(side / factor), 1) * factor for side in (height, width)]
            raise InputError(
                f"height and width must be multiples of {factor}, got {height}x{width}; nearest is {near[0]}x{near[1]}"
            )


def _time_waves(config: UNet2DConfig) -> tuple[nn.Module, int]:
    """What turns a time into a vector, and the width of that."""
    width = config.block_out_channels[0]
    if config.time_embedding_type == "fourier":
        return GaussianFourierTime(width), 2 * width
    if config.time_embedding_type == "learned":
        assert config.num_train_timesteps is not None
        return nn.Embedding(config.num_train_timesteps, width), width
    return SinusoidalTime(width, cos_first=config.flip_sin_to_cos, freq_shift=config.freq_shift), width


def _class_embedding(config: UNet2DConfig, wave_channels: int) -> nn.Module | None:
    if config.num_class_embeds is not None:
        return nn.Embedding(config.num_class_embeds, config.time_channels)
    if config.class_embed_type == "timestep":
        return TimestepEmbedding(wave_channels, config.time_channels)
    return nn.Identity() if config.class_embed_type == "identity" else None
