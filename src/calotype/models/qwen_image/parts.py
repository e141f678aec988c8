"""What the transformer and its ControlNet share: all but what they make of their blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

from calotype.errors import InputError, MissingInput, UnusedInput
from calotype.models.qwen_image.config import DoubleStreamConfig
from calotype.models.qwen_image.positions import picture_positions, text_positions
from calotype.nn.attention_backends import attention_backend, is_better_without_mask
from calotype.nn.double_stream import BlockTime, DoubleStreamBlock, Joint
from calotype.nn.network import Network
from calotype.nn.normalization import RMSNorm
from calotype.nn.rope import rope_table, turns_of
from calotype.nn.streams import Condition, Grid, Layout, Residual, Words, visible
from calotype.nn.time import SinusoidalTime, TimestepEmbedding


@dataclass(frozen=True)
class Prepared:
    """All that a forward pass needs and that stays the same from step to step. Made by `prepare`.

    Attributes:
        text: the projected tokens of all texts, `[b * tokens, c]`.
        pictures: the projected tokens of the pictures beside the drawn one, `[b, tokens, c]`, or None.
        layout: what is where among the tokens.
        rope: cosine and sine of every token's turns, the pictures' first, `[all tokens, half, 2]`.
        mask: which token sees which, the pictures' first, or None.
        runs: where padding is all that nobody sees, how many items in a row have how many tokens without it.
        residuals: what is added to the image after the blocks.
    """

    text: Tensor
    pictures: Tensor | None
    layout: Layout
    rope: Tensor
    mask: Tensor | None
    runs: tuple[tuple[int, int], ...] = ()
    residuals: tuple[Residual, ...] = ()

    @property
    def batch(self) -> int:
        """How many items there are."""
        return len(self.text) // self.layout.text_length

    def joint(self, attention: str, *, several_times: bool, compiled: bool = False) -> Joint:
        """The same as the blocks take it: with the pictures beside the drawn one apart where they have another time,
        and for blocks that are compiled without complex numbers."""
        grids = self.layout.grids
        first = prod(grids[0])
        rest = self.layout.image_length - first
        spans = (first, rest) if several_times and rest else (first + rest,)
        turns = turns_of(torch.cat((self.rope, self.rope)), real=compiled)
        runs = self.runs if is_better_without_mask(attention, self.rope.device) else ()
        attend = attention_backend(attention)
        return Joint(self.batch, self.layout.text_length, spans, turns, self.mask, attend, runs)


@dataclass(frozen=True)
class Modulation:
    """What a time does to a network. Made by `modulate`.

    Attributes:
        active: the activated vectors of the drawn picture's time and, where it is another one, of the pictures' beside
            it: `[1, c]` for all items, or `[b, c]`.
        blocks: what they do to every block, where it was made ahead.
    """

    active: tuple[Tensor, ...]
    blocks: tuple[BlockTime, ...] | None = None

    def of_block(self, index: int, several_times: bool) -> BlockTime | tuple[Tensor, ...]:
        """What the block of that index takes; with one time only where there are no pictures beside the drawn one."""
        if self.blocks is None:
            return self.active if several_times else self.active[:1]
        time = self.blocks[index]
        return time if several_times or len(time.image) == 1 else time._replace(image=time.image[:1])


class TimeText(nn.Module):
    """The time as a vector, to which layered networks add one for what is drawn: a whole picture or layers."""

    addition_t_embedding: nn.Embedding | None

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.time_proj = SinusoidalTime(256)
        self.timestep_embedder = TimestepEmbedding(256, channels)
        self.addition_t_embedding = None

    def forward(
        self, timestep: Float[Tensor, " #m"], additional: Int[Tensor, " #m"] | None, dtype: torch.dtype
    ) -> Float[Tensor, "m c"]:
        """`timestep` is sigma: 0 for data, 1 for noise."""
        angles = timestep.to(dtype).float()[:, None] * self.time_proj.frequencies * 1000
        waves = torch.cat((angles.cos(), angles.sin()), dim=-1)
        vector: Tensor = self.timestep_embedder(waves.to(dtype))
        if self.addition_t_embedding is None:
            if additional is not None:
                raise UnusedInput("additional_t_cond was given, but this network takes none (use_additional_t_cond)")
            return vector
        if additional is None:
            raise MissingInput("this network needs additional_t_cond: 0 for a whole picture, 1 for layers")
        more: Tensor = self.addition_t_embedding(additional)
        return vector + more.to(dtype)


class DoubleStreamNetwork(Network):
    """What the transformer and its ControlNet are alike in: their layers up to the blocks, and what stays the same in
    them from step to step."""

    config: DoubleStreamConfig
    repeated_blocks = (DoubleStreamBlock,)

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        config, width = self.config, self.config.width
        self.time_text_embed = TimeText(width)
        self.txt_norm = RMSNorm(config.joint_attention_dim, eps=1e-6)
        self.img_in = nn.Linear(config.in_channels, width)
        self.txt_in = nn.Linear(config.joint_attention_dim, width)
        self.transformer_blocks = nn.ModuleList(
            DoubleStreamBlock(width, config.num_attention_heads) for _ in range(config.num_layers)
        )

    def prepare(
        self,
        encoder_hidden_states: Float[Tensor, "b t d"],
        grids: Sequence[Grid],
        encoder_hidden_states_mask: Shaped[Tensor, "#b _"] | None = None,
        *,
        conditions: Sequence[Condition] = (),
        interpolate_rope: bool = False,
    ) -> Prepared:
        """What stays the same from step to step: projected texts and pictures, positions, who sees whom.

        Args:
            encoder_hidden_states: hidden states of the prompt.
            grids: frames, rows and columns of the tokens of every picture that is drawn: one, or one for each layer.
            encoder_hidden_states_mask: which of the hidden states are words.
            conditions: what there is beside the prompt (`calotype.nn.streams`).
            interpolate_rope: pictures of another size than the first cover the same ground.

        Raises:
            InputError: a shape does not fit.
        """
        prompt = Words(encoder_hidden_states, encoder_hidden_states_mask)
        texts = [text for condition in conditions for text in condition.texts] + [prompt]
        beside = [picture for condition in conditions for picture in condition.pictures]
        for text in texts:
            self._check_width("encoder_hidden_states", text.states, "joint_attention_dim")
        for picture in beside:
            self._check_width("tokens of a picture", picture.tokens, "in_channels")
        layout = Layout(tuple(text.states.shape[1] for text in texts), (*grids, *(picture.grid for picture in beside)))
        device, batch = encoder_hidden_states.device, len(encoder_hidden_states)
        weight, layered = self.img_in.weight, self._is_layered
        words = torch.cat([text.states.expand(batch, -1, -1) for text in texts], dim=1)
        tokens = torch.cat([p.tokens.expand(batch, -1, -1) for p in beside], dim=1).to(weight) if beside else None
        mask = visible(layout, conditions, [_needed(text.mask) for text in texts], batch, device)
        mask = None if mask is None else mask.roll((-layout.text_length,) * 2, dims=(2, 3))  # a row of one stays it
        of_texts = text_positions(layout.texts, layout.grids, layered=layered)
        of_pictures = picture_positions(layout.grids, layered=layered, interpolated=interpolate_rope)
        return Prepared(
            text=self.txt_in(self.txt_norm(words.to(weight.dtype).flatten(0, 1))),
            pictures=None if tokens is None else self.img_in(tokens),
            layout=layout,
            rope=rope_table(torch.cat((of_pictures, of_texts)).to(device), self.config.axes_dims_rope),
            mask=mask,
            runs=_runs_of(mask, batch),
            residuals=tuple(condition.residual for condition in conditions if condition.residual is not None),
        )

    def modulate(
        self,
        timestep: Shaped[Tensor, "..."] | float,
        additional_t_cond: Int[Tensor, " m"] | None = None,
        *,
        batch: int = 1,
    ) -> Modulation:
        """What a time, sigma from 0 to 1, does to the network: one number, or one for each of `batch` items."""
        weight = self.img_in.weight
        time = _one_time(timestep, batch, weight.device)
        times = (time, torch.zeros_like(time)) if self._has_zero_time else (time,)
        embed = self.time_text_embed
        return Modulation(tuple(functional.silu(embed(each, additional_t_cond, weight.dtype)) for each in times))

    def _check_width(self, name: str, rows: Tensor, field: str) -> None:
        """Raise `InputError` for rows of another width than a field of the config says."""
        wanted = getattr(self.config, field)
        if rows.shape[-1] != wanted:
            raise InputError(
                f"{name} of this {type(self).__name__} must be {wanted} wide ({field}), got {rows.shape[-1]}"
            )

    def _check_tokens(self, tokens: Float[Tensor, "b n c"], ready: Prepared, beside: int) -> None:
        """Raise `InputError` for tokens that are not, with so many beside them, those of the prepared grids."""
        wanted = (ready.batch, ready.layout.image_length - beside, self.config.in_channels)
        if tokens.shape != wanted:
            raise InputError(f"tokens must be {list(wanted)} as prepared, got {list(tokens.shape)}")

    @property
    def _is_layered(self) -> bool:
        """Whether the last picture lies before all others."""
        return False

    @property
    def _has_zero_time(self) -> bool:
        """Whether pictures beside the drawn one have the time zero."""
        return False


def _runs_of(mask: Bool[Tensor, "#b 1 #all all"] | None, batch: int) -> tuple[tuple[int, int], ...]:
    """How many items in a row have how many tokens, where what nobody sees is the last ones of each; otherwise none."""
    if mask is None or mask.shape[2] > 1:
        return ()
    seen = mask[:, 0, 0].expand(batch, -1)
    lengths = seen.sum(dim=1)
    if not torch.equal(seen, torch.arange(seen.shape[1], device=seen.device) < lengths[:, None]):
        return ()
    return tuple((len(list(run)), length) for length, run in groupby(lengths.tolist()))


def _needed(mask: Shaped[Tensor, "#b t"] | None) -> Tensor | None:
    """The mask of a text, or None where it leaves nothing out."""
    return None if mask is None or bool(mask.bool().all()) else mask


def _one_time(timestep: Shaped[Tensor, "..."] | float, batch: int, device: torch.device) -> Shaped[Tensor, " m"]:
    """The time as one number for all items where that is what was given, otherwise one for each: `[1]` or `[b]`."""
    if not isinstance(timestep, Tensor):
        return torch.tensor([timestep], dtype=torch.float32, device=device)
    if timestep.ndim == 0:
        return timestep.view(1).to(device)
    if timestep.ndim != 1 or len(timestep) not in (1, batch):
        raise InputError(f"timestep must be one number or one for each of {batch} items, got {list(timestep.shape)}")
    return timestep[:1].to(device) if timestep.stride(0) == 0 else timestep.to(device)
