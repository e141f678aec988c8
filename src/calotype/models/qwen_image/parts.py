"""What the transformer and its ControlNet share: the time, the text, and what stays the same from step to step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional

from calotype.errors import InputError, MissingInput, UnusedInput
from calotype.models.qwen_image.positions import picture_positions, text_positions
from calotype.nn.attention_backends import attention_backend
from calotype.nn.double_stream import BlockTime, Joint
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
        rope: cosine and sine of every token's turns, `[all tokens, half, 2]`.
        mask: which token sees which, or None.
        residuals: what is added to the image after the blocks.
    """

    text: Tensor
    pictures: Tensor | None
    layout: Layout
    rope: Tensor
    mask: Tensor | None
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
        return Joint(self.batch, self.layout.text_length, spans, turns, self.mask, attention_backend(attention))


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

    def __init__(self, channels: int, *, additional: bool = False) -> None:
        super().__init__()
        self.time_proj = SinusoidalTime(256)
        self.timestep_embedder = TimestepEmbedding(256, channels)
        self.addition_t_embedding = nn.Embedding(2, channels) if additional else None

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


def prepared(
    tokens_of: nn.Linear,
    words_of: Callable[[Tensor], Tensor],
    prompt: Words,
    grids: Sequence[Grid],
    conditions: Sequence[Condition],
    axes: Sequence[int],
    *,
    layered: bool = False,
    interpolated: bool = False,
) -> Prepared:
    """Everything that stays the same from step to step, from the projections of a network's tokens and words."""
    texts = [text for condition in conditions for text in condition.texts] + [prompt]
    beside = [picture for condition in conditions for picture in condition.pictures]
    layout = Layout(tuple(text.states.shape[1] for text in texts), (*grids, *(picture.grid for picture in beside)))
    device, batch = prompt.states.device, len(prompt.states)
    weight = tokens_of.weight
    words = torch.cat([text.states.expand(batch, -1, -1) for text in texts], dim=1)
    tokens = torch.cat([p.tokens.expand(batch, -1, -1) for p in beside], dim=1).to(weight) if beside else None
    positions = torch.cat(
        (
            text_positions(layout.texts, layout.grids, layered=layered),
            picture_positions(layout.grids, layered=layered, interpolated=interpolated),
        )
    )
    return Prepared(
        text=words_of(words.to(weight.dtype).flatten(0, 1)),
        pictures=None if tokens is None else tokens_of(tokens),
        layout=layout,
        rope=rope_table(positions.to(device), axes),
        mask=visible(layout, conditions, [_needed(text.mask) for text in texts], batch, device),
        residuals=tuple(condition.residual for condition in conditions if condition.residual is not None),
    )


def _needed(mask: Shaped[Tensor, "#b t"] | None) -> Tensor | None:
    """The mask of a text, or None where it leaves nothing out."""
    return None if mask is None or bool(mask.bool().all()) else mask


def one_time(timestep: Shaped[Tensor, "..."] | float, batch: int, device: torch.device) -> Shaped[Tensor, " m"]:
    """The time as one number for all items where that is what was given, otherwise one for each: `[1]` or `[b]`."""
    if not isinstance(timestep, Tensor):
        return torch.tensor([timestep], dtype=torch.float32, device=device)
    if timestep.ndim == 0:
        return timestep.view(1).to(device)
    if timestep.ndim != 1 or len(timestep) not in (1, batch):
        raise InputError(f"timestep must be one number or one for each of {batch} items, got {list(timestep.shape)}")
    return timestep[:1].to(device) if timestep.stride(0) == 0 else timestep.to(device)


def activated_times(
    embed: TimeText, timestep: Tensor, additional: Tensor | None, dtype: torch.dtype, *, with_zero: bool
) -> tuple[Tensor, ...]:
    """The activated vectors of a time and, `with_zero`, of the time zero."""
    times = (timestep, torch.zeros_like(timestep)) if with_zero else (timestep,)
    return tuple(functional.silu(embed(time, additional, dtype)) for time in times)
