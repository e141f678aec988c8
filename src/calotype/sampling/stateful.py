"""The stateful face of the ecosystem, a thin layer over the pure one: `set_timesteps`, `step(...).prev_sample`.

What a call sets is kept on the object, so this face serves one loop at a time; `Scheduler.schedule` serves any number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from calotype.errors import InputError, MissingInput
from calotype.sampling.config import ConfiguredScheduler
from calotype.sampling.levels import Path
from calotype.sampling.noise import NoiseSource, per_item, shared
from calotype.sampling.schedulers.base import NoiseLevels, Scheduler
from calotype.sampling.solver import SolverWithState, State
from calotype.sampling.spacing import counted

Generators = torch.Generator | Sequence[torch.Generator] | None
Device = str | torch.device | None


@dataclass(frozen=True)
class SchedulerOutput:
    """What `step` returns.

    Attributes:
        prev_sample: latents [B, C, ...] at the next, lower noise level.
        pred_original_sample: the clean sample [B, C, ...] that the network's output implies.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class Stateful(ConfiguredScheduler, Scheduler):
    """A scheduler with the ecosystem's methods. A subclass composes the three pieces in `_compose`.

    Attributes:
        timesteps: the timesteps that were set, or all training timesteps before that.
        num_inference_steps: how many steps were set, or None.
    """

    timesteps: Tensor
    num_inference_steps: int | None

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self._compose()
        self.num_inference_steps = None
        self._levels: NoiseLevels | None = None
        self._show(self.noise_schedule.training(), None)

    def set_timesteps(self, num_inference_steps: int, device: Device = None) -> None:
        """Sets the steps of the next loop. Raises `InputError` for 0, a negative number or too many."""
        steps_or_custom(num_inference_steps)
        self._set(self.schedule(steps_asked(num_inference_steps)), device)

    def _compose(self) -> None:
        """Sets the schedule, the parameterization, the solver and the limit that the config describes."""
        raise NotImplementedError

    def _show(self, path: Path | NoiseLevels, device: Device) -> None:
        """Makes the public tensors from the levels."""
        raise NotImplementedError

    def __len__(self) -> int:
        """The number of training timesteps."""
        return int(self.config.num_train_timesteps)

    @property
    def init_noise_sigma(self) -> float:
        """What standard normal noise is multiplied by before the first step."""
        return self._current().init_sigma

    def _current(self) -> NoiseLevels:
        """The levels that were set, or the training levels."""
        if self._levels is None:
            self._levels = self._planned(self.noise_schedule.training(), self.solver)
        return self._levels

    def _set(self, levels: NoiseLevels, device: Device) -> None:
        self._levels = levels
        self.num_inference_steps = len(levels)
        self._show(levels, device)


class ByTimestep(Stateful):
    """Steps that find their level by the timestep that they are given."""

    betas: Tensor
    alphas: Tensor
    alphas_cumprod: Tensor

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample as it is: these schedulers show it to the network unscaled."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noised samples [B, ...] at the training timesteps [B]. Raises `InputError` for one that does not exist."""
        signal, spread = self._amplitudes(original_samples, timesteps)
        return (signal * original_samples + spread * noise).to(original_samples.dtype)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The target [B, ...] of v-prediction at the training timesteps [B]."""
        signal, spread = self._amplitudes(sample, timesteps)
        return (signal * noise - spread * sample).to(sample.dtype)

    def _amplitudes(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha and sigma at each timestep, [B, 1, ...], at least float32."""
        if timesteps.device.type == "cpu":
            self._check_timesteps(timesteps)
        dtype = like.dtype if like.dtype == torch.float64 else torch.float32
        shares = self.alphas_cumprod.double()
        signal, spread = (
            root.to(dtype).to(like.device)[timesteps.to(like.device).flatten()]
            for root in (shares.sqrt(), (1.0 - shares).sqrt())
        )
        return _as_column(signal, like), _as_column(spread, like)

    def _check_timesteps(self, timesteps: Tensor) -> None:
        if timesteps.is_floating_point() or int(timesteps.min()) < 0 or int(timesteps.max()) >= len(self):
            raise InputError(f"timesteps must be whole numbers between 0 and {len(self) - 1}, got {timesteps.tolist()}")

    def _show(self, path: Path | NoiseLevels, device: Device) -> None:
        times = [int(level.timestep) for level in path.here]
        self.timesteps = torch.tensor(times, dtype=torch.int64, device=device)

    def _timestep(self, timestep: Any) -> int:
        number = int(timestep)
        if not 0 <= number < len(self):
            raise InputError(f"timestep must be between 0 and {len(self) - 1}, got {number}")
        return number


class Counting(Stateful):
    """Steps that count: the first finds its level by its timestep, or by `set_begin_index`, and each moves on by one.

    Attributes:
        step_index: index of the next step, or None before the first.
        begin_index: index of the first step where a pipeline starts part of the way, or None.
    """

    draws_wide: ClassVar[bool] = False
    """Fresh noise is drawn in at least float32 and not in the dtype of the network's output, as the ecosystem does."""

    alone: ClassVar[bool] = False
    """A tuple from `step` holds the latents alone, as in the ecosystem."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.step_index: int | None = None
        self.begin_index: int | None = None
        self._state: State = None

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Says that the loop starts at this step, as image-to-image pipelines do."""
        self.begin_index = begin_index

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Tensor | None = None) -> int:
        """Index of a timestep; the second where it occurs twice, unless the schedule starts with it.

        A step that evaluates the network twice has its timestep twice. Raises `InputError` where it does not occur.
        """
        times = self.timesteps if schedule_timesteps is None else schedule_timesteps
        value = timestep.to(times.device) if isinstance(timestep, Tensor) else timestep
        found = (times == value).nonzero().flatten().tolist()
        if not found:
            raise InputError(
                f"timestep {float(timestep):g} is not one of this schedule's, which go from {float(times[0]):g} "
                f"to {float(times[-1]):g}; pass one of scheduler.timesteps"
            )
        return int(found[0] if len(found) == 1 or found[0] == 0 else found[1])

    def _set(self, levels: NoiseLevels, device: Device) -> None:
        super()._set(levels, device)
        self.step_index = None
        self.begin_index = None
        self._state = None

    def _here(self, timestep: Any) -> int:
        """Index of the step that this timestep is of."""
        if self.step_index is None:
            self.step_index = self.index_for_timestep(timestep) if self.begin_index is None else self.begin_index
        if self.step_index >= len(self._current()):
            raise InputError(f"all {len(self._current())} steps were made; call set_timesteps before another loop")
        return self.step_index

    def _check_step(self, timestep: Any) -> None:
        whole = isinstance(timestep, int) or (isinstance(timestep, Tensor) and not timestep.is_floating_point())
        if whole:
            raise InputError(
                f"{type(self).__name__}.step takes one of scheduler.timesteps, not a whole number such as the index "
                f"of one; got {timestep!r}"
            )

    def _stepped(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generators,
        return_dict: bool,
        fresh: Tensor | None = None,
    ) -> Any:
        """One step of a solver with a state, which is kept until the next."""
        index, levels = self._here(timestep), self._current()
        assert isinstance(levels.solver, SolverWithState)
        if generator is not None and fresh is not None:
            raise InputError("give generator or variance_noise, not both")
        wide = torch.promote_types(model_output.dtype, torch.float32)
        drawn = source(generator, wide if self.draws_wide else model_output.dtype)
        now = self._prediction(sample, model_output, levels, index, drawn if fresh is None else lambda _: fresh)
        moved, self._state = levels.solver.step(now, self._state)
        return self._taken(moved.to(model_output.dtype), now.clean, return_dict)

    def _taken(self, moved: Tensor, clean: Tensor, return_dict: bool) -> Any:
        """The answer of a step, which counts as made."""
        assert self.step_index is not None
        self.step_index += 1
        found = answer(moved, clean, return_dict)
        return found[:1] if self.alone and not return_dict else found


class ByIndex(Counting):
    """Steps that count, over sigmas.

    Attributes:
        sigmas: the noise levels, on the CPU: one per timestep and one after the last.
    """

    sigmas: Tensor

    def _show(self, path: Path | NoiseLevels, device: Device) -> None:
        sigmas = [*(level.sigma for level in path.here), path.there[-1].sigma]
        self.timesteps = torch.tensor([level.timestep for level in path.here], dtype=torch.float32, device=device)
        self.sigmas = torch.tensor(sigmas, dtype=torch.float32)

    def _levels_at(self, timesteps: Tensor, like: Tensor) -> Tensor:
        """The sigma of each timestep [B], as [B, 1, ...] of `like`'s dtype and at least float32."""
        if self.begin_index is None:
            indices = self._indices(timesteps.flatten())
        else:
            index = self.begin_index if self.step_index is None else self.step_index
            indices = torch.full((timesteps.numel(),), index)
        dtype = like.dtype if like.dtype == torch.float64 else torch.float32
        return _as_column(self.sigmas.to(dtype)[indices].to(like.device), like)

    def _indices(self, timesteps: Tensor) -> Tensor:
        """`index_for_timestep` of each of many."""
        matches = self.timesteps.cpu()[None, :] == timesteps.cpu()[:, None]
        missing = ~matches.any(dim=1)
        if bool(missing.any()):
            self.index_for_timestep(timesteps.cpu()[missing][0])  # raises
        first, second = matches.int().argmax(dim=1), (matches.cumsum(dim=1) == 2).int().argmax(dim=1)
        several = (matches.sum(dim=1) > 1) & (first > 0)
        return torch.where(several, second, first)


class SteppingWithState(Counting):
    """Steps that count, of a solver that has a state."""

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> Any:
        """One step from `timestep`, one of `timesteps`. Steps of one loop follow each other.

        Args:
            model_output: [B, C, ...] for the scaled sample.
            timestep: where `sample` is.
            sample: latents [B, C, ...], not scaled.
            generator: of the fresh noise of a stochastic solver; a list has one per item; None is torch's own.

        Returns:
            `SchedulerOutput`, or a tuple of its two tensors, of the latents alone where the ecosystem has no more. The
            clean sample is at least float32.

        Raises:
            InputError: the timestep is a whole number where they are not, or none of the schedule's.
        """
        if self.timesteps.is_floating_point():
            self._check_step(timestep)
        return self._stepped(model_output, timestep, sample, generator, return_dict)


def steps_asked(steps: Any) -> int | None:
    """`num_inference_steps` as the pure face takes it. Raises `InputError` for 0, a negative number or no whole one."""
    return None if steps is None else counted(steps, "num_inference_steps")


def steps_or_custom(steps: Any, **custom: Any) -> None:
    """Raises where not exactly one of the number of steps and the custom values is given."""
    given = [name for name, value in {"num_inference_steps": steps, **custom}.items() if value is not None]
    choices = ", ".join(["num_inference_steps", *custom])
    if not given:
        raise MissingInput(f"give one of {choices}")
    if len(given) > 1:
        raise InputError(f"give one of {choices}, got {' and '.join(given)}")


def source(generator: Generators, dtype: torch.dtype) -> NoiseSource:
    """Fresh noise as the ecosystem draws it: of one dtype, from one generator or one per item."""
    if isinstance(generator, Sequence):
        drawn = per_item(generator) if len(generator) > 1 else shared(generator[0])
    else:
        drawn = shared(generator)
    return lambda like: drawn(like.to(dtype))


def answer(moved: Tensor, clean: Tensor, return_dict: bool) -> Any:
    """`SchedulerOutput`, or its two tensors as a tuple."""
    return SchedulerOutput(moved, clean) if return_dict else (moved, clean)


def _as_column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))
