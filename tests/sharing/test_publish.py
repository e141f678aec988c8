"""Pages, and repositories on a hub that others load from."""

from pathlib import Path
from typing import Any

import pytest

from calotype import DiffusionPipeline
from calotype.errors import InputError, RepositoryError, UntrustedCode
from calotype.sharing.card import page_of
from calotype.sharing.publish import publish
from calotype.sharing.review import Review, review
from calotype.weights.code.consent import Consent
from calotype.weights.code.locate import SHIPPED, locate
from hub import TOKEN, Hub


@pytest.fixture(scope="module")
def emphasis() -> Review:
    return review(SHIPPED / "emphasis.py", call={"emphasis": "red:1.5"})


@pytest.fixture
def logged_in(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


def test_a_page_says_what_it_is_how_it_is_used_and_what_it_takes(emphasis: Review) -> None:
    page = page_of(emphasis, "me/emphasis")
    assert list(page.files) == ["pipeline.py", "README.md", "graph.svg"]
    assert page.files["pipeline.py"] == (SHIPPED / "emphasis.py").read_bytes()
    assert page.files["graph.svg"].startswith(b"<svg")
    text = page.files["README.md"].decode()
    for part in (
        "library_name: calotype", "# emphasis\n\nMore or less of a word", 'pipe.with_units("me/emphasis")',
        "calotype trust me/emphasis", "![The units and what passes between them](graph.svg)", "emphasised",
        "| `emphasis` | str, or a list | `None` | How much of each word", page.code.digest,
    ):  # fmt: skip
        assert part in text, part
    assert "| `prompt` |" not in text, "a pack lists its own inputs"


def test_the_page_of_a_free_form_pipeline_and_of_helpers(tmp_path: Path) -> None:
    page = page_of(review(SHIPPED / "one_step_unet.py"), "me/one")
    assert set(page.files) == {"pipeline.py", "README.md"}
    assert "`pipe()`" in page.files["README.md"].decode()
    (tmp_path / "mine.py").write_text((SHIPPED / "one_step_unet.py").read_text() + "from .tools.pipeline import x\n")
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "pipeline.py").write_text("x = 1\n")
    assert set(page_of(review(tmp_path / "mine.py"), "me/one").code.files) == {"pipeline.py", "tools/pipeline.py"}
    (tmp_path / "pipeline.py").write_text("y = 1\n")
    (tmp_path / "mine.py").write_text((SHIPPED / "one_step_unet.py").read_text() + "from .pipeline import y\n")
    with pytest.raises(InputError, match=r"mine.py is called pipeline.py in a repository, which is also a helper"):
        page_of(review(tmp_path / "mine.py"), "me/one")


def test_published_approved_by_others_and_used(
    emphasis: Review, logged_in: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = publish(page_of(emphasis, "someone/emphasis"))
    assert code.revision in logged_in.repos["someone/emphasis"].commits
    assert Consent().covers(code) and Consent().approvals()[-1].reason == "shared"
    pipe: Any = DiffusionPipeline.from_pretrained("calotype/emoji-64")
    assert "emphasis" in pipe.with_units("someone/emphasis").Inputs.model_fields
    monkeypatch.setenv("CALOTYPE_HOME", str(tmp_path / "another user"))
    with pytest.raises(UntrustedCode):
        pipe.with_units("someone/emphasis")
    Consent().approve(locate("someone/emphasis"))
    assert "emphasis" in pipe.with_units("someone/emphasis").Inputs.model_fields


def test_what_cannot_be_published(emphasis: Review, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="--to 'emphasis' is not the id of a repository on a hub"):
        publish(page_of(emphasis, "emphasis"))
    with pytest.raises(RepositoryError, match=r"someone/x cannot be written: .*; run `hf auth login`, or set HF_TOKEN"):
        publish(page_of(emphasis, "someone/x"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.stop()
    with pytest.raises(RepositoryError, match="someone/x cannot be written"):
        publish(page_of(emphasis, "someone/x"))
    assert Consent().approvals() == ()
