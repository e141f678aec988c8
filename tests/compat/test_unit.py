"""Units of the dialect: what they declare, and what running one by one makes of it."""

import pytest
import torch

from calotype.compat.diffsynth import PipelineUnit
from calotype.errors import ComponentNotLoaded, GraphError, MissingInput
from compat.small import Net, Prompt, Small, Text, small, unit


def run(made, shared=(), posi=(), nega=(), pipe=None):
    pipe = pipe or small()
    return pipe.unit_runner(made, pipe, dict(shared), dict(posi), dict(nega))


# -- the three modes ---------------------------------------------------------------------------------------------------


def test_a_direct_unit_reads_and_writes_what_is_shared():
    double = unit(lambda pipe, a: {"b": 2 * a}, input_params=("a",), output_params=("b",))
    given = {"a": 3, "z": 0}
    assert run(double, given, {"p": 1}, {"n": 2}) == ({"a": 3, "z": 0, "b": 6}, {"p": 1}, {"n": 2})
    assert given == {"a": 3, "z": 0}  # what was given is not changed


def test_a_separate_unit_runs_for_each_side():
    made = unit(
        lambda pipe, text, scale: {"length": len(text) * scale},
        seperate_cfg=True,
        input_params=("scale",),
        input_params_posi={"text": "prompt"},
        input_params_nega={"text": "negative_prompt"},
        output_params=("length",),
    )
    shared, posi, nega = run(made, {"scale": 10, "cfg_scale": 4}, {"prompt": "abc"}, {"negative_prompt": "z"})
    assert (shared, posi["length"], nega["length"]) == ({"scale": 10, "cfg_scale": 4}, 30, 10)


def test_a_separate_unit_does_not_run_for_a_side_that_guidance_does_not_need():
    pipe = small()
    _, posi, nega = run(Prompt(), {"cfg_scale": 1.0}, {"prompt": "a"}, {"negative_prompt": "b"}, pipe)
    assert pipe.text_encoder.texts == ["a"] and "prompt_emb" in posi and "prompt_emb" not in nega


def take(process, reads=("a",), writes=("b",), **declared):
    return unit(process, take_over=True, input_params=reads, output_params=writes, **declared)


def test_a_take_over_unit_gets_all_three_parts():
    def process(pipe, inputs_shared, inputs_posi, inputs_nega):
        inputs_posi["b"] = inputs_shared["a"] + 1
        inputs_nega.update(b=inputs_posi["b"] * 2)
        return inputs_shared, inputs_posi, inputs_nega

    assert run(take(process), {"a": 1, "z": 9}) == ({"a": 1, "z": 9}, {"b": 2}, {"b": 4})


def test_a_take_over_unit_may_return_mappings_of_its_own():
    def process(pipe, inputs_shared, inputs_posi, inputs_nega):
        return {**inputs_shared, "b": 5}, {}, {}

    assert run(take(process), {"a": 1, "z": 9}, {"p": 2}) == ({"a": 1, "z": 9, "b": 5}, {"p": 2}, {})


def test_a_take_over_unit_sees_only_what_it_declares():
    seen = []

    def process(pipe, inputs_shared, inputs_posi, inputs_nega):
        seen.append((dict(inputs_shared), inputs_shared.get("b"), "a" in inputs_posi, len(inputs_shared)))
        return inputs_shared, inputs_posi, inputs_nega

    run(take(process), {"a": 1, "secret": 2})
    assert seen == [({"a": 1}, None, False, 1)]


def test_a_unit_with_nothing_to_do_returns_an_empty_dict():
    idle = unit(lambda pipe, a=None: {}, input_params=("a",), output_params=("b",))
    assert run(idle, {"a": None}) == ({"a": None}, {}, {})


def test_a_name_that_nothing_provides_is_left_to_the_default_of_process():
    made = unit(lambda pipe, a, extra="default": {"b": extra}, input_params=("a", "extra"), output_params=("b",))
    assert run(made, {"a": 1})[0]["b"] == "default"
    assert run(made, {"a": 1, "extra": None})[0]["b"] is None


# -- wrong declarations ------------------------------------------------------------------------------------------------


def process_a(pipe, a):
    return {"b": a}


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"input_params": "a", "output_params": ("b",)}, "Unit: input_params is a tuple of names, got the text 'a'"),
        ({"input_params": ("a",), "output_params": "b"}, "output_params is a tuple of names, got the text 'b'"),
        ({"input_params": ("a",), "onload_model_names": "vae"}, "onload_model_names is a tuple of names"),
        ({"input_params": ("a", "a")}, "input_params has 'a' twice"),
        ({"input_params": ("a b",)}, "input_params holds 'a b', which is not a name"),
        ({"input_params": ("a",), "seperate_cfg": True, "take_over": True}, "Unit is both seperate_cfg and take_over"),
        ({"input_params": ("a",), "input_params_posi": {"a": "p"}}, "reads inputs_shared alone; give seperate_cfg"),
        ({"input_params": ("a",), "seperate_cfg": True}, "both sides would be the same; declare input_params_posi"),
        ({"seperate_cfg": True, "input_params_posi": {"a": "p"}}, "'a' is in only one of input_params_posi and"),
        ({"seperate_cfg": True, "input_params_posi": ("a",)}, "input_params_posi is a mapping from parameters"),
        ({"seperate_cfg": True, "input_params": ("a",), "input_params_posi": {"a": "p"},
          "input_params_nega": {"a": "n"}}, "a is both shared and of one side"),
        ({"input_params": ("a", "height")}, "declares the input 'height', which process does not take; add"),
        ({"input_params": ()}, "process takes 'a', which no declaration names; add it to input_params"),
        ({"input_params": {"a": "prompt"}}, "input_params is a tuple of names, got {'a': 'prompt'}"),
        ({"input_params": 3}, "input_params is a tuple of names, got 3"),
        ({"input_params": ("a",), "separate_cfg": True},
         "a PipelineUnit declares nothing called 'separate_cfg'; did you mean 'seperate_cfg'?"),
        ({"take_over": True},
         "process of a take-over unit takes inputs_shared, inputs_posi, inputs_nega, got a"),
    ],
)  # fmt: skip
def test_contradictions_are_refused_when_the_unit_is_made(declared, says):
    with pytest.raises(GraphError) as raised:
        unit(process_a, **declared)
    assert says in str(raised.value)


def test_a_misspelled_input_is_refused_with_the_nearest_parameter():
    with pytest.raises(
        GraphError, match="declares the input 'heigth', which process does not take; did you mean 'height'"
    ):
        unit(lambda pipe, height: {}, input_params=("heigth",))


def test_a_parameter_that_no_declaration_names_would_always_be_its_default():
    with pytest.raises(GraphError, match="process takes 'edit_imag', which no declaration names; did you mean 'edit_i"):
        unit(lambda pipe, edit_image=None, edit_imag=None: {}, input_params=("edit_image",))


@pytest.mark.parametrize("process", [lambda self: {}, lambda self, height: {}])
def test_a_process_takes_the_pipeline_first(process):
    made = type("Made", (PipelineUnit,), {"process": process})
    with pytest.raises(GraphError, match=r"Made: what process takes first is the pipeline; write process\(self, pipe"):
        made(input_params=("height",))


def test_a_unit_needs_a_process():
    with pytest.raises(GraphError, match="PipelineUnit does not define process"):
        PipelineUnit(input_params=("a",))


# -- units that do not do what they declare --------------------------------------------------------------------------


def test_a_missing_input_is_refused_with_the_nearest_name():
    made = unit(lambda pipe, heigth: {"b": heigth}, input_params=("heigth",), output_params=("b",))
    with pytest.raises(MissingInput, match=r"inputs_shared\['heigth'\], which nothing provides; did you mean 'height'"):
        run(made, {"height": 8})


def test_an_input_of_another_part_is_refused_with_its_place():
    made = unit(lambda pipe, prompt: {"b": prompt}, input_params=("prompt",), output_params=("b",))
    with pytest.raises(MissingInput, match=r"inputs_shared\['prompt'\].*it is in inputs_posi, so read it from there"):
        run(made, {}, {"prompt": "a"})


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({"noice": 1}, "Unit returned 'noice', which it does not declare; did you mean 'noise'?; add 'noice'"),
        ({"noise": 1, "extra": 2}, "Unit returned 'extra', which it does not declare; add 'extra' to output_params"),
        ({"noise": 1}, "Unit declares the output 'mask', but returned only noise; return mask=None where"),
        (None, "Unit: process must return a dict of its outputs, got NoneType; return {} where there is nothing to do"),
        ((1, 2, 3), "got tuple"),
    ],
)  # fmt: skip
def test_outputs_are_those_declared(made, says):
    wrong = unit(lambda pipe: made, output_params=("noise", "mask"))
    with pytest.raises(GraphError) as raised:
        run(wrong)
    assert says in str(raised.value)


def uses(expression, **declared):
    """A unit that evaluates something of the pipeline."""
    return unit(lambda pipe, a=None: {"b": expression(pipe)}, input_params=("a",), output_params=("b",), **declared)


def test_a_model_that_is_not_declared_cannot_be_used():
    with pytest.raises(
        GraphError, match="Unit uses the model 'vae', which is not in its onload_model_names; add 'vae'"
    ):
        run(uses(lambda pipe: pipe.vae))
    with pytest.raises(GraphError, match="uses the model 'text_encoder', which is not in its onload_model_names"):
        run(uses(lambda pipe: pipe.load_models_to_device(["text_encoder"]), onload_model_names=("vae",)))


def test_a_model_is_not_used_through_a_method_of_the_pipeline_either():
    pipe = small()
    type(pipe).decoded = lambda self: self.vae.decode(torch.zeros(1, 3, 2, 2))
    try:
        assert run(uses(lambda p: p.decoded(), onload_model_names=("vae",)), pipe=pipe)[0]["b"].sum() == 0
        with pytest.raises(GraphError, match="Unit uses the model 'vae'"):
            run(uses(lambda p: p.decoded()), pipe=pipe)
    finally:
        del type(pipe).decoded


def test_a_model_is_not_used_through_a_property_or_the_loop_either():
    class Wide(Small):
        @property
        def width(self):
            return self.vae.weight.shape[0]

    pipe = small(cls=Wide)
    assert run(uses(lambda p: p.width, onload_model_names=("vae",)), pipe=pipe)[0]["b"] == 1
    with pytest.raises(GraphError, match="Unit uses the model 'vae'"):
        run(uses(lambda p: p.width), pipe=pipe)
    for whole in ("engine", "model_fn"):
        with pytest.raises(GraphError, match=rf"Unit uses pipe\.{whole}, which runs the units and the loop"):
            run(uses(lambda p, name=whole: getattr(p, name)), pipe=pipe)


def test_a_unit_loads_only_models_that_there_are():
    with pytest.raises(GraphError, match=r"Unit uses pipe\.text_encodr, which Small does not have; did you mean"):
        run(uses(lambda pipe: pipe.load_models_to_device(["text_encodr"]), onload_model_names=("vae",)))


def test_a_unit_gets_its_own_models_by_name():
    pipe = small()
    seen = run(uses(lambda p: p.models, onload_model_names=("vae",)), pipe=pipe)[0]["b"]
    assert dict(seen) == {"vae": pipe.vae} and len(seen) == 1
    with pytest.raises(GraphError, match="Unit uses the model 'dit', which is not in its onload_model_names"):
        seen["dit"]


def test_a_unit_names_only_models_that_there_are():
    made = unit(process_a, input_params=("a",), output_params=("b",), onload_model_names=("text_encodr",))
    with pytest.raises(GraphError, match="'text_encodr', which Small has no model of; did you mean 'text_encoder'"):
        run(made, {"a": 1})


def test_a_given_input_whose_model_is_not_loaded_is_an_error_and_not_ignored():
    def process(pipe, controlnet_image=None):
        if controlnet_image is None:
            return {}
        pipe.load_models_to_device(["controlnet"])
        return {"control": pipe.controlnet(controlnet_image)}

    made = unit(process, "Control", input_params=("controlnet_image",), output_params=("control",),
                onload_model_names=("controlnet",))  # fmt: skip
    assert run(made, {"controlnet_image": None})[0] == {"controlnet_image": None}
    with pytest.raises(ComponentNotLoaded) as raised:
        run(made, {"controlnet_image": 1})
    assert (
        "Control needs 'controlnet' (because controlnet_image was given), but this Small was loaded without it"
        in str(raised.value)
    )
    assert "Add a ModelConfig of its files to model_configs, or set pipe.controlnet = ..." in str(raised.value)


def test_a_unit_decides_by_its_inputs_and_not_by_what_is_loaded():
    look = uses(lambda pipe: pipe.controlnet is None, onload_model_names=("controlnet",))
    with pytest.raises(ComponentNotLoaded, match=r"returns \{\} before it touches a model"):
        run(look, {"a": 1})


def test_a_unit_changes_nothing_on_the_pipeline():
    with pytest.raises(GraphError, match=r"Unit sets pipe\.cache, which every call would share"):
        run(uses(lambda pipe: setattr(pipe, "cache", 1)))


def test_a_unit_does_not_let_go_of_its_models_by_hand():
    with pytest.raises(GraphError, match=r"Unit calls pipe.load_models_to_device\(\[\]\)"):
        run(uses(lambda pipe: pipe.load_models_to_device([]), onload_model_names=("vae",)))


def test_a_unit_sees_the_rest_of_the_pipeline():
    pipe = small()
    pipe.tokenizer = "words"
    seen = uses(lambda p: (p.tokenizer, p.device.type, isinstance(p, type(pipe)), p.scheduler is pipe.scheduler))
    assert run(seen, pipe=pipe)[0]["b"] == ("words", "cpu", True, True)
    with pytest.raises(AttributeError, match=r"Unit uses pipe\.text_encodr, which Small does not have; did you mean"):
        run(uses(lambda p: p.text_encodr))
    assert run(uses(lambda p: hasattr(p, "nothing")))[0]["b"] is False


def touch(part, action):
    """A take-over unit that does something with one of the parts."""

    def process(pipe, inputs_shared, inputs_posi, inputs_nega):
        action({"shared": inputs_shared, "posi": inputs_posi, "nega": inputs_nega}[part])
        return inputs_shared, inputs_posi, inputs_nega

    return take(process, reads=("height", "wanted"), writes=("mask",))


@pytest.mark.parametrize(
    ("part", "action", "says"),
    [
        ("shared", lambda p: p["heigt"], "reads inputs_shared['heigt'] without declaring it; did you mean 'height'?"),
        ("shared", lambda p: p.get("width"), "reads inputs_shared['width'] without declaring it; add it to"),
        ("shared", lambda p: "width" in p, "reads inputs_shared['width'] without declaring it"),
        ("shared", lambda p: p["wanted"], "reads inputs_shared['wanted'], which nothing provides; write inputs_s"),
        ("posi", lambda p: p.update(masks=1), "writes inputs_posi['masks'] without declaring it; did you mean 'mask'?"),
        ("nega", lambda p: p.__setitem__("height", 1), "writes inputs_nega['height'] without declaring it; add it to"),
        ("shared", lambda p: p.pop("height"), "removes inputs_shared['height']; set it to None instead"),
    ],
)  # fmt: skip
def test_a_take_over_unit_touches_only_what_it_declares(part, action, says):
    with pytest.raises(GraphError) as raised:
        run(touch(part, action), {"height": 8, "width": 8})
    assert says in str(raised.value)


def test_a_declared_name_that_nothing_provides_is_none_for_get():
    seen = []
    run(touch("shared", lambda part: seen.append(part.get("wanted"))), {"height": 8})
    assert seen == [None]


@pytest.mark.parametrize(
    ("back", "says"),
    [
        (lambda s, p, n: None, "process must return inputs_shared, inputs_posi, inputs_nega, got NoneType"),
        (lambda s, p, n: (s, p), "got tuple"),
        (lambda s, p, n: (s, p, 1), "must return a mapping for inputs_nega, got int"),
        (lambda s, p, n: ({**s, "c": 1}, p, n), "writes inputs_shared['c'] without declaring it"),
        (lambda s, p, n: ({**s, "a": 2}, p, n), "writes inputs_shared['a'] without declaring it"),
    ],
)
def test_a_take_over_unit_returns_the_three_parts(back, says):
    made = take(lambda pipe, inputs_shared, inputs_posi, inputs_nega: back(inputs_shared, inputs_posi, inputs_nega))
    with pytest.raises(GraphError) as raised:
        run(made, {"a": 1})
    assert says in str(raised.value)


def test_a_name_is_in_one_part():
    made = unit(lambda pipe: {"prompt": 1}, output_params=("prompt",))
    with pytest.raises(GraphError, match="makes 'prompt', which is then in both inputs_shared and inputs_posi"):
        run(made, {}, {"prompt": "a"})


def test_models_are_held_while_a_unit_runs_and_not_after():
    pipe = small()
    held = []
    made = uses(lambda p: held.append(dict(pipe._residency._held)), onload_model_names=("vae",))
    run(made, pipe=pipe)
    assert held == [{id(pipe.vae): 1}] and not pipe._residency._held


def test_what_was_given_is_said_of_a_required_input_too():
    pipe = small()
    pipe.text_encoder = None
    with pytest.raises(ComponentNotLoaded, match=r"Prompt needs 'text_encoder' \(because prompt was given\)"):
        run(Prompt(), {}, {"prompt": "a"}, {"negative_prompt": ""}, pipe)
    pipe.text_encoder = Text()
    assert run(Prompt(), {}, {"prompt": "a"}, {"negative_prompt": ""}, pipe)[1]["prompt_emb"].shape == (1, 2, 4)
    assert isinstance(pipe.dit, Net)
