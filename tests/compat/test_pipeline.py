"""`BasePipeline`: its declarations checked when it is made and when it is called, and what it offers to a call."""

import threading
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from calotype import FlowMatchEuler
from calotype.compat.diffsynth import BasePipeline, FlowMatchScheduler, PipelineUnit
from calotype.compat.diffsynth.calls import uses_any_keyword
from calotype.errors import ComponentError, ComponentNotLoaded, GraphError, InputError, MissingInput, UnknownInput
from compat.small import Latents, Net, Noise, Prompt, Small, Text, Vae, model_fn, small, unit

# -- declarations ------------------------------------------------------------------------------------------------------


def reads(*names, writes=("b",), **declared):
    """A unit that reads names without defaults."""
    source = f"def process(pipe, {', '.join(names)}): return {{}}"
    space = {}
    exec(source, space)
    return unit(space["process"], input_params=names, output_params=writes, **declared)


def model_fn_twice(dit, controlnet, latents, timestep, prompt_emb):
    return dit(latents, prompt_emb, timestep)


def model_fn_typo(dit, latents, timestep, prompt_embb):
    return dit(latents, prompt_embb, timestep)


BAD_UNIT = type("BadUnit", (PipelineUnit,), {"__init__": lambda self: None, "process": lambda self, pipe: {}})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"more": [reads("heigth")]},
         "Small: Unit reads inputs_shared['heigth'], which nothing provides; did you mean 'height'"),
        ({"more": [reads("depth_map")]}, "give 'depth_map' a default in process if it may be left out"),
        ({"units": [Latents(), Noise(), Prompt()]}, "Latents reads 'noise', which Noise makes, but Noise runs later"),
        ({"more": [reads("noise", writes=("prompt_emb",))]}, "Unit overwrites 'prompt_emb' from Prompt without"),
        ({"more": [reads("noise", writes=("height",))]}, "Unit overwrites 'height' from the inputs without reading it"),
        ({"more": [reads("prompt_emb")]},
         "reads 'prompt_emb' from inputs_shared, but Prompt makes it for each side; give seperate_cfg=True"),
        ({"more": [unit(lambda pipe, n: {}, seperate_cfg=True, input_params_posi={"n": "noise"},
                        input_params_nega={"n": "noise"})]},
         "reads 'noise' from inputs_posi, but Noise puts it in inputs_shared; read it with input_params"),
        ({"more": [reads("noise", onload_model_names=("text_encodr",))]},
         "Unit: onload_model_names names 'text_encodr', which Small has no model of; did you mean 'text_encoder'"),
        ({"more": [Latents]}, "Small.units holds the class Latents; write Latents()"),
        ({"more": [model_fn]}, "which is not a PipelineUnit"),
        ({"more": [BAD_UNIT()]}, "BadUnit.__init__ must call super().__init__"),
        ({"units": 3}, "Small.units must be a list of units, got int"),
        ({"in_iteration_models": "dit"}, "in_iteration_models is a tuple of names, got a text; write ('dit',)"),
        ({"in_iteration_models": ("dti",)}, "names 'dti', which Small has no model of; did you mean 'dit'"),
        ({"in_iteration_models": ("dit", "controlnet")},
         "in_iteration_models names 'controlnet', which model_fn does not take"),
        ({"loop": model_fn_twice},
         "model_fn_twice takes the model 'controlnet', which is not in Small.in_iteration_models"),
        ({"loop": model_fn_typo},
         "model_fn_typo takes 'prompt_embb', which no unit and no input of Small provides; did you mean 'prompt_emb'"),
    ],
)  # fmt: skip
def test_wrong_declarations_are_refused_when_the_pipeline_is_made(options, says):
    with pytest.raises(GraphError) as raised:
        Small(**options)
    assert says in str(raised.value)


def test_they_are_refused_again_when_it_is_called():
    pipe = small()
    pipe.units.append(reads("heigth"))
    with pytest.raises(GraphError, match="did you mean 'height'"):
        pipe("a")
    pipe.units.pop()
    pipe.in_iteration_models = ()
    with pytest.raises(GraphError, match=r"takes the model 'dit', which is not in Small\.in_iteration_models"):
        pipe("a")


def test_a_model_that_keywords_take_is_used_only_where_they_are():
    def used(dit, latents, timestep, prompt_emb, **kwargs):
        return dit(latents, prompt_emb, timestep) + (0 if kwargs["controlnet"] is None else 1)

    assert small(loop=used, in_iteration_models=("dit", "controlnet"))("a", seed=0).size == (8, 8)


def test_a_model_is_set_under_a_name_that_was_declared():
    pipe = small()
    with pytest.raises(
        GraphError, match=r"Small has no model 'dti'; did you mean 'dit'\?; declare one with self\.dti = "
    ):
        pipe.dti = Net()
    pipe.tokenizer = str  # what is no network may be added


def test_a_model_fn_is_a_function():
    with pytest.raises(GraphError, match=r"Small\.model_fn must be a function, got 3"):
        small().model_fn = 3


def test_a_pipeline_without_a_call_may_have_units_that_read_anything():
    class NoCall(BasePipeline):
        def __init__(self):
            super().__init__(device="cpu")
            self.units = [reads("anything")]

    assert NoCall().units


def test_keywords_of_a_model_fn_without_code_may_be_used():
    assert uses_any_keyword(partial(model_fn)) and not uses_any_keyword(model_fn)
    assert not uses_any_keyword(model_fn_twice)


def test_a_constructor_that_forgets_its_base_is_refused():
    class Forgets(BasePipeline):
        def __init__(self):
            self.dit = None

    with pytest.raises(GraphError, match=r"Forgets.__init__ must call super\(\).__init__"):
        Forgets()


def test_a_pipeline_without_a_call_is_checked_as_far_as_it_goes():
    class NoCall(BasePipeline):
        def __init__(self):
            super().__init__(device="cpu")
            self.units = [reads("anything", onload_model_names=("vea",))]
            self.vae = None

    with pytest.raises(GraphError, match="which NoCall has no model of; did you mean 'vae'"):
        NoCall()


# -- calls -------------------------------------------------------------------------------------------------------------


def test_a_call_is_repeated_by_its_seed():
    one, two, other = (np.asarray(small()("a red apple", seed=s)) for s in (1, 1, 2))
    assert np.array_equal(one, two) and not np.array_equal(one, other)


def test_the_progress_bar_sees_every_timestep():
    seen = []

    def bar(steps):
        for step in steps:
            seen.append(float(step))
            yield step

    pipe = small()
    pipe("a", seed=0, num_inference_steps=3, progress_bar_cmd=bar)
    pipe.scheduler.set_timesteps(3)
    assert seen == pipe.scheduler.timesteps.tolist()


def test_what_a_call_sets_on_the_scheduler_is_its_own():
    pipe = small()
    pipe.scheduler.set_timesteps(7)
    pipe("a", seed=0, num_inference_steps=2)
    assert len(pipe.scheduler.timesteps) == 7


def test_two_threads_on_one_pipeline_get_what_each_would_alone():
    pipe = small()
    asked = [(f"prompt {k}", k, 2 + k % 4) for k in range(8)]
    alone = {a: np.asarray(pipe(a[0], seed=a[1], num_inference_steps=a[2])) for a in asked}
    gate, found, failed = threading.Barrier(len(asked)), {}, []

    def meet(steps):
        for step in steps:
            if step == 1000:
                gate.wait(timeout=10)  # all have set their steps before any goes on
            yield step

    def call(a):
        try:
            found[a] = np.asarray(pipe(a[0], seed=a[1], num_inference_steps=a[2], progress_bar_cmd=meet))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=call, args=(a,)) for a in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and all(np.array_equal(found[a], alone[a]) for a in asked)


def test_nothing_is_set_on_the_pipeline_during_a_call():
    class Keeps(Small):
        def __call__(self, prompt, **inputs):
            self.height = 8
            return super().__call__(prompt, **inputs)

    with pytest.raises(GraphError, match=r"Keeps sets pipe\.height during a call, which other calls would see"):
        small(cls=Keeps)("a")


def test_a_call_of_the_base_is_part_of_the_call():
    class Louder(Small):
        def __call__(self, prompt, **inputs):
            image = super().__call__(prompt + "!", **inputs)
            return image, len(self.scheduler.timesteps)

    pipe = small(cls=Louder)
    image, steps = pipe("a", seed=0, num_inference_steps=3)
    assert steps == 3 and pipe.text_encoder.texts == ["a!", ""]
    assert np.array_equal(np.asarray(image), np.asarray(small()("a!", seed=0, num_inference_steps=3)))


@pytest.mark.parametrize("name", ["text_encoder", "dit", "vae"])
def test_a_model_that_a_call_needs_and_that_is_not_loaded_is_an_error(name):
    pipe = small()
    setattr(pipe, name, None)
    with pytest.raises(ComponentNotLoaded) as raised:
        pipe("a", seed=0)
    assert repr(name) in str(raised.value) and f"set pipe.{name} = ..." in str(raised.value)


def test_a_loop_model_that_is_not_loaded_is_named_where_model_fn_uses_it():
    def controlled(dit, latents, timestep, prompt_emb, controlnet):
        return controlnet(latents, prompt_emb, timestep)

    pipe = small(loop=controlled, in_iteration_models=("dit", "controlnet"))
    with pytest.raises(ComponentNotLoaded, match=r"Small\.model_fn needs 'controlnet', but this Small was loaded"):
        pipe("a", seed=0)


def lenient(dit, latents, timestep, prompt_emb, controlnet=None, controlnet_image=None, **kwargs):
    """Ignores its adapter's input where the adapter is not loaded."""
    control = 0 if controlnet is None or controlnet_image is None else controlnet.weight
    return dit(latents, prompt_emb, timestep) + control


def test_the_input_of_an_adapter_of_the_loop_that_is_not_loaded_is_not_ignored():
    pipe = small(loop=lenient, in_iteration_models=("dit", "controlnet"))
    picture = Image.new("RGB", (8, 8))
    for ask in (pipe, pipe.plan):
        with pytest.raises(ComponentNotLoaded) as raised:
            ask(prompt="a", seed=0, controlnet_image=picture)
        says = "Small.model_fn would ignore 'controlnet_image', as this Small was loaded without 'controlnet'"
        assert says in str(raised.value)
    without = np.asarray(pipe("a", seed=0, controlnet_image=[]))
    pipe.controlnet = Net()
    assert not np.array_equal(np.asarray(pipe("a", seed=0, controlnet_image=picture)), without)


def test_model_fn_keeps_its_own_errors_and_its_name():
    def broken(dit, latents, timestep, prompt_emb):
        raise TypeError("its own")

    pipe = small(loop=broken)
    assert pipe.model_fn.__name__ == "broken"
    with pytest.raises(TypeError, match="its own"):
        pipe("a", seed=0)
    with pytest.raises(GraphError, match="model_fn was given the model 'vae', which is not in Small"):
        pipe.model_fn(dit=pipe.dit, vae=pipe.vae)


def test_guidance_of_one_predicts_the_positive_side_alone():
    pipe = small()
    assert np.array_equal(np.asarray(pipe("a", seed=0, cfg_scale=1)), np.asarray(pipe("a", "b", seed=0, cfg_scale=1.0)))
    assert "b" not in pipe.text_encoder.texts


def test_a_call_within_a_call_of_the_same_pipeline_has_steps_of_its_own():
    class Twice(Small):
        def __call__(self, prompt, again=True, **inputs):
            def bar(steps):
                for number, step in enumerate(steps):
                    if again and number == 1:
                        self(prompt, again=False, seed=5, num_inference_steps=2)
                    yield step

            return super().__call__(prompt, **inputs, progress_bar_cmd=bar)

    wanted = small()("a", seed=0, num_inference_steps=4)
    found = small(cls=Twice)("a", seed=0, num_inference_steps=4)
    assert np.array_equal(np.asarray(found), np.asarray(wanted))


def test_a_unit_keeps_nothing_of_a_call():
    class Keeps(Latents):
        def process(self, pipe, noise):
            self.last = noise
            return {"latents": noise}

    with pytest.raises(GraphError, match=r"Keeps sets self\.last during a call, which other calls would see"):
        small(units=[Noise(), Prompt(), Keeps()])("a", seed=0)


def test_a_call_is_a_plain_method():
    with pytest.raises(GraphError, match=r"Yields\.__call__ must be a plain method that returns its result"):

        class Yields(Small):
            def __call__(self, prompt):
                yield prompt


# -- steps and values --------------------------------------------------------------------------------------------------


def test_noise_is_drawn_where_and_as_asked():
    pipe = small()
    noise = pipe.generate_noise((2, 3), seed=5, rand_torch_dtype=torch.float64)
    wanted = torch.randn(2, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert noise.dtype is torch.float32 and torch.equal(noise, wanted.float())
    half = pipe.generate_noise((2, 3), seed=5, torch_dtype=torch.bfloat16)
    assert half.dtype is torch.bfloat16
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        free = pipe.generate_noise((2, 3))
        torch.manual_seed(3)
        assert torch.equal(free, torch.randn(2, 3))
    with pytest.raises(InputError, match="device 'cuda:9' is not there"):
        pipe.generate_noise((2, 3), seed=5, rand_device="cuda:9")


def test_a_step_keeps_what_the_mask_leaves_out():
    pipe, scheduler = small(), FlowMatchScheduler("Wan")
    scheduler.set_timesteps(4)
    clean, noise = torch.randn(2, 1, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([1.0, 0.0]).expand(1, 1, 2, 2)
    latents = scheduler.add_noise(clean, noise, scheduler.timesteps[0])
    for k in range(4):
        latents = pipe.step(
            scheduler, latents=latents, progress_id=k, noise_pred=torch.ones_like(latents), input_latents=clean,
            inpaint_mask=mask, other="ignored",
        )  # fmt: skip
    assert torch.allclose(latents[..., 1], clean[..., 1], atol=1e-5)
    assert torch.allclose(latents[..., 0], noise[..., 0] - 1, atol=1e-5)


def test_a_step_takes_other_schedulers_too():
    other = FlowMatchEuler(shift=5.0)
    other.set_timesteps(4)
    latents, velocity = torch.ones(1, 3, 2, 2), torch.full((1, 3, 2, 2), 2.0)
    moved = small().step(other, latents=latents, progress_id=0, noise_pred=velocity)
    assert torch.allclose(moved, latents + 2 * (other.sigmas[1] - other.sigmas[0]))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"progress_id": 0, "noise_pred": 0}, "step needs 'latents', which is None; no unit made it"),
        ({"latents": 0, "progress_id": 0}, "step needs 'noise_pred', which is None"),
        ({"latents": 0, "progress_id": 0, "noise_pred": 0, "inpaint_mask": 1}, "inpaint_mask was given, but"),
    ],
)  # fmt: skip
def test_a_step_needs_its_values(given, says):
    scheduler = FlowMatchScheduler()
    scheduler.set_timesteps(2)
    with pytest.raises(MissingInput) as raised:
        small().step(scheduler, **given)
    assert says in str(raised.value)


def test_sizes_are_refused_and_not_rounded():
    pipe = small()
    assert pipe.check_resize_height_width(128, 64) == (128, 64)
    with pytest.raises(InputError, match="height must be a multiple of 64, got 1000; nearest is 1024"):
        pipe.check_resize_height_width(1000, 64)
    with pytest.raises(InputError, match="width must be a multiple of 64, got 0; nearest is 64"):
        pipe.check_resize_height_width(64, 0)
    pipe.time_division_factor, pipe.time_division_remainder = 4, 1
    assert pipe.check_resize_height_width(64, 64, 81) == (64, 64, 81)
    with pytest.raises(InputError, match="num_frames must be a multiple of 4 plus 1, got 80; nearest is 81"):
        pipe.check_resize_height_width(64, 64, 80)


def test_training_some_models_freezes_the_others():
    pipe = small()
    pipe.freeze_except(["dit"])
    assert pipe.dit.training and pipe.dit.weight.requires_grad
    assert not pipe.text_encoder.training and not pipe.text_encoder.weight.requires_grad
    with pytest.raises(UnknownInput, match="freeze_except: Small has no model 'dti'; did you mean 'dit'"):
        pipe.freeze_except(["dti"])
    with pytest.raises(ComponentNotLoaded, match="'controlnet' is to be trained, but was not loaded"):
        pipe.freeze_except(["controlnet"])


def test_converting_a_pipeline_converts_models_and_values():
    pipe = small()
    assert pipe.to(torch.bfloat16) is pipe and pipe.to("cpu") is pipe
    assert pipe.dit.weight.dtype is torch.bfloat16 and pipe.generate_noise((1,), seed=0).dtype is torch.bfloat16
    with pytest.raises(InputError, match="torch_dtype must be a type, got 'auto'"):
        pipe.to(dtype="auto")


def test_it_says_what_it_holds():
    assert repr(small()) == "Small(text_encoder=Text, dit=Net, vae=Vae, controlnet=None)"
    assert {type(m) for m in small().models.values()} == {Text, Net, Vae, type(None)}


def test_what_a_unit_names_as_a_model_need_not_be_a_network():
    pipe = small()
    pipe.text_encoder, pipe.tokenizer = (lambda text: torch.full((1, 2, 4), float(len(text)))), str
    assert set(pipe.models) == {"text_encoder", "dit", "vae", "controlnet"}
    assert pipe("a", seed=0).size == (8, 8) and "text_encoder: Any" in pipe.draw()


def test_a_gpu_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(InputError, match="device 'cuda' is not there"):
        BasePipeline(device="cuda")


# -- what users get wrong ----------------------------------------------------------------------------------------------


def test_a_misspelled_keyword_of_a_call_is_refused_with_the_nearest():
    with pytest.raises(UnknownInput, match=r"Small takes no 'promt'; did you mean 'prompt'\?"):
        small()(promt="a")


@pytest.mark.parametrize("index", [-1, 4])
def test_a_step_that_there_is_none_of_is_refused(index):
    scheduler, latents = FlowMatchEuler(), torch.ones(1, 3, 2, 2)
    scheduler.set_timesteps(4)
    with pytest.raises(InputError, match=f"step: progress_id must be 0 to 3, got {index}"):
        small().step(scheduler, latents=latents, progress_id=index, noise_pred=latents)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seed": "a"}, "seed must be a whole number, got 'a'"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"device": "cuda:9"}, "device 'cuda:9' is not there"),
        ({"torch_dtype": "bf16"}, "write 'bfloat16'"),
        ({"rand_torch_dtype": torch.int8}, "must be a floating-point torch.dtype"),
    ],
)
def test_noise_that_cannot_be_drawn_is_refused(options, says):
    with pytest.raises(InputError) as raised:
        small().generate_noise((1, 2), **options)
    assert says in str(raised.value)


def test_types_are_taken_by_name():
    assert small().generate_noise((1, 2), seed=0, torch_dtype="bfloat16").dtype is torch.bfloat16


def test_a_size_is_a_whole_number():
    with pytest.raises(InputError, match=r"height must be a whole number, got 64\.0"):
        small().check_resize_height_width(64.0, 64)


def test_models_that_are_no_networks_are_left_as_they_are():
    pipe = small()
    pipe.text_encoder = len
    pipe.to(torch.bfloat16).freeze_except("dit")
    assert pipe.text_encoder is len and pipe.dit.weight.dtype is torch.bfloat16 and not pipe.vae.weight.requires_grad
    with pytest.raises(ComponentError, match="freeze_except: 'text_encoder' is a builtin_function_or_m"):
        pipe.freeze_except(["text_encoder"])
