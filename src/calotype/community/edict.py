"""Editing a picture by changing what is said of it: a pack of units that inverts the loop exactly.

pipe = DiffusionPipeline.from_pretrained("calotype/emoji-64").with_units("edict")
pipe(prompt="a green apple", source_prompt="a red apple", image=picture, strength=0.7)

Two latents x and y are denoised by turns, each by what the network predicts of the other, so that every turn can be
undone. The loop first goes up from the picture under the source prompt, undoing turns, and then down under the prompt.

Source: Wallace et al., "EDICT: Exact Diffusion Inversion via Coupled Transformations", 2022, eq. 14 and 15.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from calotype import Branch, Guidance, Inputs, NoiseLevels, StatefulGuidance, Step, UnitPack, unit
from calotype.errors import InputError
from calotype.pipelines.latents import CleanLatents, Latents
from calotype.sampling.guidance.policy import advance
from calotype.sampling.guidance.predictions import Predictions
from calotype.sampling.solver import Prediction, SolverWithState, State, follow

SOURCE = "source"
"""The branch that is told the source prompt, on the way up."""


class EdictInputs(Inputs):
    """What the pack adds to a pipeline's inputs."""

    source_prompt: str | None = Field(
        default=None, description="What the picture shows; the prompt says what it is to show."
    )
    mixing: float = Field(default=0.93, gt=0.5, le=1, description="Share of itself that each latent keeps in a step.")


@dataclass(frozen=True)
class Turn:
    """One evaluation of the network: which of the two latents moves, whether up, and which is shown next."""

    moves: str
    up: bool
    shown_next: str


@dataclass(frozen=True)
class Edict(SolverWithState):
    """The coupled transformations. Down, x moves by what is predicted of y, y by what is predicted of x, and both are
    mixed; up, the same is undone in the reverse order. The state is both latents, in double precision.

    Attributes:
        mixing: share of itself that each latent keeps.
        straight: the velocity of flow matching moves a latent, and not the noise of the paper's schedule.
    """

    mixing: float
    straight: bool

    def step(self, now: Prediction, state: State) -> tuple[Tensor, State]:
        both: dict[str, Tensor] = state or dict.fromkeys("xy", now.x.double())
        turn: Turn = now.note
        here, there = (now.there, now.here) if turn.up else (now.here, now.there)
        moved = both[turn.moves]
        if self.straight:
            moved = moved + (there.sigma - here.sigma) * (now.noise - now.clean).double()
        else:
            moved = follow(moved, now.noise.double(), here, there)
        both = {**both, turn.moves: moved}
        if turn.moves == "y" and not turn.up:
            both = self.mixed(**both)
        if turn.up and turn.shown_next == "x":  # not at the top, where the way down begins
            both = self.unmixed(**both)
        return both[turn.shown_next], both

    def mixed(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """Both latents [b, c, h, w], closer to each other."""
        x = torch.lerp(y, x, self.mixing)
        return {"x": x, "y": torch.lerp(x, y, self.mixing)}

    def unmixed(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """What `mixed` was made of."""
        y = x + (y - x) / self.mixing
        return {"x": y + (x - y) / self.mixing, "y": y}


@dataclass(frozen=True)
class ThereAndBack(StatefulGuidance):
    """Another policy, with the source prompt in the place of the prompt in the first half of the loop.

    The policy is told the step of the way down that a turn of the way up undoes. Its state begins anew at the top.
    """

    policy: Guidance

    def branches(self, twins: frozenset[str]) -> tuple[Branch, ...]:
        return (*self.policy.branches(twins), Branch(SOURCE))

    def active(self, step: Step) -> tuple[str, ...]:
        names = self.policy.active(_down(step))
        return tuple(SOURCE if name == "positive" else name for name in names) if _up(step) else names

    def advance(self, predictions: Mapping[str, Tensor], step: Step, state: Any) -> tuple[Tensor, Any]:
        assert isinstance(predictions, Predictions)
        outputs = {"positive" if name == SOURCE else name: output for name, output in predictions.items()}
        if step.index * 2 == step.count:
            state = None
        renamed = Predictions(outputs, predictions.latents, predictions.reading)
        return advance(self.policy, renamed, _down(step), state)


def _up(step: Step) -> bool:
    return step.index * 2 < step.count


def _down(step: Step) -> Step:
    """The step of the way down alone that a step of the whole loop does or undoes."""
    half = step.count // 2
    return replace(step, index=half - 1 - step.index if _up(step) else step.index - half, count=half)


@unit
def said(prompt: str, source_prompt: str, branch: Branch) -> str:
    """The prompt that a guidance branch predicts for."""
    return source_prompt if branch.name == SOURCE else prompt


@unit
def turns(
    sigmas: NoiseLevels,
    source_prompt: str,
    mixing: float,
    image_latents: CleanLatents | None,
    mask_latents: Tensor | None,
) -> NoiseLevels:
    """The levels from the picture up to the first, and back: two turns for each step in each direction.

    Raises:
        InputError: there is no picture, a mask would undo what is not to be undone, the first level has no signal that
            could be inverted into, or the scheduler takes steps of several evaluations.
    """
    if image_latents is None:
        raise InputError("source_prompt says what image shows, but there is no image; give it, or leave both out")
    if mask_latents is not None:
        raise InputError("edict changes the whole picture by its prompt: leave the mask or source_prompt out")
    straight = all(abs(level.alpha + level.sigma - 1) < 1e-6 for level in sigmas.here)
    if sigmas.here[0].alpha == 0 and not straight:
        raise InputError("no picture can be inverted into pure noise; give a strength below 1, such as 0.8")
    if any(there.sigma >= here.sigma for here, there in zip(sigmas.here, sigmas.there, strict=True)):
        raise InputError(
            "edict takes steps of its own; give the pipeline a scheduler of one evaluation a step, as DDIM"
        )
    count = len(sigmas)
    order = [i for i in reversed(range(count)) for _ in "yx"] + [i for i in range(count) for _ in "xy"]
    up = [Turn("y", True, "y"), Turn("x", True, "x")] * count
    notes = [*up[:-1], Turn("x", True, "y"), *[Turn("x", False, "x"), Turn("y", False, "y")] * count]
    plans = tuple(sigmas.plans[i]._replace(note=note) for i, note in zip(order, notes, strict=True))
    here, there = (tuple(ends[i] for i in order) for ends in (sigmas.here, sigmas.there))
    return NoiseLevels(here, there, plans, sigmas.init_sigma, Edict(mixing, straight))


@unit
def from_picture(latents: Latents, image_latents: CleanLatents, source_prompt: str) -> Latents:
    """The loop starts from the picture itself, without noise."""
    return Latents(image_latents)


@unit
def there_and_back(policy: Guidance, source_prompt: str) -> Guidance:
    """The pipeline's guidance, under the source prompt on the way up."""
    return ThereAndBack(policy)


SECOND = said.named("said_2").renamed(prompt="prompt_2", said="prompt_2")

EDICT = UnitPack(
    (said.renamed(said="prompt"), turns.renamed(turns="sigmas"), from_picture.renamed(from_picture="latents")),
    EdictInputs,
    around=(there_and_back,),
    optional=(SECOND,),
)
