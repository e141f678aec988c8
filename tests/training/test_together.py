"""Units that every step runs, run once for all rows of a batch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from torch import Tensor

from calotype import TextToImagePipeline
from calotype.errors import GraphError, InputError
from calotype.graph.hints import Pad
from calotype.graph.unit import unit
from calotype.pipelines.latents import CleanLatents, latents, sigmas
from calotype.pipelines.pictures import Picture
from calotype.sampling import Denoise
from calotype.training import FullWeights, LogitNormal, Muon, Row, Trainer, TrainingConfig
from calotype.training.items import Items
from calotype.training.objective import Denoising
from calotype.training.together import joint_rows, joint_units, joint_values
from calotype.training.wires import trained_wires
from training.runs import saved
from training.small import SmallPipeline, Words, image, image_latents, noise, rows, small, start, velocity

CALLS: list[int] = []


def embeds_of_all(prompt: Sequence[str], *, words: Words) -> Tensor:
    CALLS.append(len(prompt))
    return torch.cat([words(one) for one in prompt])


@unit(together=embeds_of_all)
def embeds(prompt: str, *, words: Words) -> Tensor:
    """Encode one prompt."""
    return words(prompt)


class Joint(SmallPipeline):
    units = (embeds, noise, image_latents, start, sigmas, latents, Denoise(velocity), image)


BOTH = {
    "target": FullWeights(component=("words", "net"), result="component"),
    "optimizer": {"kind": "adamw", "rate": 1e-2}, "dropout": {"prompt": 0.3}, "average": 0.9,
}  # fmt: skip


def test_a_unit_of_a_trained_component_runs_once_for_a_batch() -> None:
    assert [u.name for u in joint_units(Joint.graph, trained_wires(Joint.graph, ["words"]))] == ["embeds"]
    assert joint_units(SmallPipeline.graph, trained_wires(SmallPipeline.graph, ["words"])) == ()
    frozen = trained_wires(Joint.graph, ["net"])
    assert joint_units(Joint.graph, frozen) == ()  # its values are those of a cache


def test_a_unit_that_reads_what_later_ones_write_again_runs_row_by_row() -> None:
    """The picture that a call is given is on the wire of the one that it makes."""

    @unit(random=True, together=lambda image, size: torch.zeros(len(image), 3, size[0], size[0]))
    def image_latents(image: Picture, size: int) -> CleanLatents:
        return CleanLatents(torch.zeros(1, 3, size, size))

    class Drawing(SmallPipeline):
        units = tuple(image_latents if one.name == "image_latents" else one for one in SmallPipeline.units)

    wires = trained_wires(Drawing.graph, ["net"])
    assert "image_latents" in {node.name for node in wires.live} and joint_units(Drawing.graph, wires) == ()


def test_a_list_of_what_each_row_has_is_one_batch() -> None:
    """Also where rows are of different lengths, which the type of the wire evens out."""

    def of_all(prompt: Sequence[str]) -> list[Tensor]:
        return [torch.full((1, len(one), 2), float(len(one))) for one in prompt]

    @unit(together=of_all)
    def letters(prompt: str) -> Annotated[Tensor, Pad(1)]:
        return of_all([prompt])[0]

    made = joint_values(letters, [{"prompt": "a"}, {"prompt": "abc"}], {})["letters"]
    assert made.tolist() == [[[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]], [[3.0, 3.0]] * 3]


def test_all_at_once_gives_the_run_that_row_by_row_does(tmp_path: Path) -> None:
    found = []
    for cls in (SmallPipeline, Joint):
        CALLS.clear()
        Trainer(small(cls), rows(), tmp_path / cls.__name__, steps=4, batch=3, **BOTH).train(progress=False)
        found.append(saved(tmp_path / cls.__name__))
    assert CALLS == [3, 1, 3, 1]
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-5, atol=1e-6)


def test_the_embedded_model_encodes_texts_together(tmp_path: Path) -> None:
    """The same conditions and gradients as text by text."""
    pipe = TextToImagePipeline.from_pretrained("calotype/emoji-64", dtype="float32", device="cpu")
    wires = trained_wires(pipe._graph(), ["text_encoder", "transformer"])
    texts = ["a red apple", "", "two cats"]
    given = [Row(text, {"prompt": text}, given={"image_latents": torch.zeros(1, 16, 8, 8)}) for text in texts]
    items = Items(pipe, wires)
    batch = items.batch(given, [row.inputs for row in given])
    alone = [pipe.units[0](text, tokenizer=pipe.tokenizer, text_encoder=pipe.text_encoder) for text in texts]
    assert batch.clean.shape == (3, 16, 8, 8)
    for name in ("prompt_embeds", "prompt_mask", "pooled_embeds"):
        torch.testing.assert_close(batch.conditions[name], torch.cat([getattr(one, name) for one in alone]))
    assert batch.conditions["prompt_embeds"].requires_grad
    assert [u.name for u in joint_units(pipe._graph(), wires)] == ["prompt_embeds"]


def test_a_unit_that_is_skipped_for_all_makes_nothing_and_for_some_is_refused() -> None:
    words = small().words
    assert joint_values(embeds, [{"prompt": None}] * 2, {"words": words}) == {"embeds": None}
    with pytest.raises(InputError, match="embeds is skipped for some rows of a batch and not for others"):
        joint_values(embeds, [{"prompt": None}, {"prompt": "a"}], {"words": words})


@pytest.mark.parametrize(("shape", "shown"), [((1, 2), r"\(1, 2\)"), ((), r"\(\)")])
def test_another_number_of_rows_is_refused(shape: tuple[int, ...], shown: str) -> None:
    @unit(together=lambda prompt, *, words: torch.zeros(shape))
    def short(prompt: str, *, words: Words) -> Tensor:
        return torch.zeros(1, 2)

    each = [{"prompt": "a"}, {"prompt": "b"}]
    for joint in (joint_values, joint_rows):
        with pytest.raises(GraphError, match=rf"short together made 'short' of shape {shown} for 2 rows"):
            joint(short, each, {"words": small().words})


def test_what_all_rows_take_must_have_the_parameters_of_what_one_takes() -> None:
    with pytest.raises(GraphError, match="of the same parameters, prompt, words, got text"):

        @unit(together=lambda text: text)
        def wrong(prompt: str, *, words: Words) -> Tensor:
            return words(prompt)


def test_other_names_keep_it() -> None:
    assert embeds.renamed(prompt="other").together is embeds_of_all
    assert embeds.named("text").together is embeds_of_all


def test_several_components_are_trained_saved_and_gone_on_with(tmp_path: Path) -> None:
    """Also by Muon, whose matrices are told by the component's name, and into a folder for each."""
    settings: dict[str, Any] = {
        **BOTH, "optimizer": Muon(matrices=r"^net\.to_q"), "objective": Denoising(times=LogitNormal()), "batch": 2,
        "checkpoint_every": 2, "recompute": True,
    }  # fmt: skip
    pipe = small(Joint)
    before = {name: value.clone() for name, value in (pipe.words.state_dict() | pipe.net.state_dict()).items()}
    result = Trainer(pipe, rows(), tmp_path / "whole", steps=6, **settings).train(progress=False)
    assert [path.name for path in result.files] == ["words", "net"]
    assert all((path / "config.json").is_file() for path in result.files)
    after = pipe.words.state_dict() | pipe.net.state_dict()
    assert not any(torch.equal(before[name], after[name]) for name in before if "drop" not in name)
    Trainer(small(Joint), rows(), tmp_path / "parts", steps=2, **settings).train(progress=False)
    Trainer(small(Joint), rows(), tmp_path / "parts", steps=6, **settings).train(resume=True, progress=False)
    whole, parts = saved(tmp_path / "whole"), saved(tmp_path / "parts")
    assert {name.partition(".")[0] for name in whole if not name[0].isdigit()} == {"words", "net", "average"}
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_one_component_twice_or_none_is_refused() -> None:
    with pytest.raises(ValueError, match="names one twice: net, net"):
        FullWeights(component=("net", "net"))
    with pytest.raises(ValueError, match="at least 1 item"):
        FullWeights(component=())


def test_several_components_go_through_a_file() -> None:
    """As `calotype train` hands a run on to another process."""
    fields = {"pipeline": "calotype/emoji-64", "data": {"kind": "folder", "path": "."}, "output": "run", "steps": 1,
              "target": {"kind": "full", "component": ["text_encoder", "transformer"]}}  # fmt: skip
    config = TrainingConfig.model_validate(fields)
    assert config.target.components == ("text_encoder", "transformer")
    assert TrainingConfig(**json.loads(config.model_dump_json())) == config
