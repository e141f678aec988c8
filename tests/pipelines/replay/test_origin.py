"""Pictures that code of others made: their recipes name it, and only what was approved, or given, makes them again."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from calotype import DiffusionPipeline
from calotype.errors import RepositoryError, UntrustedCode
from calotype.pipelines.replay.again import replay
from calotype.pipelines.replay.origin import CodeRecord, code_behind
from calotype.pipelines.replay.recipe import read_recipe
from calotype.weights.code.consent import Consent
from calotype.weights.code.locate import SHIPPED, locate, shipped_code
from hub import Hub

MODEL = "calotype/emoji-64"
MORPH = (SHIPPED / "morph.py").read_text(encoding="utf-8")
EMPHASIS = (SHIPPED / "emphasis.py").read_text(encoding="utf-8")


def morphed(source: Any, path: Path) -> Path:
    pipe: Any = DiffusionPipeline.from_pretrained(MODEL, custom_pipeline=source)
    return pipe(prompt="a cat", other_prompt="a fox", seed=1, steps=1).save(path / "p.png")[0]


def emphasised(pipe: Any, source: Any, path: Path) -> Path:
    wider = pipe.with_units(source, after="prompt_embeds")
    return wider(prompt="a red apple", emphasis="red:2", seed=1, steps=1).save(path / "p.png")[0]


@pytest.fixture(scope="module")
def plain() -> Any:
    return DiffusionPipeline.from_pretrained(MODEL)


def test_what_is_of_calotype_alone_names_no_code(plain: Any) -> None:
    assert code_behind(type(plain)) == ()
    assert plain(prompt="a cat", seed=1, steps=1).recipe.code == ()


def test_a_shipped_pipeline_and_a_shipped_pack(plain: Any, tmp_path: Path) -> None:
    made = morphed("morph", tmp_path)
    [record] = read_recipe(made).code
    assert record == CodeRecord("morph", "morph.py", None, shipped_code("morph").digest)
    assert replay(made).identical
    made = emphasised(plain, "emphasis", tmp_path)
    [record] = read_recipe(made).code
    assert record == CodeRecord("emphasis", "emphasis.py", None, shipped_code("emphasis").digest, ("emphasised",))
    assert replay(made).identical and Consent().approvals() == ()


def test_from_a_hub_it_is_the_same_commit_once_approved(plain: Any, hub: Hub, tmp_path: Path) -> None:
    first = hub.add("a/morph", {"pipeline.py": MORPH + "# ours"})
    pack = hub.add("a/pack", {"pack.py": EMPHASIS + "# ours"})
    for code in (locate("a/morph", first), locate("a/pack:pack.py", pack)):
        Consent().approve(code)
    (tmp_path / "pack").mkdir()
    pictures = [morphed("a/morph", tmp_path), emphasised(plain, "a/pack:pack.py", tmp_path / "pack")]
    newer = hub.add("a/morph", {"pipeline.py": MORPH + "# newer"})
    Consent().approve(locate("a/morph", newer))
    assert [replay(picture).identical for picture in pictures] == [True, True]
    assert [read_recipe(picture).code[0].revision for picture in pictures] == [first, pack]
    for source in ("a/morph", "a/pack"):
        Consent().revoke(source)
    for picture, commit in zip(pictures, (first, pack), strict=True):
        with pytest.raises(UntrustedCode, match=commit):
            replay(picture)


def test_a_picture_does_not_decide_which_files_run(plain: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MORPH + "# mine")
    made = morphed(file, tmp_path)
    with pytest.raises(
        RepositoryError, match=r"was made with the code .*mine.py \(sha256:.* --custom-pipeline .*mine.py$"
    ):
        replay(made)
    assert replay(made, custom_pipeline=file).identical
    file.write_text(MORPH + "# changed")
    with pytest.raises(RepositoryError, match=r"was made with .*mine.py \(sha256:.*this MorphPipeline runs .*mine.py"):
        replay(made, custom_pipeline=file)
    file.write_text(EMPHASIS + "# mine")
    made = emphasised(plain, file, tmp_path)
    with pytest.raises(RepositoryError, match=r"with the units of .*mine.py .*insert them, and call .*replay"):
        replay(made)
    assert replay(made, pipe=plain.with_units(file, after="prompt_embeds")).identical
    file.write_text(EMPHASIS + "# changed")
    with pytest.raises(RepositoryError, match=r"was made with .*; this TextToImagePipeline.emphasised runs .*mine.py"):
        replay(made, pipe=plain.with_units(file, after="prompt_embeds"))


def test_code_that_the_weights_carry_is_found_with_them(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MORPH + "# carried")
    DiffusionPipeline.from_pretrained(MODEL, custom_pipeline=file).save_pretrained(tmp_path / "w")
    pipe: Any = DiffusionPipeline.from_pretrained(tmp_path / "w")
    made = pipe(prompt="a cat", other_prompt="a fox", seed=1, steps=1).save(tmp_path / "p.png")[0]
    assert replay(made).identical
    Consent().revoke(str(tmp_path / "w"))
    with pytest.raises(UntrustedCode):
        replay(made)


LOOKING = """
from calotype import Inputs, UnitPack, unit
from calotype.pipelines.latents import Latents


class More(Inputs):
    push: float | None = None


@unit
def pushed(latents: Latents, push: float) -> Latents:
    return Latents(latents * push)


PACK = UnitPack((), More, after_step=(pushed,))
"""


def test_a_pack_of_units_within_the_loop_alone(plain: Any, hub: Hub, tmp_path: Path) -> None:
    """It is named by its loop, inserted there again, and before or after another pack of the same loop."""
    commit = hub.add("a/push", {"pipeline.py": LOOKING})
    Consent().approve(locate("a/push", commit))
    pictures = []
    for number, packs in enumerate([("a/push", "differential"), ("differential", "a/push")]):
        wider = plain
        for name in packs:
            wider = wider.with_units(name)
        (tmp_path / str(number)).mkdir()
        call = {"prompt": "a cat", "image": plain(prompt="a dog", seed=1, steps=1).image, "strength": 1.0, "steps": 2}
        held = Image.new("L", (64, 64), 0)
        pictures += wider(**call, change_map=held, push=1.2, seed=1).save(tmp_path / str(number) / "p.png")
    recipes = [read_recipe(picture) for picture in pictures]
    assert "pushed" in recipes[1].pipeline
    assert [[record.units for record in recipe.code] for recipe in recipes] == [
        [("denoise.pushed",), ("change",)],
        [("change",), ("denoise.pushed",)],
    ]
    assert [replay(picture).identical for picture in pictures] == [True, True]
    with pytest.raises(RepositoryError, match=r"was made with .*a/push@.*; this .* runs "):
        replay(pictures[0], pipe=plain.with_units("differential"))
    assert Image.open(pictures[0]).tobytes() != Image.open(pictures[1]).tobytes()
