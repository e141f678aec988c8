"""The reference implementation as an oracle: the same fake network through both, step by step."""

import copy
import inspect
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import diffusers
import pytest
import torch

import calotype.sampling as ours

STEPS = (1, 2, 7, 50)
SIGMAS = ("sigmas", "sigmas_interpol", "sigmas_up", "sigmas_down")


def network(x, t):
    """A deterministic stand-in for a network, smooth in both arguments."""
    return torch.tanh(0.7 * x) + 0.1 * torch.sin(3 * x + float(t) / 1000)


class _Double:
    """The module torch with single precision taken as double."""

    def __getattr__(self, name):
        return torch.float64 if name == "float32" else getattr(torch, name)


class Oracle:
    """Runs both implementations and compares them."""

    steps = STEPS

    def pair(self, name, **config):
        with warnings.catch_warnings():  # the reference calls algorithms deprecated that published files have
            warnings.simplefilter("ignore", FutureWarning)
            return getattr(ours, name)(**config), getattr(diffusers, name)(**config)

    def noise(self, dtype=torch.float32, channels=3):
        generator = torch.Generator().manual_seed(0)
        return torch.randn(2, channels, 8, 8, generator=generator, dtype=torch.float64).to(dtype)

    @contextmanager
    def double(self, scheduler) -> Iterator[None]:
        """The reference with its tables and its casts in double precision, to see formulas and not rounding."""
        for name in ("alphas_cumprod", "one", "final_alpha_cumprod", "initial_alpha_cumprod", *SIGMAS):
            if isinstance(getattr(scheduler, name, None), torch.Tensor):
                setattr(scheduler, name, getattr(scheduler, name).double())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys.modules[type(scheduler).__module__], "torch", _Double())
            yield

    def trajectory(self, scheduler, x, *, learned=False, seed=3, **options):
        """Latents before the first step and after every step."""
        if "generator" in inspect.signature(scheduler.step).parameters:
            options["generator"] = torch.Generator().manual_seed(seed)
        x = x * getattr(scheduler, "init_noise_sigma", 1.0)
        latents = [x]
        for t in scheduler.timesteps:
            shown = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            output = network(shown, t)
            output = torch.cat([output, torch.cos(shown)], dim=1) if learned else output
            x = scheduler.step(output, t, x, **options).prev_sample
            latents.append(x)
        return latents

    def compare(
        self, name, *, steps=STEPS, learned=False, set_timesteps=None, options=None, single=True, sigmas=True, **config
    ):
        """Timesteps, sigmas and trajectories agree over all numbers of steps, in double and in single precision.

        In double precision each step's latents agree to a relative 1e-6. In single precision they agree to 1e-5 of the
        largest latent so far: the reference rounds latents of up to 40,000 and then subtracts them from each other.
        `single=False` compares in double precision alone, where the formula itself loses digits in single precision;
        `sigmas=False` leaves out `scheduler.sigmas`, where the reference does not show the levels that it evaluates at.
        """
        mine, made = self.pair(name, **config)
        for n in steps:
            reference = copy.deepcopy(made)  # its tables are changed below
            for scheduler in (mine, reference):
                scheduler.set_timesteps(n, **(set_timesteps or {}))
            self.same_schedule(mine, reference, sigmas)
            if single:
                self._compare_single(mine, reference, n, learned, options or {})
            self._compare_double(mine, reference, n, learned, set_timesteps or {}, options or {})

    def _compare_single(self, mine, reference, n, learned, options):
        single = self.trajectory(mine, self.noise(), learned=learned, **options)
        wanted = self.trajectory(reference, self.noise(), learned=learned, **options)
        assert all(x.isfinite().all() for x in single), (n, reference.config)
        scale = 0.0
        for found, expected in zip(single, wanted, strict=True):
            scale = max(scale, float(expected.abs().max()))
            assert float((found - expected).abs().max()) <= 1e-5 * scale, (n, reference.config)

    def _compare_double(self, mine, reference, n, learned, set_timesteps, options):
        for scheduler in (mine, reference):
            scheduler.set_timesteps(n, **set_timesteps)
        double = self.noise(torch.float64)
        found = self.trajectory(mine, double, learned=learned, **options)
        with self.double(reference):
            expected = self.trajectory(reference, double, learned=learned, **options)
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == torch.float64
            assert float((a - b).abs().max()) <= 1e-6 * float(b.abs().max()), (n, reference.config)

    def same_schedule(self, mine, reference, sigmas=True):
        scale = float(reference.timesteps.abs().max())  # an inverted time is rounded where it is near 0
        times = mine.timesteps, reference.timesteps
        assert times[0].is_floating_point() == times[1].is_floating_point()
        torch.testing.assert_close(*times, rtol=1e-6, atol=1e-7 * scale, check_dtype=False)
        if sigmas and hasattr(reference, "sigmas"):
            torch.testing.assert_close(mine.sigmas, reference.sigmas, rtol=1e-6, atol=1e-7)
        if hasattr(reference, "init_noise_sigma"):
            assert float(mine.init_noise_sigma) == pytest.approx(float(reference.init_noise_sigma), rel=1e-6)

    def both_faces(self, scheduler, steps=5, tolerance=1e-6):
        """The pure and the stateful face end alike, with the same fresh noise."""
        levels = scheduler.schedule(steps)
        scheduler.set_timesteps(steps)
        noise, generator = self.noise(torch.float64), torch.Generator().manual_seed(3)
        pure = self.loop(
            scheduler,
            levels,
            scheduler.initial(noise, levels),
            lambda like: torch.randn(like.shape, generator=generator, dtype=like.dtype),
        )
        torch.testing.assert_close(pure, self.trajectory(scheduler, noise)[-1], rtol=tolerance, atol=tolerance)

    def loop(self, scheduler, levels, x, draw=None):
        """A loop over the pure face."""
        state = scheduler.init_state()
        for i in range(len(levels)):
            output = network(scheduler.model_input(x, levels, i), levels.timesteps[i])
            x, state = scheduler.advance(x, output, levels, i, state, draw)
        return x


def pytest_collection_modifyitems(items):
    """The reference converts arrays in a way that NumPy calls deprecated, which is no matter of ours."""
    for item in items:
        if "oracle" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"))


@pytest.fixture(scope="session")
def oracle():
    diffusers.utils.logging.set_verbosity_error()
    return Oracle()
