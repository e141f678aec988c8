"""What is said to who types what pipelines of other libraries have."""

import functools
import inspect
import re

import pytest

import calotype
from calotype import DiffusionPipeline, TextToImagePipeline
from calotype.errors import UnknownInput
from calotype.pipelines.habits import METHODS, OPTIONS
from calotype.pipelines.loading.pretrained import LOADING
from stubs import text_to_image


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("load_lora_weights", "TextToImagePipeline has no 'load_lora_weights'; write load_adapter(file, name)"),
        ("load_lora_weight", "TextToImagePipeline has no 'load_lora_weight'; write load_adapter(file, name)"),
        ("enable_model_cpu_offload", 'from_pretrained(..., memory="8GiB")'),
        ("transfomer", "has no 'transfomer'; did you mean 'transformer'?; its components are tokenizer, text_encoder"),
        ("steam", "has no 'steam'; did you mean 'stream'?"),
        ("zzz", "has no 'zzz'; its components are tokenizer, text_encoder, transformer, vae, scheduler"),
    ],
)
def test_an_attribute_that_a_pipeline_has_not(name, said):
    with pytest.raises(AttributeError, match=re.escape(said)):
        getattr(TextToImagePipeline(), name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("safety_checker", "has no component 'safety_checker'; no pipeline here has one: leave the line out; its"),
        ("image_encoder", "has no component 'image_encoder'; insert the pack of IP-Adapter, which brings one"),
        ("transfomer", "has no component 'transfomer'; did you mean 'transformer'?; its components are tokenizer"),
    ],
)
def test_a_component_that_a_pipeline_has_not_is_set(name, said):
    with pytest.raises(AttributeError, match=re.escape(said)):
        setattr(TextToImagePipeline(), name, None)


def test_a_component_that_pipelines_of_other_libraries_have_is_read():
    with pytest.raises(AttributeError, match=r"has no 'safety_checker'; no pipeline here has one: leave the line out$"):
        _ = TextToImagePipeline().safety_checker


def test_asking_whether_there_is_an_attribute_stays_a_question():
    pipe = text_to_image()
    assert not hasattr(pipe, "__array__") and not hasattr(pipe, "load_lora_weights")
    assert getattr(pipe, "vaes", None) is None


def test_what_is_missing_within_a_property_is_said():
    class Free(DiffusionPipeline):
        @property
        def width(self):
            return self.components_of_mine

        @functools.cached_property
        def height(self):
            return self.scheduler.height

        scheduler = object()

    with pytest.raises(AttributeError, match="Free has no 'components_of_mine'"):
        _ = Free().width
    with pytest.raises(AttributeError, match="'object' object has no attribute 'height'"):
        _ = Free().height
    with pytest.raises(AttributeError, match="'Free' object has no attribute '_kept'"):
        _ = Free()._kept


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_loading_has_not(name):
    with pytest.raises(UnknownInput, match=rf"no component or option '{name}'\. [A-Z].*") as error:
        DiffusionPipeline.from_pretrained("calotype/emoji-64", **{name: "auto"})
    assert "did you mean" not in str(error.value) and "Its components" not in str(error.value)


def test_the_advice_names_what_there_is():
    known = {name for cls in (DiffusionPipeline, TextToImagePipeline) for name in dir(cls)}
    called = {name for said in METHODS.values() for name in re.findall(r"(?:pipe\.|write )(\w+)\(", said)}
    assert called - {"pipe", "OtherPipeline"} <= known and len(called) > 5
    loading = {*LOADING, *inspect.signature(DiffusionPipeline.__init__).parameters}
    keywords = {name for said in OPTIONS.values() for name in re.findall(r"(\w+)=", said)}
    assert keywords <= loading
    assert not {*METHODS, *OPTIONS} & {*known, *loading, *calotype.__all__}
