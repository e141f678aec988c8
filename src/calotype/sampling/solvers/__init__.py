"""Solvers with a state: those that remember several steps, or evaluate the network several times in one.

    exponential        the weights that DPM-Solver's methods share
    dpm_multistep      DPM-Solver and DPM-Solver++, 1 to 3 steps back, and their stochastic kinds
    dpm_singlestep     the same with 1 to 3 evaluations a step
    dpm_sde            DPM-Solver++ (2S) ancestral along one Brownian path
    unipc              UniPC, predictor and corrector
    sa                 SA-Solver, predictor and corrector of the SDE
    deis, lms          polynomials through past predictions, of log sigma and of sigma
    heun, kdpm2        two evaluations a step: at both ends, or half way
    pndm               Runge-Kutta first, then 4 steps back

The one-step solvers, which need no state, are in `calotype.sampling.solver` and `consistency`.
"""
