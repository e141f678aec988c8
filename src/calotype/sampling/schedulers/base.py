"""The pure face of a scheduler: a schedule, a parameterization and a solver, composed. Nothing of a call is stored."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.sampling.moves import Mix, Move, Solver, SolverWithState, State
from calotype.sampling.noise import NoiseSource
from calotype.sampling.step import Step

if TYPE_CHECKING:
    from calotype.sampling.levels import Level, Path
    from calotype.sampling.limit import Limit
    from calotype.sampling.parameterization import Parameterization
    from calotype.sampling.schedule import NoiseSchedule
    from calotype.sampling.solver import Prediction


class Plan(NamedTuple):
    """Everything that a step needs, worked out before the loop: weights, as plain numbers.

    `clean` and `noise` read the network's output; `move` is the solver's; `fused` is all of it in one sum of latents
    and output, where no limit stands between. A solver with a state has a `note` in the place of both.
    """

    clean: Mix
    noise: Mix
    move: Move = Move()
    fused: Mix = Mix(0.0, 0.0)
    note: Any = None


@dataclass(frozen=True)
class NoiseLevels:
    """The levels that a loop goes through, made by `Scheduler.schedule`. Immutable; a slice of it is one too.

    A step of the loop is one evaluation of the network; a solver that needs two to get to the next level of its
    schedule has two steps for it.

    Attributes:
        here: the level at which each step starts.
        there: the level at which each step ends.
        plans: the weights of each step.
        init_sigma: what pure noise is multiplied by before the first step.
        solver: the solver that the weights are of.
    """

    here: "tuple[Level, ...]"
    there: "tuple[Level, ...]"
    plans: tuple[Plan, ...]
    init_sigma: float
    solver: Solver | SolverWithState

    def __len__(self) -> int:
        return len(self.here)

    def __getitem__(self, part: slice) -> "NoiseLevels":
        """The levels of some successive steps, to hand a loop over between stages."""
        if not isinstance(part, slice) or part.step not in (None, 1):
            raise TypeError("noise levels are sliced by successive steps, as in levels[3:]")
        if not self.here[part]:
            raise InputError(f"a slice of noise levels must hold at least one of the {len(self)} steps, got {part}")
        return NoiseLevels(self.here[part], self.there[part], self.plans[part], self.init_sigma, self.solver)

    @property
    def timesteps(self) -> tuple[float, ...]:
        """What the network is told at each step; n values."""
        return tuple(level.timestep for level in self.here)

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise at the start of each step and at the end of the last; n + 1 values."""
        return (*(level.sigma for level in self.here), self.there[-1].sigma)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The description of each step that predictors and guidance receive."""
        pairs = zip(self.here, self.there, strict=True)
        return tuple(
            Step(index, len(self), here.sigma, here.timestep, there.sigma) for index, (here, there) in enumerate(pairs)
        )


class Scheduler:
    """Composes a noise schedule, a parameterization, a solver and a limit on the predicted clean sample.

    The methods here are pure: they may be called by any number of threads at once. A loop is

        levels = scheduler.schedule(steps)
        x, state = scheduler.initial(noise, levels), scheduler.init_state()
        for i in range(len(levels)):
            output = network(scheduler.model_input(x, levels, i), levels.timesteps[i])
            x, state = scheduler.advance(x, output, levels, i, state, draw)
    """

    noise_schedule: "NoiseSchedule"
    parameterization: "Parameterization"
    solver: Solver | SolverWithState
    limit: "Limit | None" = None
    order: ClassVar[int] = 1

    def schedule(
        self,
        steps: int | None = None,
        *,
        start: float = 1.0,
        start_sigma: float | None = None,
        sigmas: Any = None,
        timesteps: Any = None,
        mu: float | None = None,
        image_tokens: int | None = None,
        solver: Solver | SolverWithState | None = None,
    ) -> NoiseLevels:
        """The levels of `steps` steps, with every step's weights.

        Args:
            steps: how many steps; may be left out where `sigmas` or `timesteps` are given.
            start: image-to-image strength in (0, 1]. It picks the first level, whatever the number of steps.
            start_sigma: the first level itself, as it stands in `NoiseLevels.sigmas`.
            sigmas: custom levels, as this scheduler's `set_timesteps` takes them.
            timesteps: custom timesteps, descending.
            mu: the shift of a schedule that depends on the picture (`use_dynamic_shifting`).
            image_tokens: tokens of the picture, from which such a schedule finds mu; others do not need it.
            solver: another solver than this scheduler's own.

        Raises:
            InputError: a value is out of range, or two of them contradict each other.
        """
        from calotype.sampling.request import Request  # only who has a schedule asks it

        request = Request(steps, start, start_sigma, sigmas, timesteps, mu, image_tokens)
        return self._planned(self.noise_schedule.path(request), solver or self.solver)

    def initial(self, noise: Tensor, levels: NoiseLevels) -> Tensor:
        """Latents to start from, from standard normal noise [B, ...]."""
        return noise if levels.init_sigma == 1.0 else noise * levels.init_sigma

    def init_state(self) -> State:
        """The solver's state before the first step."""
        return None

    def noised(self, clean: Tensor, noise: Tensor, levels: NoiseLevels, index: int = 0) -> Tensor:
        """Clean latents [B, ...] at the level before step `index`; `len(levels)` is the level after the last."""
        level = levels.here[index] if index < len(levels) else levels.there[-1]
        return Mix(level.alpha, level.sigma).of(clean, noise)

    def model_input(self, x: Tensor, levels: NoiseLevels, index: int) -> Tensor:
        """What the network is shown of the latents [B, ...] at step `index`."""
        scale = levels.here[index].scale
        return x if scale == 1.0 else x * scale

    def denoised(self, x: Tensor, output: Tensor, levels: NoiseLevels, index: int) -> Tensor:
        """The clean sample [B, C, ...] that the network's output at step `index` implies: for previews and masks."""
        output, _ = split_variance(output, x, levels.solver)
        return self._clean(_wide(x), output, levels.plans[index]).to(x.dtype)

    def advance(
        self,
        x: Tensor,
        output: Tensor,
        levels: NoiseLevels,
        index: int,
        state: State = None,
        draw: NoiseSource | None = None,
    ) -> tuple[Tensor, State]:
        """One step.

        Args:
            x: latents [B, C, ...] at level `index`.
            output: the network's output for `model_input(x)`, [B, C, ...] or, with a learned variance, [B, 2C, ...].
            index: which step of `levels`.
            state: the solver's state that the step before returned; `init_state()` at the first.
            draw: source of fresh noise; only stochastic solvers need one.

        Returns:
            Latents at the next level, of `x`'s dtype (half precision is computed in float32), and the solver's state.

        Raises:
            InputError: the solver draws noise and no source was given, or the output has the wrong channels.
        """
        if isinstance(levels.solver, SolverWithState):
            moved, state = levels.solver.step(self._prediction(x, output, levels, index, draw), state)
            return moved.to(x.dtype), state
        plan = levels.plans[index]
        if self.limit is not None or levels.solver.learned:
            return self._full_step(x, output, plan, levels.solver, draw)[0].to(x.dtype), state
        moved = plan.fused.of(_wide(x), output)
        if plan.move.fresh:
            moved = moved.add(_fresh(draw, x), alpha=plan.move.fresh)
        return moved.to(x.dtype), state

    def _prediction(
        self, x: Tensor, output: Tensor, levels: NoiseLevels, index: int, draw: NoiseSource | None
    ) -> "Prediction":
        """What a solver with a state gets to see of this step."""
        from calotype.sampling.solver import Prediction  # loaded by the solver

        plan, wide = levels.plans[index], _wide(x)
        output, _ = split_variance(output, x, levels.solver)
        return Prediction(
            wide,
            output.to(wide.dtype),
            levels.here[index],
            levels.there[index],
            plan.note,
            lambda: _fresh(draw, x),
            (plan.clean, plan.noise),
            self.limit,
        )

    def _full_step(
        self, x: Tensor, output: Tensor, plan: Plan, solver: Solver, draw: NoiseSource | None
    ) -> tuple[Tensor, Tensor]:
        """One step by way of the clean sample: the moved latents and the clean sample, both at least float32."""
        output, variance = split_variance(output, x, solver)
        wide, move = _wide(x), plan.move
        clean = self._clean(wide, output, plan)
        moved = clean * move.clean
        if move.noise:
            moved = torch.add(moved, plan.noise.of(wide, output), alpha=move.noise)
        if move.latents:
            moved = torch.add(moved, wide, alpha=move.latents)
        if move.fresh:
            spread = move.fresh if variance is None else solver.spread(move, _wide(variance))
            moved = moved + _fresh(draw, x) * spread
        return moved, clean

    def _clean(self, x: Tensor, output: Tensor, plan: Plan) -> Tensor:
        clean = plan.clean.of(x, output if output.dtype == x.dtype else output.to(x.dtype))
        return clean if self.limit is None else self.limit(clean)

    def _planned(self, path: "Path", solver: Solver | SolverWithState) -> NoiseLevels:
        if isinstance(solver, SolverWithState):
            path = solver.evaluations(path, self.noise_schedule)
            notes = path.notes or (None,) * len(path)
            readings = (reading(self.parameterization, here) for here in path.here)
            plans = tuple(Plan(*read, note=note) for read, note in zip(readings, notes, strict=True))
        else:
            plans = tuple(
                plan(self.parameterization, solver, *levels) for levels in zip(path.here, path.there, strict=True)
            )
        return NoiseLevels(path.here, path.there, plans, path.init_sigma, solver)


def plan(parameterization: "Parameterization", solver: Solver, here: "Level", there: "Level") -> Plan:
    """The weights of one step, in terms of the latents themselves rather than of what the network is shown."""
    clean, noise = reading(parameterization, here)
    move = solver.move(here, there)
    latents = move.latents + move.clean * clean.latents + move.noise * noise.latents
    output = move.clean * clean.output + move.noise * noise.output
    return Plan(clean, noise, move, Mix(_exact(latents), output))


def reading(parameterization: "Parameterization", here: "Level") -> tuple[Mix, Mix]:
    """The weights of latents and output that give the clean sample and the noise at a level."""
    alpha, sigma = here.alpha * here.scale, here.sigma * here.scale
    clean, noise = parameterization.clean(alpha, sigma), parameterization.noise(alpha, sigma)
    if here.scale != 1.0:
        clean = Mix(_exact(clean.latents * here.scale), clean.output)
        noise = Mix(_exact(noise.latents * here.scale), noise.output)
    return clean, noise


def split_variance(output: Tensor, x: Tensor, solver: Solver | SolverWithState) -> tuple[Tensor, Tensor | None]:
    """The prediction [B, C, ...] and, with a learned variance, the variance [B, C, ...]. Raises `InputError`."""
    wanted = x.shape[1] * (2 if solver.learned else 1)
    if output.shape[1] != wanted:
        raise InputError(
            f"the network's output must have {wanted} channels for latents of {x.shape[1]} with "
            f"{'a learned' if solver.learned else 'a fixed'} variance, got {output.shape[1]}; see variance_type"
        )
    if not solver.learned:
        return output, None
    prediction, variance = output.chunk(2, dim=1)
    return prediction, variance


def _fresh(draw: NoiseSource | None, x: Tensor) -> Tensor:
    if draw is None:
        raise InputError("this solver adds fresh noise in every step; give the source to draw it from (draw=)")
    return draw(x)


def _exact(weight: float) -> float:
    """A weight that is 1 but for rounding, as 1: the multiplication is then left out."""
    return 1.0 if abs(weight - 1.0) < 1e-14 else weight


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
