"""What a reviewer finds."""

from pathlib import Path

import pytest
from PIL import Image

from calotype.community import emphasis
from calotype.errors import RepositoryError
from calotype.sharing.review import Review, review
from calotype.weights.code.locate import SHIPPED, shipped_names

GOOD = '''
"""A pipeline."""
from calotype import DiffusionPipeline

class Mine(DiffusionPipeline):
    """Says what it has."""

    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    def __call__(self, scale=1.0):
        """Returns scale times the width of the network."""
        return scale * self.unet.config.block_out_channels[0]
'''


@pytest.fixture
def reviewed(tmp_path: Path):
    def reviewed(text: str, **options: object) -> Review:
        (tmp_path / "mine.py").write_text(text)
        return review(tmp_path / "mine.py", **options)  # type: ignore[arg-type]

    return reviewed


def refusals(found: Review) -> dict[str, str]:
    return {finding.check: finding.found for finding in found.findings if not finding.passed}


def test_a_good_one_passes(reviewed) -> None:
    found = reviewed(GOOD, call={"scale": 2.0})
    assert found.passed and [f.check for f in found.findings] == ["packages", "import", "documented", "runs"]
    assert found.made is type(found.tried)


GREY = {"image": Image.new("RGB", (64, 64), "grey"), "strength": 0.5}
CALLS = {
    "composable": {"also": "a heart:0.5"},
    "differential": {**GREY, "change_map": Image.new("L", (64, 64), 128)},
    "edict": {**GREY, "source_prompt": "a green apple"},
    "emphasis": {"emphasis": "red:1.5"},
    "prompt_to_prompt": {"source": "a red apple"},
    "regional_prompts": {"regions": {"a heart": (0.0, 0.0, 0.5, 1.0)}},
    "soft_mask": {**GREY, "mask": Image.new("L", (64, 64), 255), "mask_blur": 2.0},
    "style_aligned": {"style": "a red apple"},
}  # fmt: skip
"""What packs are tried with: without their own inputs their units are skipped."""
ELSEWHERE = {"clip_guided_stable_diffusion"}
"""What needs components that neither ship nor are small: tried in its own tests."""


@pytest.mark.parametrize("name", shipped_names())
def test_what_ships_passes(name: str) -> None:
    found = review(SHIPPED / f"{name}.py", call=CALLS.get(name))
    assert refusals(found).keys() == ({"runs"} if name in ELSEWHERE else set()), refusals(found)
    assert len((SHIPPED / f"{name}.py").read_text().splitlines()) < 200


@pytest.mark.parametrize(
    ("change", "check", "message"),
    [
        (("class Mine", "import socket\nsocket.create_connection(('127.0.0.1', 9))\nclass Mine"), "import",
         "it reaches for the network when it is imported: socket.getaddrinfo"),
        (("class Mine", "import socket\ntry: socket.gethostbyname('a.b')\nexcept OSError: pass\nclass Mine"), "import",
         "it reaches for the network when it is imported: socket.gethostbyname"),
        (("class Mine", "class Other(DiffusionPipeline): pass\nclass Mine"), "import",
         "defines 2 pipelines, Other, Mine"),
        (("class Mine", "import scipy\nclass Mine"), "packages",
         'declare it at the top .*\n.*\n# dependencies = ."scipy".'),
        (("class Mine", "# /// script\n# dependencies = ['no-such']\n# ///\nclass Mine"), "packages",
         "needs the package no-such, which is not installed"),
        (('"""A pipeline."""', ""), "documented", "say what the file .a docstring at its top. is"),
        (('    """Says what it has."""', ""), "documented", "the class Mine .its docstring. is"),
        (("scale times", "some times"), "documented", "the argument scale .in the docstring of __call__. is"),
        (("return scale", "return missing"), "runs", "NameError: name 'missing' is not defined"),
        (("unet, scheduler):", "unet, scheduler, upscaler):"), "runs",
         "Mine needs 'upscaler', for which there is no small one here; give --weights"),
    ],
)  # fmt: skip
def test_what_does_not_pass(reviewed, change: tuple[str, str], check: str, message: str) -> None:
    assert change[0] in GOOD
    found = refusals(reviewed(GOOD.replace(*change, 1)))
    assert set(found) >= {check}
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found[check])


def test_declared_packages_may_be_imported(reviewed) -> None:
    header = "# /// script\n# dependencies = ['scipy>=1']\n# ///\n"
    assert reviewed(header + GOOD.replace("class Mine", "import scipy\nclass Mine")).passed


def test_inputs_without_a_description(reviewed) -> None:
    source = Path(emphasis.__file__).read_text()
    bare = source.replace('description="The same for the negative prompt."', 'description=""')
    found = refusals(reviewed(bare, call={"emphasis": "red:2"}))
    assert found == {"documented": "say what the input negative_emphasis (Field(description=...)) is"}
    assert "skips emphasised (emphasis is None); give its inputs in --call" in refusals(reviewed(source))["runs"]


def test_guests_and_files_that_are_none(reviewed, tmp_path: Path) -> None:
    guest = GOOD.replace("from calotype", "from diffusers")
    assert "it is a pipeline of diffusers" in refusals(reviewed(guest))["import"]
    with pytest.raises(RepositoryError, match="there is no file or folder"):
        review(tmp_path / "none.py")


def test_tried_over_weights_of_the_callers_choice(reviewed) -> None:
    found = reviewed(GOOD, weights="calotype/emoji-64")
    assert "the pipeline needs 'unet', but the index does not list it" in refusals(found)["runs"]


SD = '''
"""Stable Diffusion, and a pack for it."""
from calotype import StableDiffusionPipeline

class Mine(StableDiffusionPipeline):
    """Stable Diffusion as it is."""
'''


def test_stable_diffusion_is_tried_over_weights_of_its_own(reviewed, tmp_path: Path) -> None:
    import diffusers

    from tiny_sd import reference_pipeline

    reference_pipeline(diffusers.StableDiffusionPipeline).save_pretrained(tmp_path / "sd")
    found = reviewed(SD, weights=str(tmp_path / "sd"))
    assert not refusals(found) and found.tried is not None and found.tried.units
    assert "for which there is no small one here; give --weights" in refusals(reviewed(SD))["runs"]
