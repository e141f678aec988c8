"""The double-stream transformer of Qwen-Image: text and image tokens to the velocity of the image."""

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import NamedTuple, TypeAlias, cast

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from calotype.errors import ComponentError
from calotype.models.qwen_image.config import QwenImageTransformer2DConfig
from calotype.models.qwen_image.parts import DoubleStreamNetwork, Modulation, Prepared
from calotype.models.qwen_image.shapes import shared_grids
from calotype.nn.double_stream import DoubleStreamBlock, Joint, JointAttention, times_ahead
from calotype.nn.network import is_compiled
from calotype.nn.perturbation import Perturbation
from calotype.nn.reuse import BlockCache, in_turn, residual_pass
from calotype.nn.streams import Condition, Grid, Residual, block_samples

_EPS = 1e-6

Layer: TypeAlias = Callable[[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]
"""A block, as a function of the rows of image and text."""


class QwenImageTransformer2DOutput(NamedTuple):
    """What a forward pass gives: the velocity (noise - data) of every token."""

    sample: Float[Tensor, "b n c"]


class AdaptiveNorm(nn.Module):
    """The last normalisation, scaled and shifted by the time."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 2 * channels)

    def forward(self, x: Float[Tensor, "b n c"], active: Float[Tensor, "m c"]) -> Float[Tensor, "b n c"]:
        """`active` is the time's activated vector, one for all items or one for each."""
        scale, shift = self.linear(active).unsqueeze(1).chunk(2, dim=-1)
        return torch.addcmul(shift, functional.layer_norm(x, x.shape[-1:], eps=_EPS), 1 + scale)


class QwenImageTransformer2DModel(DoubleStreamNetwork):
    """The transformer of "Qwen-Image Technical Report" (2025), figure 6. Keywords: the fields of
    `QwenImageTransformer2DConfig`.

    A call does everything anew. A loop does what stays the same from step to step once, with `prepare`, what the
    times do to the blocks with `modulate`, and then calls `predict`.
    """

    Config = QwenImageTransformer2DConfig
    config: QwenImageTransformer2DConfig

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        config, width = self.config, self.config.width
        self.gradient_checkpointing = False
        """Whether blocks are computed again on the way back instead of what they computed being kept."""
        if config.use_additional_t_cond:
            self.time_text_embed.addition_t_embedding = nn.Embedding(2, width)
        self.norm_out = AdaptiveNorm(width)
        self.proj_out = nn.Linear(width, config.patch_size**2 * (config.out_channels or config.in_channels))

    def fuse_qkv_projections(self) -> None:
        """Have queries, keys and values of each stream be one product, which takes fewer calls.

        Their weights move to one piece of memory and keep their names, so that saving, adapters and `.to(...)` are as
        ever, and there is no second copy. Where weights are streamed or an adapter runs beside them, and in compiled
        blocks, they are products of their own. Sums may be rounded otherwise, in the last digit.

        Raises:
            ComponentError: weights are packed, of several types, or not in memory.
        """
        attentions = self._attentions()
        if not all(attention.fuse() for attention in attentions):
            self.unfuse_qkv_projections()
            raise ComponentError(
                f"fuse_qkv_projections: queries, keys and values of this {type(self).__name__} cannot be one product: "
                "their weights are packed (storage=), of several types, or wait in a file (memory=)"
            )

    def unfuse_qkv_projections(self) -> None:
        """Have every product be computed by itself again, from weights that lie apart."""
        for attention in self._attentions():
            attention.unfuse()

    def _attentions(self) -> list[JointAttention]:
        return [cast(DoubleStreamBlock, block).attn for block in self.transformer_blocks]

    def forward(
        self,
        hidden_states: Float[Tensor, "b n c"],
        encoder_hidden_states: Float[Tensor, "b t d"],
        encoder_hidden_states_mask: Shaped[Tensor, "b t"] | None = None,
        timestep: Shaped[Tensor, "..."] | float = 1.0,
        img_shapes: Sequence[Sequence[Grid]] | Sequence[Grid] | None = None,
        controlnet_block_samples: Sequence[Float[Tensor, "b m w"]] | None = None,
        additional_t_cond: Int[Tensor, " b"] | None = None,
        return_dict: bool = True,
    ) -> QwenImageTransformer2DOutput | tuple[Tensor]:
        """The velocity of all image tokens, those of pictures beside the drawn one as well.

        Args:
            hidden_states: tokens of noisy latents, then of pictures beside them.
            encoder_hidden_states: hidden states of the prompt.
            encoder_hidden_states_mask: which of them are words.
            timestep: sigma, 0 for data and 1 for noise, one number or one for each item.
            img_shapes: frames, rows and columns of every picture's tokens, for each item, whose must be the same.
            controlnet_block_samples: what a `QwenImageControlNetModel` gives.
            additional_t_cond: 0 for a whole picture, 1 for layers; for networks with `use_additional_t_cond`.
            return_dict: `False` for a plain tuple.

        Raises:
            InputError: a shape does not fit.
        """
        grids = shared_grids(img_shapes, hidden_states.shape[1])
        conditions: tuple[Condition, ...] = ()
        if controlnet_block_samples is not None:
            conditions = (Condition(residual=block_samples(controlnet_block_samples, self.config.num_layers)),)
        ready = self.prepare(encoder_hidden_states, grids, encoder_hidden_states_mask, conditions=conditions)
        time = self.modulate(timestep, additional_t_cond, batch=len(hidden_states))
        if len(time.active[0]) == 1:
            (time,) = self._of_blocks(time)
        velocity = self.predict(hidden_states, time, ready)
        return QwenImageTransformer2DOutput(velocity) if return_dict else (velocity,)

    @property
    def _is_layered(self) -> bool:
        return self.config.use_layer3d_rope

    @property
    def _has_zero_time(self) -> bool:
        return self.config.zero_cond_t

    def modulate_ahead(
        self, timesteps: Float[Tensor, " steps"], additional_t_cond: Int[Tensor, "1"] | None = None
    ) -> tuple[Modulation, ...]:
        """What every time of a loop does to the network, each block's weights of it read once for all times."""
        return self._of_blocks(self.modulate(timesteps, additional_t_cond, batch=len(timesteps)))

    def _of_blocks(self, whole: Modulation) -> tuple[Modulation, ...]:
        """Each of several times by itself, with what it does to every block."""
        blocks = times_ahead(cast(list[DoubleStreamBlock], list(self.transformer_blocks)), whole.active)
        return tuple(
            Modulation(tuple(vector[step : step + 1] for vector in whole.active), of_step)
            for step, of_step in enumerate(zip(*blocks, strict=True))
        )

    def predict(
        self,
        tokens: Float[Tensor, "b n c"],
        time: Modulation,
        ready: Prepared,
        *,
        residuals: Sequence[Residual] = (),
        perturbation: Perturbation | None = None,
        attention: str = "sdpa",
        cache: BlockCache | None = None,
    ) -> Float[Tensor, "b n c2"]:
        """The velocity of the tokens that are drawn.

        Args:
            tokens: tokens of the noisy latents.
            time: what `modulate` gives for the step.
            ready: what `prepare` gives.
            residuals: what is added after blocks in this step, beside what `ready` holds.
            perturbation: of some blocks, for guidance away from it.
            attention: the kernel's name (`calotype.nn.attention_backends`).
            cache: what may leave out blocks, and takes over what they gave.

        Raises:
            InputError: the tokens are not those of the prepared grids, or the kernel's package is not installed.
        """
        batch, drawn = tokens.shape[:2]
        beside = 0 if ready.pictures is None else ready.pictures.shape[1]
        self._check_tokens(tokens, ready, beside)
        several = len(time.active) > 1 and len(ready.layout.grids) > 1
        joint = ready.joint(attention, several_times=several, compiled=is_compiled(self.transformer_blocks[0]))
        image = self.img_in(tokens)
        if ready.pictures is not None:
            image = torch.cat((image, ready.pictures), dim=1)
        added = (*ready.residuals, *residuals)
        layers = self._layers(time, joint, added, drawn, perturbation)
        streams = (image.flatten(0, 1), ready.text)
        if cache is None:
            rows, _ = in_turn(layers, streams)
        else:
            name, cue = type(self).__name__, partial(self._cue, streams[0], time, joint)
            rows = cache.passed(residual_pass(name, layers, streams, itemgetter(0), cue))
        image = rows.view(batch, -1, self.config.width)[:, :drawn]
        velocity: Tensor = self.proj_out(self.norm_out(image, time.active[0]))
        return velocity

    def _layers(
        self,
        time: Modulation,
        joint: Joint,
        residuals: Sequence[Residual],
        drawn: int,
        perturbation: Perturbation | None,
    ) -> list[Layer]:
        """The blocks that run, with what is added after each."""
        count = len(self.transformer_blocks)
        perturbed = perturbation.among(count, type(self).__name__) if perturbation else frozenset()
        skips = perturbation is not None and perturbation.kind == "skip"
        alone = joint.alone() if perturbed and not skips else joint
        passed = partial(self._passed, time, residuals, drawn, count - 1)
        return [
            partial(passed, alone if index in perturbed else joint, index, block)
            for index, block in enumerate(self.transformer_blocks)
            if not (skips and index in perturbed)
        ]

    def _passed(
        self,
        time: Modulation,
        residuals: Sequence[Residual],
        drawn: int,
        last: int,
        joint: Joint,
        index: int,
        block: nn.Module,
        streams: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        arguments = (*streams, time.of_block(index, len(joint.spans) > 1), joint, index < last)
        again = self.gradient_checkpointing and torch.is_grad_enabled()
        image, text = checkpoint(block, *arguments, use_reentrant=False) if again else block(*arguments)
        if residuals:
            image = _with_residuals(image, residuals, index, joint.batch, drawn)
        return image, text

    def _cue(self, image: Tensor, time: Modulation, joint: Joint) -> Tensor:
        """What enters the first block's attention, as the time modulates it."""
        first = cast(DoubleStreamBlock, self.transformer_blocks[0])
        return first.entering(image, time.of_block(0, len(joint.spans) > 1), joint)


def _with_residuals(image: Tensor, residuals: Sequence[Residual], block: int, batch: int, drawn: int) -> Tensor:
    """The image with everything that is added to it, of which each is told the image that left the block. What another
    network adds, which may have another type, takes the image's."""
    whole = image.view(batch, -1, image.shape[-1])
    made = [add(block, whole[:, :drawn]) for add in residuals]
    for more in (one.to(whole.dtype) for one in made if one is not None):
        if more.shape[1] == whole.shape[1]:
            whole = whole + more
        else:
            whole = torch.cat((whole[:, : more.shape[1]] + more, whole[:, more.shape[1] :]), dim=1)
    return whole.view(image.shape)
