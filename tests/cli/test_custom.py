"""Commands that run a model with code of others."""

from pathlib import Path

from calotype.weights.code.consent import Consent
from calotype.weights.code.locate import SHIPPED, locate
from hub import Hub

FLAGS = ("--other-prompt", "a fox", "--seed", "1", "--steps", "1")


def test_a_pipeline_that_ships_has_its_own_flags_and_is_replayed(run) -> None:
    made = run("generate", "--custom-pipeline", "morph", "a cat", *FLAGS, "-o", "m.png")
    assert made.exit_code == 0, made.output
    assert run("replay", "m.png").stdout == "identical\n"
    assert "MorphPipeline" in run("inspect", "--custom-pipeline", "morph").stdout
    free = run("generate", "--custom-pipeline", "one_step_unet")
    assert free.exit_code == 1
    assert "one_step_unet is for UnetSchedulerOneForwardPipeline, a free-form pipeline" in free.stderr


def test_a_file_is_given_again_to_be_replayed(run, here: Path) -> None:
    text = (SHIPPED / "morph.py").read_text()
    (here / "mine.py").write_text(text + "# mine, for the command line")
    assert run("generate", "--custom-pipeline", "./mine.py", "a cat", *FLAGS, "-o", "m.png").exit_code == 0
    refused = run("replay", "m.png")
    assert refused.exit_code == 1 and "calotype replay m.png --custom-pipeline ./mine.py" in refused.stderr
    assert run("replay", "m.png", "--custom-pipeline", "./mine.py").stdout == "identical\n"
    (here / "jobs.jsonl").write_text('"a cat"\n')
    many = ("generate", "--custom-pipeline", "./mine.py", "--prompts", "jobs.jsonl", "-o", "out", *FLAGS)
    assert run(*many).exit_code == 0 and run(*many).exit_code == 0
    (here / "mine.py").write_text(text + "# changed")
    other = run(*many)
    assert other.exit_code == 1 and "the code of its pipeline is another" in other.stderr


def test_code_on_a_hub_is_approved_first(run, hub: Hub) -> None:
    commit = hub.add("a/morph", {"pipeline.py": (SHIPPED / "morph.py").read_text()})
    call = ("generate", "--custom-pipeline", "a/morph", "a cat", *FLAGS, "-o", "m.png")
    refused = run(*call)
    assert refused.exit_code == 1 and f"calotype trust a/morph@{commit}" in refused.stderr
    Consent().approve(locate("a/morph", commit))
    assert run(*call, "--custom-revision", commit).exit_code == 0
    assert run("replay", "m.png").stdout == "identical\n"
    alone = run("generate", "a cat", "--custom-revision", "main")
    assert alone.exit_code == 1 and "is of a custom_pipeline=, which was not given" in alone.stderr
