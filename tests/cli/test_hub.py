"""Commands with a model on a hub: the same as with a folder."""

from pathlib import Path

from hub import Hub


def test_a_model_on_a_hub(run, repo, hub: Hub, tmp_path: Path) -> None:
    commit = hub.add("someone/tiny", repo)
    local = run("generate", "--model", repo, "a red car", "--seed", "1", "--steps", "1", "--output", "local.png")
    assert local.exit_code == 0, local.output
    remote = run("generate", "--model", "someone/tiny", "a red car", "--seed", "1", "--steps", "1", "--output", "hub.png")
    assert remote.exit_code == 0, remote.output
    hub.add("someone/tiny", {"README.md": "gone"})
    again = run("replay", "hub.png")
    assert again.exit_code == 0, again.output
    assert run("inspect", f"someone/tiny@{commit}").exit_code == 0
    result = run("inspect", "someone/tiny")
    assert result.exit_code == 1
    assert "has no model_index.json, so it is not a pipeline; it has README.md" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_model_that_is_not_on_the_hub_fails_in_one_line(run, hub: Hub) -> None:
    result = run("inspect", "someone/tyni")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: there is no folder 'someone/tyni', and no repository of that id on http:")
    assert result.stderr.count("\n") == 1
