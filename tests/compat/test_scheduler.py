"""`FlowMatchScheduler`: each family's published schedule, one step, strengths, and the stateful face."""

import math

import numpy as np
import pytest
import torch

from calotype import FlowMatchEulerDiscreteScheduler
from calotype.compat.diffsynth import FlowMatchScheduler
from calotype.compat.diffsynth.templates import TEMPLATES
from calotype.errors import InputError, MissingInput, UnknownInput, UnusedInput

SHIFTED = {"Wan": 5.0, "Z-Image": 3.0, "ERNIE-Image": 3.0, "ACE-Step": 3.0, "HiDream-O1-Image": 3.0}


def set_to(template, steps, **options):
    scheduler = FlowMatchScheduler(template)
    scheduler.set_timesteps(steps, **options)
    return scheduler


@pytest.mark.parametrize("steps", [2, 7, 30])
@pytest.mark.parametrize("template", SHIFTED)
def test_a_fixed_shift_is_that_of_the_ecosystems_scheduler(template, steps):
    raw = np.linspace(1.0, 1.0 / steps, steps)
    reference = FlowMatchEulerDiscreteScheduler(shift=SHIFTED[template])
    reference.set_timesteps(sigmas=raw)
    ours = set_to(template, steps)
    assert torch.allclose(ours.sigmas, reference.sigmas[:-1], atol=1e-6)
    assert torch.allclose(ours.timesteps, reference.timesteps, atol=1e-3)


@pytest.mark.parametrize("steps", [2, 7, 30])
def test_flux_1_ends_above_zero(steps):
    raw = torch.linspace(1.0, 0.003 / 1.002, steps, dtype=torch.float64)
    assert torch.allclose(set_to("FLUX.1", steps).sigmas.double(), 3 * raw / (1 + 2 * raw), atol=1e-6)


@pytest.mark.parametrize(
    ("template", "tokens", "mu", "terminal"),
    [("Qwen-Image", 4096, (0.5, 0.9, 256, 8192), 0.02), ("LTX-2", 2000, (0.95, 2.05, 1024, 4096), 0.1),
     ("Krea-2", 4096, (0.5, 1.15, 256, 6400), None)],
)  # fmt: skip
def test_a_shift_that_depends_on_the_picture_is_that_of_the_ecosystems_scheduler(template, tokens, mu, terminal):
    low, high, few, many = mu
    reference = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=low, max_shift=high, base_image_seq_len=few, max_image_seq_len=many,
        shift_terminal=terminal,
    )  # fmt: skip
    raw = np.linspace(1.0, 1.0 / 12, 12)
    reference.set_timesteps(sigmas=raw, mu=low + (high - low) * (tokens - few) / (many - few))
    ours = set_to(template, 12, dynamic_shift_len=tokens)
    assert torch.allclose(ours.sigmas, reference.sigmas[:-1], atol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "steps", "mu"), [(1024, 10, 1.98781143), (1024, 200, 0.62998914), (8192, 28, 1.8433165)]
)
def test_flux_2_has_the_mu_of_its_two_fits(tokens, steps, mu):
    raw = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)[:-1]
    wanted = math.exp(mu) * raw / (1 + (math.exp(mu) - 1) * raw)
    assert torch.allclose(set_to("FLUX.2", steps, dynamic_shift_len=tokens).sigmas.double(), wanted, atol=1e-6)


def test_lightning_has_a_shift_of_three_whatever_the_picture():
    plain, large = (set_to("Qwen-Image-Lightning", 8, **o).sigmas for o in ({}, {"dynamic_shift_len": 8000}))
    assert torch.allclose(plain, large) and torch.allclose(plain, set_to("Z-Image", 8).sigmas)


def test_ideogram_has_quantiles_of_a_logit_normal_distribution():
    shares = torch.linspace(1.0, 0.0, 11, dtype=torch.float64)[:-1]
    logits = 0.5 * math.log(768 * 1024 / 512**2) + 1.5 * torch.special.ndtri(shares)
    ours = set_to("Ideogram4", 10, image_resolution=(768, 1024))
    assert torch.allclose(ours.sigmas.double(), torch.sigmoid(logits.clamp(-7.5, 9.0)), atol=1e-6)
    assert torch.allclose(ours.timesteps, 1 - ours.sigmas, atol=1e-6)


def test_the_network_is_told_what_its_family_is_told():
    assert set_to("Wan", 4).timesteps[0] == 1000
    assert set_to("Krea-2", 4).timesteps[0] == 1
    assert torch.allclose(set_to("Boogu", 4).timesteps, 1 - set_to("Boogu", 4).sigmas, atol=1e-6)


@pytest.mark.parametrize("template", TEMPLATES)
def test_one_step_is_finite_and_goes_to_the_clean_sample(template):
    scheduler = set_to(template, 1)
    assert scheduler.sigmas.isfinite().all() and scheduler.timesteps.isfinite().all()
    clean, noise = torch.zeros(1, 2, 4, 4), torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    noised = scheduler.add_noise(clean, noise, scheduler.timesteps[0])
    moved = scheduler.step(noise - clean, scheduler.timesteps[0], noised)
    assert torch.allclose(moved, clean, atol=1e-6)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_strength_starts_at_one_level_whatever_the_number_of_steps(template):
    firsts = [float(set_to(template, n, denoising_strength=0.6).sigmas[0]) for n in (1, 2, 9, 50)]
    assert max(firsts) - min(firsts) < 1e-6
    assert firsts[0] < float(set_to(template, 9).sigmas[0])


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("strength", [0.1, 0.5, 0.999, 1.0])
def test_levels_descend(template, strength):
    sigmas = set_to(template, 8, denoising_strength=strength).sigmas
    assert (sigmas.diff() < 0).all() and sigmas[0] <= 1 and sigmas[-1] > 0


def test_unlike_strengths_near_one_are_near_one():
    assert torch.allclose(
        set_to("Qwen-Image", 10, denoising_strength=1 - 1e-6).sigmas, set_to("Qwen-Image", 10).sigmas, atol=1e-4
    )


def test_own_sigmas_and_an_own_shift_replace_the_templates():
    assert set_to("LTX-2", 3, sigmas=[0.9, 0.7, 0.4]).sigmas.tolist() == pytest.approx([0.9, 0.7, 0.4])
    assert torch.allclose(set_to("Wan", 5, shift=3.0).sigmas, set_to("Z-Image", 5).sigmas)
    assert torch.allclose(set_to("Wan", 5).sigmas, set_to("Wan", 5, shift=5.0).sigmas)
    assert not torch.allclose(set_to("Qwen-Image", 5, exponential_shift_mu=0.5).sigmas, set_to("Qwen-Image", 5).sigmas)


def test_a_resolution_is_as_many_tokens():
    by_size = set_to("Qwen-Image", 5, image_resolution=(1024, 512)).sigmas
    assert torch.equal(by_size, set_to("Qwen-Image", 5, dynamic_shift_len=2048).sigmas)


@pytest.mark.parametrize(
    ("template", "options", "error", "says"),
    [
        ("Wan", {"num_inference_steps": 0}, InputError, "must be a whole number of at least 1, got 0"),
        ("Wan", {"num_inference_steps": -1}, InputError, "got -1"),
        ("Wan", {"denoising_strength": 0.0}, InputError, "denoising_strength must be above 0 and at most 1, got 0.0"),
        ("Wan", {"denoising_strength": 1.5}, InputError, "got 1.5"),
        ("Wan", {"denoising_strength": None}, InputError, "denoising_strength must be a finite number, got None"),
        ("Wan", {"denoising_strength": "0.5"}, InputError, "denoising_strength must be a finite number, got '0.5'"),
        ("Wan", {"denoising_strength": math.nan}, InputError, "denoising_strength must be a finite number, got nan"),
        ("Wan", {"shift": -1.0}, InputError, "shift must be a number above 0, got -1.0"),
        ("Wan", {"shift": "3"}, InputError, "shift must be a finite number, got '3'"),
        ("Wan", {"shift": 3.0, "sigmas": [1.0]}, UnusedInput, "shift and sigmas each say what the levels are; give"),
        ("Wan", {"sigmas": "abc"}, InputError, "sigmas must be a finite number, got 'a'"),
        ("Wan", {"dynamic_shift_len": 9}, UnusedInput, "dynamic_shift_len was given, but the shift of Wan is fixed"),
        ("Wan", {"exponential_shift_mu": 0.1}, UnusedInput, "exponential_shift_mu was given, but the shift of Wan"),
        ("Qwen-Image", {"shift": 3.0}, UnusedInput, "the shift of Qwen-Image depends on the picture"),
        ("Qwen-Image", {"dynamic_shift_len": 0}, InputError, "dynamic_shift_len must be a whole number of at least 1"),
        ("Qwen-Image", {"exponential_shift_mu": "1"}, InputError, "exponential_shift_mu must be a finite number, got"),
        ("Qwen-Image", {"exponential_shift_mu": 0.5, "dynamic_shift_len": 9}, UnusedInput,
         "exponential_shift_mu and dynamic_shift_len each say"),
        ("Qwen-Image", {"image_resolution": (1024,)}, InputError, "image_resolution is (height, width) in pixels"),
        ("Qwen-Image", {"image_resolution": (0, 512)}, InputError, "height must be a whole number of at least 1"),
        ("Qwen-Image", {"image_resolution": (1000, 512)}, InputError, "height must be a multiple of 16, got 1000"),
        ("Qwen-Image", {"image_resolution": (512, 512), "dynamic_shift_len": 9}, UnusedInput, "give one"),
        ("Qwen-Image", {"sigmas": [1.0, 0.5], "dynamic_shift_len": 9}, UnusedInput, "dynamic_shift_len and sigmas"),
        ("Qwen-Image", {"sigmas": [0.5, 1.0]}, InputError, "descending"),
    ],
)  # fmt: skip
def test_wrong_steps_are_refused(template, options, error, says):
    steps = options.get("num_inference_steps", 4)
    with pytest.raises(error) as raised:
        set_to(template, steps, **{k: v for k, v in options.items() if k != "num_inference_steps"})
    assert says in str(raised.value)


def test_an_unknown_template_is_refused_with_the_nearest():
    with pytest.raises(
        UnknownInput, match=r"no template 'Qwen-Imag'; did you mean 'Qwen-Image'\? The templates are FLUX"
    ):
        FlowMatchScheduler("Qwen-Imag")


def test_steps_must_be_set_first():
    with pytest.raises(MissingInput, match=r"no timesteps were set yet; call scheduler.set_timesteps"):
        _ = FlowMatchScheduler().timesteps


def test_a_step_finds_its_level_by_a_rounded_timestep_but_not_by_an_ambiguous_one():
    few, many = set_to("Wan", 30), set_to("Wan", 1000)
    for index, timestep in enumerate(few.timesteps):
        assert few.index_of(timestep.bfloat16()) == few.index_of(timestep) == index
    with pytest.raises(InputError, match=r"was rounded to torch\.bfloat16 and could be any of"):
        many.index_of(many.timesteps[300].bfloat16())
    with pytest.raises(InputError, match="timestep 3 is not one of this schedule's, which go from 1000"):
        few.index_of(3)
    with pytest.raises(InputError, match="give one timestep, got 2"):
        few.index_of(few.timesteps[:2])


@pytest.mark.parametrize("index", [-1, 5])
def test_a_step_that_there_is_none_of_is_refused(index):
    scheduler, sample = set_to("Wan", 5), torch.zeros(1, 1, 2, 2)
    with pytest.raises(InputError, match=f"the steps of this schedule are 0 to 4, got {index}"):
        scheduler.step_at(index, sample, sample)


def test_to_final_goes_to_the_end_at_once():
    scheduler = set_to("Wan", 5)
    sample, velocity = torch.full((1, 1, 2, 2), 3.0), torch.ones(1, 1, 2, 2)
    moved = scheduler.step(velocity, scheduler.timesteps[2], sample, to_final=True)
    assert torch.allclose(moved, sample - scheduler.sigmas[2])


def test_returning_to_a_clean_sample_is_the_velocity_of_it():
    scheduler = set_to("Wan", 5)
    clean, noise = torch.randn(2, 1, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    noised = scheduler.add_noise(clean, noise, scheduler.timesteps[1])
    velocity = scheduler.return_to_timestep(scheduler.timesteps[1], noised, clean)
    assert torch.allclose(velocity, scheduler.training_target(clean, noise), atol=1e-5)


def test_training_weights_are_a_bell_with_a_mean_of_one():
    scheduler = set_to("Wan", 1000, training=True)
    weights = torch.stack([scheduler.training_weight(t) for t in scheduler.timesteps])
    x = scheduler.timesteps
    bell = torch.exp(-2 * ((x - 500) / 1000) ** 2)
    bell = bell - bell.min()
    assert scheduler.training and torch.allclose(weights, bell * 1000 / bell.sum(), atol=1e-4)
    assert weights.mean() == pytest.approx(1.0, abs=1e-4)
    assert set_to("Wan", 1, training=True).training_weight(1000) == 1
    with pytest.raises(InputError, match="set_timesteps\\(1000, training=True\\)"):
        set_to("Wan", 4).training_weight(1000)


def test_a_template_has_the_levels_that_it_was_trained_on_and_those_between():
    template = TEMPLATES["Z-Image"]
    assert len(template.training()) == 1000 and template.training().here[0].sigma == 1.0
    assert template.level(250.0).sigma == 0.25 and template.of_ratio(3.0).sigma == pytest.approx(0.75)
    assert TEMPLATES["Boogu"].level(0.25).sigma == 0.75


def test_it_is_a_scheduler_of_ours_too():
    assert repr(FlowMatchScheduler("Wan")) == "FlowMatchScheduler('Wan')"
    levels = FlowMatchScheduler("Wan").schedule(6, start=0.5)
    assert levels.sigmas[:-1] == pytest.approx(set_to("Wan", 6, denoising_strength=0.5).sigmas.tolist())
    with pytest.raises(InputError, match="asked with steps, a strength or sigmas"):
        FlowMatchScheduler("Wan").schedule(6, start_sigma=0.5)
