"""Guidance policies alone: equal to the reference's guiders on the same tensors (1e-6), and what each must keep."""

import math

import pytest
import torch

from calotype.errors import InputError
from calotype.graph.branches import POSITIVE, Branch
from calotype.nn.perturbation import Perturbation
from calotype.sampling import (
    APG,
    AutoGuidance,
    CFGZeroStar,
    ClassifierFree,
    Guidance,
    NoGuidance,
    PerturbedAttention,
    Rescaled,
    SkipLayers,
    StatefulGuidance,
    Step,
    TextAndImage,
    Weak,
    Within,
)
from calotype.sampling.guidance.policy import advance
from calotype.sampling.guidance.predictions import Predictions
from calotype.sampling.moves import Mix
from calotype.sampling.parameterization import Epsilon, Flow, Sample, VPrediction

TWINS = frozenset({"prompt"})
AS_IT_IS = Mix(0.0, 1.0)
"""The network's output is the clean sample, as the reference's guiders take it to be."""


def step(index=0, count=10, sigma=1.0):
    return Step(index, count, sigma, 0.0, 0.5)


def outputs(*names, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(2, 3, 4, 4, generator=generator) for name in ("positive", *names)}


def predictions(*names, seed=0, reading=AS_IT_IS):
    found = outputs("x", *names, seed=seed)
    return Predictions({n: v for n, v in found.items() if n != "x"}, found["x"], reading)


def guider(name, step=0, **settings):
    module = pytest.importorskip("diffusers.guiders")
    made = getattr(module, name)(**settings)
    made.set_state(step=step, num_inference_steps=10, timestep=torch.tensor(0))
    return made.forward


def same(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


# -- beside the reference ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_classifier_free_equals_the_reference(rescale):
    found = outputs("negative")
    wanted = guider("ClassifierFreeGuidance", guidance_scale=6.0, guidance_rescale=rescale)
    same(
        ClassifierFree(6.0, rescale).combine(found, step()),
        wanted(found["positive"], found["negative"]).pred,
    )


@pytest.mark.parametrize("index", [0, 1, 2])
def test_zero_star_equals_the_reference(index):
    found = outputs("negative")
    wanted = guider("ClassifierFreeZeroStarGuidance", index, guidance_scale=4.0, zero_init_steps=2)
    made = CFGZeroStar(4.0, zero_steps=2).combine(found, step(index))
    same(made, wanted(found["positive"], found["negative"]).pred)
    assert bool((made == 0).all()) == (index < 2)


@pytest.mark.parametrize("values", [(0.0, -0.5, 3.0), (0.3, 0.4, 15.0), (1.0, -0.75, None), (0.0, 0.0, 2.5)])
def test_projected_guidance_equals_the_reference_over_several_steps(values):
    eta, momentum, threshold = values
    module = pytest.importorskip("diffusers.guiders.adaptive_projected_guidance")
    reference = guider(
        "AdaptiveProjectedGuidance",
        guidance_scale=6.0,  # its original formulation counts from 0, ours from 1 as classifier-free guidance does
        adaptive_projected_guidance_momentum=momentum,
        adaptive_projected_guidance_rescale=threshold or 0.0,
        eta=eta,
        use_original_formulation=True,
    )
    reference.__self__.momentum_buffer = module.MomentumBuffer(momentum)
    policy, state = APG(7.0, eta, momentum, threshold), None
    for index in range(3):
        found = predictions("negative", seed=index)
        made, state = policy.advance(found, step(index), state)
        torch.testing.assert_close(
            made, reference(found["positive"], found["negative"]).pred, rtol=1e-5, atol=1e-5 if index else 1e-6
        )


@pytest.mark.parametrize(
    ("policy", "name", "key"),
    [
        (PerturbedAttention, "PerturbedAttentionGuidance", "perturbed_guidance"),
        (SkipLayers, "SkipLayerGuidance", "skip_layer_guidance"),
    ],
)
def test_perturbed_branches_equal_the_reference(policy, name, key):
    found = outputs("negative", policy.branch)
    more = {f"{key}_start": 0.0, f"{key}_stop": 1.0, f"{key}_layers": [0]}
    both = guider(name, 1, guidance_scale=6.0, **{f"{key}_scale": 2.5}, **more)
    wanted = both(found["positive"], found["negative"], found[policy.branch]).pred
    same(policy(2.5, policy=ClassifierFree(6.0)).combine(found, step()), wanted)
    alone = guider(name, 1, guidance_scale=1.0, **{f"{key}_scale": 2.5}, **more)  # then counts from 1
    wanted = alone(found["positive"], None, found[policy.branch]).pred
    same(policy(1.5).combine(found, step()), wanted)


def test_autoguidance_equals_the_reference():
    found = outputs("weak")
    wanted = guider("AutoGuidance", guidance_scale=2.2, auto_guidance_layers=[0], dropout=1.0)
    same(AutoGuidance(2.2).combine(found, step()), wanted(found["positive"], found["weak"]).pred)


# -- what each must keep -----------------------------------------------------------------------------------------------

EVERY = [
    NoGuidance(),
    ClassifierFree(3.0),
    CFGZeroStar(3.0, zero_steps=0),
    APG(3.0),
    AutoGuidance(2.0),
    PerturbedAttention(2.0),
    SkipLayers(2.0, policy=ClassifierFree(3.0)),
    TextAndImage(7.5, 1.5),
    Rescaled(APG(3.0)),
    Within(CFGZeroStar(3.0), (0.2, 0.5)),
]


@pytest.mark.parametrize("policy", EVERY, ids=repr)
def test_every_policy_names_its_branches_and_changes_nothing_where_they_agree(policy):
    assert isinstance(policy, Guidance)
    names = [b.name for b in policy.branches(TWINS)]
    assert names[0] == POSITIVE.name and len(set(names)) == len(names)
    for index in range(10):
        active = policy.active(step(index))
        assert active[0] == POSITIVE.name and set(active) <= set(names)
    alike = outputs()["positive"]
    found = Predictions(dict.fromkeys(names, alike), torch.ones_like(alike), Flow().clean(0.4, 0.6))
    torch.testing.assert_close(policy.combine(found, step(3)), alike, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", [ClassifierFree(1.0), CFGZeroStar(1.0), APG(1.0), AutoGuidance(1.0)], ids=repr)
def test_scale_one_is_the_positive_branch_and_no_other(policy):
    found = predictions()
    assert policy.branches(TWINS) == (POSITIVE,) and policy.active(step()) == ("positive",)
    assert policy.combine(found, step()) is found["positive"]
    assert Rescaled(policy).combine(found, step()) is found["positive"]


@pytest.mark.parametrize("policy", [PerturbedAttention, SkipLayers])
def test_a_perturbation_of_scale_zero_is_the_other_policy(policy):
    found = outputs("negative")
    plain = ClassifierFree(4.0)
    off = policy(0.0, policy=plain)
    assert off.branches(TWINS) == plain.branches(TWINS) and off.active(step()) == plain.active(step())
    assert torch.equal(off.combine(found, step()), plain.combine(found, step()))


def test_a_perturbed_branch_has_the_positive_inputs_and_a_tag():
    assert PerturbedAttention(2.0).branches(TWINS)[1] == Branch(
        "perturbed", frozenset(), Perturbation("identity_attention")
    )
    assert SkipLayers(2.0, (3, 4)).branches(TWINS)[1].tag == Perturbation("skip", (3, 4))
    assert AutoGuidance(2.0).branches(TWINS)[1] == Branch("weak", frozenset(), Weak())


def test_the_interval_of_a_perturbation_leaves_the_other_policy_on():
    policy = SkipLayers(2.0, policy=ClassifierFree(3.0), interval=(0.0, 0.2))
    counts = [len(policy.active(step(i))) for i in range(10)]
    assert counts == [3, 3, 2, 2, 2, 2, 2, 2, 2, 2]
    found = outputs("negative")
    assert torch.equal(policy.combine(found, step(5)), ClassifierFree(3.0).combine(found, step(5)))


@pytest.mark.parametrize("inner", [ClassifierFree(9.0), APG(9.0), PerturbedAttention(3.0)], ids=repr)
def test_rescaled_has_the_spread_of_the_positive_branch(inner):
    found = predictions("negative", "perturbed")
    made = Rescaled(inner, 1.0).combine(found, step())
    assert not torch.allclose(inner.combine(found, step()).flatten(1).std(1), found["positive"].flatten(1).std(1))
    torch.testing.assert_close(made.flatten(1).std(1), found["positive"].flatten(1).std(1))


def test_rescaled_classifier_free_is_its_own_rescale():
    found = outputs("negative")
    same(Rescaled(ClassifierFree(5.0), 0.6).combine(found, step()), ClassifierFree(5.0, 0.6).combine(found, step()))


def test_within_counts_by_progress_and_by_noise():
    by_progress = Within(ClassifierFree(3.0), (0.2, 0.5))
    assert [i for i in range(10) if len(by_progress.active(step(i))) == 2] == [2, 3, 4]
    by_noise = Within(ClassifierFree(3.0), sigmas=(0.3, 0.8))
    assert [s for s in (0.2, 0.3, 0.31, 0.8, 0.9) if len(by_noise.active(step(sigma=s))) == 2] == [0.31, 0.8]
    found = predictions()
    assert by_noise.combine(found, step(sigma=0.9)) is found["positive"]


def test_a_paused_policy_keeps_its_state():
    policy = Within(APG(5.0), sigmas=(0.3, 0.8))
    _, state = policy.advance(predictions("negative"), step(sigma=0.5), None)
    assert state is not None
    _, after = policy.advance(predictions(), step(sigma=0.9), state)
    assert after is state


@pytest.mark.parametrize("reading", [Flow(), Epsilon(), VPrediction(), Sample()], ids=lambda r: type(r).__name__)
def test_projected_guidance_with_nothing_taken_out_is_classifier_free(reading):
    found = predictions("negative", reading=reading.clean(0.8, 0.6))
    made = APG(6.0, eta=1.0, momentum=0.0, norm_threshold=None).combine(found, step())
    torch.testing.assert_close(made, ClassifierFree(6.0).combine(found, step()), rtol=1e-5, atol=1e-5)


def test_projected_guidance_adds_nothing_along_the_clean_sample_and_is_no_longer_than_told():
    found = predictions("negative", reading=Flow().clean(0.4, 0.6))
    clean = found.clean("positive")
    made = APG(2.0, momentum=0.0, norm_threshold=1.5).combine(found, step())
    update = Predictions({"positive": made}, found.latents, found.reading).clean("positive") - clean
    along = (update * clean).flatten(1).sum(1) / clean.flatten(1).norm(dim=1)
    torch.testing.assert_close(along, torch.zeros(2), atol=1e-5, rtol=0)
    assert (update.flatten(1).norm(dim=1) <= 1.5 + 1e-5).all() and (update.flatten(1).norm(dim=1) > 1.0).all()


def test_momentum_lies_in_the_state_alone():
    policy = APG(5.0, momentum=-0.5)
    first, second = predictions("negative"), predictions("negative", seed=1)
    _, state = policy.advance(first, step(), None)
    alone, _ = policy.advance(second, step(1), None)
    after, _ = policy.advance(second, step(1), state)
    assert not torch.allclose(alone, after)
    again, _ = policy.advance(second, step(1), None)
    assert torch.equal(alone, again)
    assert isinstance(policy, StatefulGuidance) and advance(NoGuidance(), second, step(), None)[1] is None


def test_a_learned_variance_passes_through_projected_guidance():
    found = predictions("negative", reading=Epsilon().clean(0.8, 0.6))
    wide = {n: torch.cat([v, torch.full_like(v, i)], 1) for i, (n, v) in enumerate(found.items())}
    made = APG(4.0).combine(Predictions(wide, found.latents, found.reading), step())
    assert torch.equal(made[:, 3:], wide["positive"][:, 3:])
    assert torch.equal(made[:, :3], APG(4.0).combine(found, step()))


def test_zero_star_brings_the_negative_as_close_as_it_gets():
    found = outputs("negative")
    made = CFGZeroStar(0.0, zero_steps=0).combine(found, step())  # the scaled negative alone
    residual = (found["positive"] - made).flatten(1)
    torch.testing.assert_close((residual * found["negative"].flatten(1)).sum(1), torch.zeros(2), atol=1e-4, rtol=0)
    found["negative"] = torch.zeros_like(found["negative"])
    assert CFGZeroStar(3.0, zero_steps=0).combine(found, step()).isfinite().all()


@pytest.mark.parametrize("policy", [p for p in EVERY if not isinstance(p, NoGuidance)], ids=repr)
def test_an_item_is_guided_alike_in_every_batch(policy):
    found = predictions("negative", "perturbed", "skipped", "weak", "no_text", "neither")
    alone = Predictions({n: v[1:] for n, v in found.items()}, found.latents[1:], found.reading)
    torch.testing.assert_close(policy.combine(found, step(3))[1:], policy.combine(alone, step(3)))


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: APG(math.nan), "guidance scale must be a finite number, got nan"),
        (lambda: APG("5"), "guidance scale must be a finite number, got '5'"),
        (lambda: APG(5.0, momentum=-1.0), "APG: momentum must be more than -1 and less than 1, got -1.0"),
        (lambda: APG(5.0, norm_threshold=0.0), "APG: norm_threshold must be above 0 or None, got 0.0"),
        (lambda: CFGZeroStar(5.0, zero_steps=-1), "CFGZeroStar: zero_steps must be a whole number from 0, got -1"),
        (lambda: CFGZeroStar(5.0, zero_steps=True), "zero_steps must be a whole number from 0, got True"),
        (lambda: AutoGuidance(math.inf), "guidance scale must be a finite number, got inf"),
        (lambda: PerturbedAttention(math.nan), "PerturbedAttention: scale must be a finite number, got nan"),
        (lambda: SkipLayers(1.0, layers=(1, 1)), r"SkipLayers: layers must be indices of blocks, .* got \(1, 1\)"),
        (lambda: SkipLayers(1.0, layers=(-1,)), "SkipLayers: layers must be indices of blocks"),
        (lambda: SkipLayers(1.0, policy=3.0), r"SkipLayers: policy must be a guidance policy, .*, got 3.0"),
        (lambda: SkipLayers(1.0, interval=(0.5, 0.2)), "guidance interval must be two increasing numbers"),
        (lambda: Rescaled(ClassifierFree(3.0), 1.2), "Rescaled: amount must be between 0 and 1, got 1.2"),
        (lambda: Rescaled(ClassifierFree), "Rescaled: policy must be a guidance policy"),
        (lambda: Within(ClassifierFree(3.0), (0.5, 0.5)), "guidance interval must be two increasing numbers"),
        (lambda: Within(ClassifierFree(3.0), sigmas=(0.5,)), r"Within: sigmas must be two noise levels"),
        (lambda: Within(ClassifierFree(3.0), sigmas=(0.5, 0.1)), "Within: sigmas must be two increasing noise levels"),
    ],
)
def test_values_out_of_range_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_projected_guidance_needs_to_know_the_clean_samples():
    with pytest.raises(TypeError, match="APG works on clean samples, so it needs Predictions"):
        APG(5.0).combine(outputs("negative"), step())
