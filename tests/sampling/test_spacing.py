"""Spacings and ramps."""

import numpy as np
import pytest

from calotype.errors import InputError
from calotype.sampling.spacing import beta_probability, beta_quantile, ramped, spaced


def test_spacings_are_those_of_the_paper():
    """Lin et al., table 2, for 10 of 1000 steps."""
    assert spaced("leading", 10, 1000, offset=1).tolist() == [901, 801, 701, 601, 501, 401, 301, 201, 101, 1]
    assert spaced("linspace", 10, 1000).round().tolist() == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]
    assert spaced("trailing", 10, 1000).tolist() == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]


@pytest.mark.parametrize("steps", range(1, 1001, 7))
def test_trailing_always_has_as_many_steps_as_asked(steps):
    times = spaced("trailing", steps, 1000)
    assert len(times) == steps
    assert times[0] == 999
    assert times[-1] >= 0


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_a_lower_start_is_exact_whatever_the_number_of_steps(spacing, steps):
    times = spaced(spacing, steps, 1000, 1, first=421.0)
    assert times[0] == 421
    assert len(times) == steps
    assert (np.diff(times) < 0).all()


@pytest.mark.parametrize("ramp", ["karras", "exponential", "beta"])
def test_ramps_go_from_the_largest_to_the_smallest(ramp):
    sigmas = ramped(ramp, 14.0, 0.03, 9)
    assert sigmas[0] == pytest.approx(14.0)
    assert sigmas[-1] == pytest.approx(0.03)
    assert (np.diff(sigmas) < 0).all()
    assert ramped(ramp, 14.0, 0.03, 1).tolist() == pytest.approx([14.0])
    with pytest.raises(InputError, match=f"{ramp} sigmas need 0 < smallest <= largest, got 0 and 14"):
        ramped(ramp, 14.0, 0.0, 3)


def test_beta_quantiles_equal_scipy():
    stats = pytest.importorskip("scipy.stats")
    for p in (0.0, 1e-6, 0.01, 0.3, 0.5, 0.77, 0.999, 1.0):
        assert beta_quantile(p, 0.6, 0.6) == pytest.approx(stats.beta.ppf(p, 0.6, 0.6), rel=1e-10, abs=1e-15)
        assert beta_quantile(p, 2.0, 5.0) == pytest.approx(stats.beta.ppf(p, 2.0, 5.0), rel=1e-10, abs=1e-15)
    assert beta_probability(0.0, 0.6, 0.6) == 0.0
    assert beta_probability(1.0, 0.6, 0.6) == 1.0
