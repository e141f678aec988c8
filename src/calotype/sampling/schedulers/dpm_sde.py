"""DPM-Solver++ (2S) with ancestral noise along a Brownian path, for diffusion models."""

from typing import Literal

import torch
from torch import Tensor

from calotype.sampling.noise import NoiseSource, shared
from calotype.sampling.schedulers.base import NoiseLevels
from calotype.sampling.schedulers.fields import LatentTraining, Ramped, Spaced
from calotype.sampling.schedulers.training import NoiseOverSignalWithState
from calotype.sampling.solver import Prediction
from calotype.sampling.solvers.dpm_sde import DpmSde


class DPMSolverSDEConfig(LatentTraining, Ramped, Spaced):
    """The ecosystem's configuration of the method.

    `noise_sampler_seed` fixes the Brownian path of every loop; None takes it from each loop's own fresh noise.
    """

    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    noise_sampler_seed: int | None = None


class DPMSolverSDEScheduler(NoiseOverSignalWithState):
    """k-diffusion's DPM++ SDE, after Lu et al., "DPM-Solver++", algorithm 1, with the ecosystem's keywords.

    Each step but the last evaluates the network twice. The noise follows a Brownian path of our own
    (`calotype.sampling.brownian`), which needs no further package. It has the law of the ecosystem's, and not its bits.
    """

    Config = DPMSolverSDEConfig
    config: DPMSolverSDEConfig
    order = 2

    def _compose(self) -> None:
        super()._compose()
        self.solver = DpmSde()

    def _prediction(
        self, x: Tensor, output: Tensor, levels: NoiseLevels, index: int, draw: NoiseSource | None
    ) -> Prediction:
        if self.config.noise_sampler_seed is not None:
            draw = shared(torch.Generator().manual_seed(self.config.noise_sampler_seed))
        return super()._prediction(x, output, levels, index, draw)
