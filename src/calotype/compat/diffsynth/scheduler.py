"""`FlowMatchScheduler`: the dialect's scheduler, a thin face over calotype's own noise levels."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from calotype.compat.diffsynth.scope import current_scope
from calotype.compat.diffsynth.templates import TEMPLATES, TRAINING_STEPS, TemplateSchedule
from calotype.compat.diffsynth.values import finite
from calotype.errors import GraphError, InputError, MissingInput, UnknownInput, UnusedInput, did_you_mean, sentences
from calotype.sampling.parameterization import Flow
from calotype.sampling.schedulers.base import NoiseLevels, Scheduler
from calotype.sampling.solver import Euler
from calotype.sampling.spacing import counted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Set:
    """What `set_timesteps` made."""

    levels: NoiseLevels
    timesteps: Tensor
    sigmas: Tensor
    training: bool


class FlowMatchScheduler(Scheduler):
    """Euler's method on the flow of a family of models: `FlowMatchScheduler("Qwen-Image")`.

    It is one of calotype's schedulers too: `schedule(steps)` and the other pure methods serve any number of calls, and
    a pipeline with units takes it as its scheduler. The dialect's own face is `set_timesteps`, `timesteps`, `sigmas`
    and `step`. What a call of a pipeline sets there is that call's own; what is set outside of calls is kept here, for
    those who use the scheduler by hand.

    Source: Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis".

    Raises:
        UnknownInput: there is no such template.
    """

    noise_schedule: TemplateSchedule

    def __init__(self, template: str = "FLUX.1") -> None:
        if not isinstance(template, str) or template not in TEMPLATES:
            raise UnknownInput(
                sentences(
                    f"FlowMatchScheduler has no template {template!r}{did_you_mean(str(template), TEMPLATES)}",
                    f"The templates are {', '.join(TEMPLATES)}",
                )
            )
        self.template = template
        self.num_train_timesteps = TRAINING_STEPS
        self.noise_schedule = TEMPLATES[template]
        self.parameterization = Flow()
        self.solver = Euler()
        self._by_hand: _Set | None = None

    def __repr__(self) -> str:
        return f"FlowMatchScheduler({self.template!r})"

    # -- what is set -----------------------------------------------------------------------------------------------

    def set_timesteps(
        self,
        num_inference_steps: int = 100,
        denoising_strength: float = 1.0,
        training: bool = False,
        *,
        shift: float | None = None,
        exponential_shift_mu: float | None = None,
        dynamic_shift_len: int | None = None,
        image_resolution: tuple[int, int] | None = None,
        sigmas: Sequence[float] | Tensor | None = None,
    ) -> None:
        """Set the steps of this call's loop.

        Args:
            denoising_strength: in (0, 1]; the first level depends on it alone, never on the number of steps.
            training: these are the levels to train on.
            shift: in place of the template's, where that is one number.
            exponential_shift_mu: the logarithm of the shift, where it depends on the picture.
            dynamic_shift_len: how many tokens the picture that is generated has, where the shift depends on it.
            image_resolution: height and width of the picture that is generated, in place of `dynamic_shift_len`.
            sigmas: the noise levels themselves, descending, in place of the template's; `num_inference_steps` is then
                not read.

        Raises:
            InputError: a value is out of range, or belongs to another kind of template.
        """
        steps = counted(num_inference_steps, "num_inference_steps")
        strength = finite("denoising_strength", denoising_strength)
        if not 0.0 < strength <= 1.0:
            raise InputError(
                f"denoising_strength must be above 0 and at most 1, got {denoising_strength!r}; 1 starts from noise"
            )
        shifts = {
            "shift": shift,
            "exponential_shift_mu": exponential_shift_mu,
            "dynamic_shift_len": dynamic_shift_len,
            "image_resolution": image_resolution,
            "sigmas": sigmas,
        }
        self._refuse_unread([name for name, value in shifts.items() if value is not None])
        scheduler = self if shift is None else self._with_shift(finite("shift", shift))
        levels = scheduler.schedule(
            steps if sigmas is None else None,
            start=strength,
            sigmas=None if sigmas is None else [finite("sigmas", sigma) for sigma in sigmas],
            mu=None if exponential_shift_mu is None else finite("exponential_shift_mu", exponential_shift_mu),
            image_tokens=_tokens(dynamic_shift_len, image_resolution),
        )
        made = _shown(levels, training)
        scope = current_scope()
        if scope is None:
            self._by_hand = made
        else:
            scope.schedules[id(self)] = made

    def with_levels(self, levels: NoiseLevels) -> "FlowMatchScheduler":
        """Another scheduler of the same template, set to these levels."""
        other = _Fixed(self.template)
        other.fixed = _shown(levels, training=False)
        return other

    def _refuse_unread(self, given: Sequence[str]) -> None:
        """Raise `UnusedInput` for what would not be read: a shift of the other kind, or one of several."""
        if len(given) > 1:
            raise UnusedInput(f"{' and '.join(given)} each say what the levels are; give one of them")
        fixed = self.noise_schedule.mu is None
        for name in given:
            if name == "shift" and not fixed:
                raise UnusedInput(
                    f"shift was given, but the shift of {self.template} depends on the picture; give "
                    "exponential_shift_mu, its logarithm, or dynamic_shift_len"
                )
            if name not in ("shift", "sigmas") and fixed:
                raise UnusedInput(
                    f"{name} was given, but the shift of {self.template} is fixed; give shift= to change it"
                )

    def _with_shift(self, shift: float) -> "FlowMatchScheduler":
        if shift <= 0:
            raise InputError(f"shift must be a number above 0, got {shift!r}")
        other = FlowMatchScheduler(self.template)
        other.noise_schedule = replace(self.noise_schedule, shift=shift)
        return other

    def _now(self) -> _Set:
        scope = current_scope()
        made = scope.schedules.get(id(self)) if scope is not None else self._by_hand
        if made is None:
            where = "in this call" if scope is not None else "yet"
            raise MissingInput(
                f"no timesteps were set {where}; call scheduler.set_timesteps(num_inference_steps) first"
            )
        return made

    @property
    def timesteps(self) -> Tensor:
        """What the network is told at each step, [n] float32 on the CPU."""
        return self._now().timesteps

    @property
    def sigmas(self) -> Tensor:
        """The noise level at the start of each step, [n] float32 on the CPU; the last step ends at 0."""
        return self._now().sigmas

    @property
    def training(self) -> bool:
        """Whether the levels were set for training."""
        return self._now().training

    @property
    def levels(self) -> NoiseLevels:
        """What was set, as calotype's own value: `scheduler.advance(latents, output, levels, index)`."""
        return self._now().levels

    # -- the loop --------------------------------------------------------------------------------------------------

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, to_final: bool = False) -> Tensor:
        """Latents [B, ...] after the step that starts at `timestep`; `to_final` goes to the end of the flow at once.

        Raises:
            InputError: `timestep` is none of the schedule's.
        """
        return self.step_at(self.index_of(timestep), model_output, sample, to_final)

    def step_at(self, index: int, model_output: Tensor, sample: Tensor, to_final: bool = False) -> Tensor:
        """`step` by the number of the step. Raises `InputError` where there is no such step."""
        levels = self._now().levels
        if not 0 <= index < len(levels):
            raise InputError(f"the steps of this schedule are 0 to {len(levels) - 1}, got {index}")
        if to_final:
            return self.denoised(sample, model_output, levels, index)
        return self.advance(sample, model_output, levels, index)[0]

    def index_of(self, timestep: Any) -> int:
        """The number of the step that starts at a timestep, which may have been rounded to half precision.

        Raises:
            InputError: the timestep is none of the schedule's, or was rounded so that it could be several.
        """
        times = self._now().timesteps.double()
        if not isinstance(timestep, Tensor | Real):
            raise InputError(f"a timestep is a number or a tensor, such as scheduler.timesteps[i], got {timestep!r}")
        value = torch.as_tensor(timestep).detach().cpu().flatten()
        if value.numel() != 1:
            raise InputError(f"give one timestep, got {value.numel()}; add noise to one sample at a time")
        rounding = torch.finfo(value.dtype).eps / 2 if value.is_floating_point() else 0.0
        near = (times - value.double()).abs() <= rounding * times.abs() + 1e-6
        found = near.nonzero().flatten().tolist()
        if len(found) == 1:
            return int(found[0])
        if not found:
            raise InputError(
                f"timestep {float(value):g} is not one of this schedule's, which go from {float(times[0]):g} to "
                f"{float(times[-1]):g}; pass scheduler.timesteps[i]"
            )
        raise InputError(
            f"timestep {float(value):g} was rounded to {value.dtype} and could be any of {len(found)} of this "
            "schedule's; pass scheduler.timesteps[i] as it is, in float32"
        )

    def return_to_timestep(self, timestep: Any, sample: Tensor, sample_stablized: Tensor) -> Tensor:
        """The velocity [B, ...] at `timestep` that leads from `sample` to the clean `sample_stablized`."""
        level = self._now().levels.here[self.index_of(timestep)]
        return (sample - sample_stablized) / level.sigma

    # -- training --------------------------------------------------------------------------------------------------

    def add_noise(self, original_samples: Tensor, noise: Tensor, timestep: Any) -> Tensor:
        """Clean samples [B, ...] at the level of a timestep: `(1 - sigma) * clean + sigma * noise`."""
        return self.noised(original_samples, noise, self._now().levels, self.index_of(timestep))

    def training_target(self, sample: Tensor, noise: Tensor, timestep: Any = None) -> Tensor:
        """What the network learns to predict, the velocity `noise - clean`, [B, ...]."""
        return noise - sample

    def training_weight(self, timestep: Any) -> Tensor:
        """The weight of a timestep in the loss: a bell over the noise levels, 0 at the least, 1 on average.

        Raises:
            InputError: the timesteps were not set for training.
        """
        made = self._now()
        if not made.training:
            raise InputError("the timesteps were not set for training; call set_timesteps(1000, training=True)")
        return _bell(made.sigmas)[self.index_of(timestep)]


class _Fixed(FlowMatchScheduler):
    """A scheduler that is set once and for all."""

    fixed: _Set

    def set_timesteps(self, *args: Any, **options: Any) -> None:
        """Raises `GraphError`: a unit that sets the steps would set them for a loop that has begun."""
        raise GraphError("a unit sets the scheduler's steps, which the engine has set already; set them in __call__")

    def _now(self) -> _Set:
        return self.fixed


def _shown(levels: NoiseLevels, training: bool) -> _Set:
    timesteps = torch.tensor(levels.timesteps, dtype=torch.float32)
    return _Set(levels, timesteps, torch.tensor(levels.sigmas[:-1], dtype=torch.float32), training)


def _bell(sigmas: Tensor) -> Tensor:
    """`exp(-2 (sigma - 1/2)^2)` less its least, scaled to a mean of 1; ones where all levels weigh the same."""
    bell = torch.exp(-2.0 * (sigmas.double() - 0.5) ** 2)
    raised = bell - bell.min()
    total = raised.sum()
    return torch.ones_like(sigmas) if total == 0 else (raised * (len(sigmas) / total)).float()


def _tokens(length: int | None, resolution: tuple[int, int] | None) -> int | None:
    """The tokens of the picture that is generated; a token is 16 x 16 pixels. Raises `InputError`."""
    if resolution is None:
        return None if length is None else counted(length, "dynamic_shift_len")
    if not (isinstance(resolution, list | tuple) and len(resolution) == 2):
        raise InputError(f"image_resolution is (height, width) in pixels, got {resolution!r}")
    for name, value in zip(("height", "width"), resolution, strict=True):
        side = counted(value, f"image_resolution: {name}")
        if side % 16:
            near = max(16, round(side / 16) * 16)
            raise InputError(f"image_resolution: {name} must be a multiple of 16, got {side}; nearest is {near}")
    height, width = resolution
    return height * width // 256
