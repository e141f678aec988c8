"""The midpoint method in log sigma for diffusion models, deterministic or ancestral."""

from dataclasses import replace
from typing import Literal

from calotype.sampling.schedule import VarianceExploding
from calotype.sampling.schedulers.fields import LatentTraining, Ramped, Spaced
from calotype.sampling.schedulers.training import NoiseOverSignalWithState
from calotype.sampling.solvers.kdpm2 import Kdpm2


class KDPM2Config(LatentTraining, Ramped, Spaced):
    """The ecosystem's configuration of both methods."""

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"


class KDPM2DiscreteScheduler(NoiseOverSignalWithState):
    """k-diffusion's DPM2, after Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models",
    algorithm 2, with the ecosystem's keywords and defaults. Each step but the last evaluates the network twice."""

    Config = KDPM2Config
    config: KDPM2Config
    order = 2

    def _compose(self) -> None:
        super()._compose()
        self.solver = Kdpm2()

    def _noise_schedule(self, table: tuple[float, ...]) -> VarianceExploding:
        karras = bool(self.config.use_karras_sigmas)
        return replace(super()._noise_schedule(table), whole_timesteps=karras)


class KDPM2AncestralDiscreteScheduler(KDPM2DiscreteScheduler):
    """k-diffusion's DPM2 with ancestral noise, with the ecosystem's keywords and defaults."""

    def _compose(self) -> None:
        super()._compose()
        self.solver = Kdpm2(ancestral=True)
