"""Drawings of a graph."""

import xml.etree.ElementTree as ET

import pytest

from calotype.errors import InputError
from calotype.graph.inputs import Inputs
from calotype.graph.unit import unit
from calotype.pipelines.base import DiffusionPipeline
from stubs import Encoder, TextToImage, define, text_to_image


def test_text():
    lines = TextToImage.draw().splitlines()
    assert lines[0] == "TextToImage(prompt, negative_prompt='', guidance_scale=3.0, steps=4)"
    assert lines[1] == "   embeds  [encoder]  prompt -> embeds"
    assert lines[5] == " * denoise [scheduler, net]  embeds, guidance_scale, latents, sigmas, seed -> latents"
    assert lines[-1] == "components: encoder: Encoder, net: Net, scheduler: Scheduler"


def test_what_may_be_none_is_marked():
    class Text(Inputs):
        text: str | None = None

    @unit
    def shown(text: str | None) -> str:
        return text or ""

    assert "shown  text? -> shown" in define(shown, inputs=Text).draw()


def test_svg_is_well_formed_and_whole():
    root = ET.fromstring(TextToImage.draw("svg"))
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"prompt", "embeds", "denoise", "image"} <= texts
    width, height = int(root.attrib["width"]), int(root.attrib["height"])
    boxes = root.findall(".//{http://www.w3.org/2000/svg}rect")
    assert all(int(b.attrib["x"]) + int(b.attrib["width"]) <= width for b in boxes)
    assert all(int(b.attrib["y"]) + int(b.attrib["height"]) <= height for b in boxes)
    places = [(b.attrib["x"], b.attrib["y"]) for b in boxes]
    assert len(places) == len(set(places))


def test_names_are_escaped():
    class Text(Inputs):
        text: str

    def odd(text: str) -> str:
        """Less < more & "quotes"."""
        return text

    drawn = define(unit(odd), inputs=Text, name="A<b>", encoder=Encoder).draw("svg")
    titles = [element.text for element in ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["A<b>", 'Less < more & "quotes".\ninputs: text']


def test_a_notebook_shows_the_drawing():
    shown = text_to_image()._repr_html_()
    assert shown == TextToImage.draw("html") and shown.startswith("<figure>") and "<svg" in shown

    class Free(DiffusionPipeline):
        pass

    assert Free()._repr_html_() is None


def test_unknown_form():
    with pytest.raises(
        InputError, match=r"draw: form must be one of text, svg, html, got 'svgg'; did you mean 'svg'\?"
    ):
        TextToImage.draw("svgg")
