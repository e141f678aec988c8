"""Pipelines of the dialect on the engine: plan, split, draw, and the same latents as their own call makes."""

import pytest
import torch

from calotype import Branches, FlowMatchEuler
from calotype.errors import (
    ComponentError,
    ComponentNotLoaded,
    GraphError,
    InputError,
    MissingInput,
    UnknownInput,
    UnusedInput,
)
from compat.small import Latents, Noise, Prompt, Small, model_fn, small, unit


def control(pipe, controlnet_image=None):
    if controlnet_image is None:
        return {}
    pipe.load_models_to_device(["controlnet"])
    return {"control": pipe.controlnet.weight}


def controlled():
    declared = {"input_params": ("controlnet_image",), "output_params": ("control",)}
    return unit(control, "Control", **declared, onload_model_names=("controlnet",))


def steered(dit, latents, timestep, prompt_emb, control=None, **kwargs):
    return dit(latents, prompt_emb, timestep) + (0 if control is None else control)


def with_control():
    return small(more=[controlled()], loop=steered)


class Strips:
    """A take-over unit: how far both sides are from their mean."""

    def __call__(self, writes=("spread",), **more):
        def process(pipe, inputs_shared, inputs_posi, inputs_nega):
            one, other = inputs_posi["prompt_emb"], inputs_nega.get("prompt_emb")
            inputs_shared["spread"] = 0.0 if other is None else float((one - other).abs().mean())
            return inputs_shared, inputs_posi, inputs_nega

        return unit(process, "Spread", take_over=True, input_params=("prompt_emb",), output_params=writes, **more)


def spreading(dit, latents, timestep, prompt_emb, spread, **kwargs):
    return dit(latents, prompt_emb, timestep) * (1 + spread)


def latents_of(pipe, *args, **inputs):
    """The latents that a call of the pipeline decodes."""
    seen = []
    decode = pipe.vae.decode
    pipe.vae.decode = lambda latents, device=None: (seen.append(latents), decode(latents))[1]
    pipe(*args, **inputs)
    del pipe.vae.decode
    return seen[0]


@pytest.mark.parametrize("scale", [4.0, 1.0])
@pytest.mark.parametrize("make", [small, with_control, lambda: small(more=[Strips()()], loop=spreading)])
def test_the_engine_makes_the_latents_that_the_call_makes(make, scale):
    pipe = make()
    inputs = {"seed": 3, "cfg_scale": scale, "num_inference_steps": 3, "denoising_strength": 0.8}
    if scale != 1:
        inputs["negative_prompt"] = "blue"
    wanted = latents_of(pipe, "a red apple", **inputs)
    result = pipe.engine(prompt="a red apple", **inputs)
    assert torch.equal(result.latents, wanted)


def test_a_plan_says_what_a_call_runs():
    plan = with_control().plan(prompt="a", seed=1)
    assert [n.name for n in plan.nodes] == ["set_timesteps", "Noise", "Prompt", "Latents", "Control", "steered"]
    assert plan.components == ("scheduler", "text_encoder", "dit")
    assert next(n for n in plan.nodes if n.name == "Prompt").runs == 2
    assert [b.name for b in plan.branches] == ["positive", "negative"]
    assert plan.bytes == 8 and plan.predicted_peak > 0


def test_a_unit_whose_result_nothing_reads_is_pruned_from_the_plan():
    plan = small(more=[controlled()], loop=lambda dit, latents, timestep, prompt_emb, **kwargs: 0).plan(prompt="a")
    assert plan.pruned == ("Control",)


def test_keywords_that_model_fn_touches_are_read():
    def forwards(dit, latents, timestep, prompt_emb, **kwargs):
        return dit(latents, prompt_emb, timestep, **{k: v for k, v in kwargs.items() if k == "control"})

    assert not small(more=[controlled()], loop=forwards).plan(prompt="a").pruned


def test_a_plan_refuses_what_the_call_would():
    pipe = with_control()
    with pytest.raises(UnknownInput, match="plan: 'promt' is not an input; did you mean 'prompt'"):
        pipe.plan(promt="a")
    with pytest.raises(ComponentNotLoaded, match=r"Control needs 'controlnet' \(because controlnet_image was given\)"):
        pipe.plan(prompt="a", controlnet_image=1)
    pipe.text_encoder = None
    with pytest.raises(ComponentNotLoaded, match=r"Prompt needs 'text_encoder' \(because prompt was given\)"):
        pipe.plan(prompt="a")
    with pytest.raises(InputError, match="cfg_scale must be one value for the whole call"):
        small().plan(prompt="a", cfg_scale=[1.0, 2.0])
    with pytest.raises(UnusedInput, match="negative_prompt was given, but guidance is off"):
        small().plan(prompt="a", negative_prompt="b", cfg_scale=1.0)


def test_inputs_that_only_the_code_of_the_call_reads_are_left_out_of_a_plan():
    assert "controlnet_image" not in small().engine.Inputs.model_fields
    assert small().plan(prompt="a", controlnet_image=1, progress_bar_cmd=list).pruned == ()


def test_a_split_caches_what_the_trained_models_do_not_touch():
    pipe = with_control()
    split = pipe.split(["dit"])
    assert split.cached == ("set_timesteps", "Prompt", "Control")
    assert split.live == ("Noise", "Latents", "steered")
    assert "prompt_emb" in split.wires and "control" in split.wires
    assert split.components == ("scheduler", "dit")
    assert "Prompt" in pipe.split(["text_encoder"]).live
    related, rest = pipe.split_pipeline_units(["text_encoder"])
    assert {u.name for u in related} == {"Noise", "Prompt", "Latents"} and [u.name for u in rest] == ["Control"]


def test_a_misspelled_trained_model_is_refused():
    with pytest.raises(ComponentError, match="split: 'dti' is not a component of Small; did you mean 'dit'"):
        small().split(["dti"])
    with pytest.raises(ComponentError, match="training 'vae' would change nothing"):
        small().split(["vae"])


def test_everything_that_a_take_over_unit_writes_depends_on_all_that_it_declares():
    pipe = small(more=[Strips()(onload_model_names=("controlnet",))], loop=spreading)
    assert "Spread" in pipe.split(["dit"]).cached
    assert "Spread" in pipe.split(["text_encoder"]).live
    assert "Spread" in pipe.split(["controlnet"]).live


def test_a_drawing_has_the_units_the_models_and_the_loop():
    text = with_control().draw()
    assert "Control" in text and "[controlnet]" in text and "* steered" in text
    assert with_control().draw("svg").startswith("<svg")
    with pytest.raises(InputError, match="form must be one of"):
        small().draw("png")


def test_the_engine_makes_several_images_and_remembers_prompts():
    pipe = small()
    two = pipe.engine(prompt="a", seed=3, num_images=2, num_inference_steps=2)
    assert pipe.text_encoder.texts == ["a", ""]
    one = pipe.engine(prompt="a", seed=4, num_inference_steps=2)
    assert pipe.text_encoder.texts == ["a", ""]
    assert torch.allclose(two["latents"][1], one.latents, atol=1e-5)


def test_the_engine_maps_over_prompts():
    inputs = {"seed": 3, "num_inference_steps": 2}
    pipe = small()
    both = pipe.engine(prompt=["a", "b"], negative_prompt="c", **inputs)
    alone = [pipe.engine(prompt=p, negative_prompt="c", **inputs).latents for p in ("a", "b")]
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(both["latents"], alone, strict=True))
    assert not torch.equal(*alone)


def test_the_engine_follows_the_pipeline():
    pipe = small()
    before = pipe.engine
    assert pipe.engine is before
    pipe.dit = type(pipe.dit)()
    assert pipe.engine is before and before.dit is pipe.dit
    pipe.units.append(controlled())
    assert "Control" in pipe.draw()


def same_key(pipe, prompt):
    return {"prompt_emb": pipe.text_encoder(prompt)}


def test_a_prompt_of_one_name_on_both_sides_has_the_twin_of_its_name():
    declared = {"input_params_posi": {"prompt": "prompt"}, "input_params_nega": {"prompt": "prompt"}}
    made = unit(same_key, "Prompt", seperate_cfg=True, **declared, output_params=("prompt_emb",),
                onload_model_names=("text_encoder",))  # fmt: skip
    pipe = small(units=[Noise(), made, Latents()])
    assert pipe.engine.graph.twins == {"prompt": "negative_prompt"}


def test_a_value_that_differs_by_side_can_be_read_on_both():
    declared = {"input_params_posi": {"emb": "prompt_emb"}, "input_params_nega": {"emb": "prompt_emb"}}
    longer = unit(lambda pipe, emb: {"prompt_emb": emb * 2}, "Longer", seperate_cfg=True, **declared,
                  output_params=("prompt_emb",))  # fmt: skip
    pipe = small(more=[longer])
    assert next(n for n in pipe.plan(prompt="a").nodes if n.name == "Longer").runs == 2
    inputs = {"seed": 3, "num_inference_steps": 2}
    assert torch.equal(pipe.engine(prompt="a", **inputs).latents, latents_of(pipe, "a", **inputs))


def test_two_units_of_one_class_have_names_of_their_own():
    pipe = small(more=[unit(lambda pipe, noise: {"b": 1}, input_params=("noise",), output_params=("b",)),
                       unit(lambda pipe, noise: {"c": 1}, input_params=("noise",), output_params=("c",))])  # fmt: skip
    assert pipe.plan(prompt="a").pruned == ("Unit", "Unit_2")


def _other_scheduler():
    pipe = small()
    pipe.scheduler = object()
    return pipe


def _twins(positive, negative):
    return unit(lambda pipe, x: {"y": x}, "Twins", seperate_cfg=True, input_params_posi={"x": positive},
                input_params_nega={"x": negative}, output_params=("y",))  # fmt: skip


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: small(loop=None), "Small has no model_fn, so there is no loop to plan"),
        (lambda: small(units=[Noise(), Prompt()]), "no unit makes 'latents', which the loop refines; add a unit"),
        (_other_scheduler, "Small.scheduler must be a FlowMatchScheduler or another scheduler of calotype's"),
        (lambda: small(more=[_twins("prompt_emb", "negative_prompt")]), "the engine cannot plan that"),
        (lambda: small(more=[_twins("prompt", "rand_device")]), "the negative of 'prompt' is 'negative_prompt' for"),
    ],
)  # fmt: skip
def test_what_the_engine_cannot_plan_says_so(make, says):
    with pytest.raises(GraphError) as raised:
        make().plan(prompt="a")
    assert says in str(raised.value)


class Computes(Small):
    """Its code provides a value that no parameter of its `__call__` is."""

    def __call__(self, prompt, seed=None, num_inference_steps=4, cfg_scale=1.0, negative_prompt=""):
        return self.inputs(prompt)

    def inputs(self, prompt):
        return {"words": len(prompt), "height": 8, "width": 8, "rand_device": "cpu"}


def both_sides(pipe, inputs_shared, inputs_posi, inputs_nega):
    """Doubles what each side has, by the length of what it was asked for."""
    inputs_posi["prompt_emb"] = inputs_posi["prompt_emb"] * len(inputs_posi["prompt"])
    if "prompt_emb" in inputs_nega:
        inputs_nega["prompt_emb"] = inputs_nega["prompt_emb"] * len(inputs_nega["negative_prompt"])
    return inputs_shared, inputs_posi, inputs_nega


@pytest.mark.parametrize("scale", [4.0, 1.0])
def test_a_take_over_unit_writes_each_side_in_the_engine_as_in_the_call(scale):
    names = ("prompt_emb", "prompt", "negative_prompt", "noise")
    made = unit(both_sides, "Lengths", take_over=True, input_params=names, output_params=("prompt_emb", "unused"))
    pipe = small(more=[made])
    inputs = {"seed": 3, "cfg_scale": scale, "num_inference_steps": 2}
    if scale != 1:
        inputs["negative_prompt"] = "blue"
    wanted = latents_of(pipe, "apple", **inputs)
    assert torch.equal(pipe.engine(prompt="apple", **inputs).latents, wanted)
    unused = pipe.engine(prompt="apple", **inputs, outputs=("latents", "unused")).unused
    assert unused == (Branches(positive=None, negative=None) if scale != 1 else None)


def test_a_take_over_unit_uses_the_levels_of_its_call_in_the_engine():
    def process(pipe, inputs_shared, inputs_posi, inputs_nega):
        inputs_shared["noise"] = inputs_shared["noise"] * pipe.scheduler.sigmas[0]
        return inputs_shared, inputs_posi, inputs_nega

    made = unit(process, "Scaled", take_over=True, input_params=("noise",), output_params=("noise",))
    pipe = small(units=[Noise(), Prompt(), made, Latents()])
    inputs = {"seed": 3, "num_inference_steps": 2, "denoising_strength": 0.5}
    assert torch.allclose(pipe.engine(prompt="a", **inputs).latents, latents_of(pipe, "a", **inputs))


class Given(Small):
    """Takes the latents to start from, and no strength."""

    def __call__(self, prompt, latents, negative_prompt="", cfg_scale=1.0, num_inference_steps=2):
        return prompt


def test_latents_may_be_an_input():
    pipe = small(cls=Given, units=[Prompt()])
    plan = pipe.plan(prompt="a", latents=torch.zeros(1, 3, 4, 4))
    assert [n.name for n in plan.nodes] == ["set_timesteps", "Prompt", "model_fn"]
    assert pipe.engine(prompt="a", latents=torch.zeros(1, 3, 4, 4), seed=0).latents.shape == (1, 3, 4, 4)


def test_what_only_the_code_of_a_call_provides_is_asked_for():
    counted = unit(lambda pipe, words: {"control": words}, input_params=("words",), output_params=("control",))
    pipe = small(cls=Computes, more=[counted], loop=steered)
    with pytest.raises(MissingInput, match=r"'words' is missing: Unit reads it.*Call Computes with"):
        pipe.plan(prompt="a")
    given = {"words": 1, "height": 8, "width": 8, "rand_device": "cpu"}
    assert pipe.plan(prompt="a", **given).components == ("scheduler", "text_encoder", "dit")


def test_guidance_needs_a_scale():
    class NoScale(Small):
        def __call__(self, prompt, negative_prompt, height, width, seed, rand_device, num_inference_steps):
            return prompt

    with pytest.raises(GraphError, match=r"NoScale\.__call__ has negative inputs, but takes no cfg_scale to guide by"):
        NoScale().draw()


def test_another_scheduler_of_ours_is_planned_with_too():
    def process(pipe, noise):
        return {"latents": noise * pipe.scheduler.init_noise_sigma}

    made = unit(process, "Latents", input_params=("noise",), output_params=("latents",))
    pipe = small(units=[Noise(), Prompt(), made])
    pipe.scheduler = FlowMatchEuler(shift=5.0)
    assert pipe.engine(prompt="a", seed=0, num_inference_steps=2).latents.shape == (1, 3, 8, 8)


def test_a_pipeline_without_a_call_or_a_count_of_steps_is_not_planned():
    class NoSteps(Small):
        def __call__(self, prompt):
            return prompt

    with pytest.raises(GraphError, match=r"NoSteps.__call__ takes no num_inference_steps"):
        NoSteps(loop=model_fn).draw()


def test_the_engine_refuses_a_unit_that_sets_the_steps():
    class Sets(Latents):
        def process(self, pipe, noise):
            pipe.scheduler.set_timesteps(2)
            return {"latents": noise}

    with pytest.raises(GraphError, match="a unit sets the scheduler's steps, which the engine has set already"):
        small(units=[Noise(), Prompt(), Sets()]).engine(prompt="a", seed=0)


def test_the_engine_takes_a_scale_that_is_a_number():
    with pytest.raises(InputError, match="cfg_scale must be a finite number, got 'four'"):
        small().engine(prompt="a", seed=0, cfg_scale="four")
