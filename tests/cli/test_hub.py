"""Commands with a model on a hub: the same as with a folder."""

from pathlib import Path
from typing import Any

from hub import Hub, read_files


def test_a_model_on_a_hub(run, repo, hub: Hub, tmp_path: Path) -> None:
    commit = hub.add("someone/tiny", repo)
    local = run("generate", "--model", repo, "a red car", "--seed", "1", "--steps", "1", "--output", "local.png")
    assert local.exit_code == 0, local.output
    remote = run(
        "generate", "--model", "someone/tiny", "a red car", "--seed", "1", "--steps", "1", "--output", "hub.png"
    )
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


def test_a_revision_a_variant_and_the_cache_alone(run, repo, hub: Hub) -> None:
    files = read_files(repo)
    renamed = {path.replace(".safetensors", ".fp16.safetensors"): data for path, data in files.items()}
    hub.add("someone/tiny", renamed, branch="v1")
    hub.add("someone/tiny", {"README.md": "nothing here"})
    flags = ("someone/tiny", "--revision", "v1", "--variant", "fp16")
    shown = run("inspect", *flags)
    assert shown.exit_code == 0, shown.output
    assert "fp16" not in run("inspect", "someone/tiny", "--revision", "v1").stdout
    hub.stop()
    assert run("inspect", *flags, "--local-files-only").stdout == shown.stdout
    made = run("generate", "--model", *flags, "--local-files-only", "a red car", "--seed", "1", "--steps", "1")
    assert made.exit_code == 0, made.output
    wrong = run("generate", "--model", "someone/tiny", "--revision", "v2", "--local-files-only", "a red car")
    assert wrong.exit_code == 1
    assert "revision 'v2' of the repository of that id cannot be loaded" in wrong.stderr


def test_flags_and_weights_are_of_one_commit(run, repo, hub: Hub) -> None:
    hub.add("someone/tiny", repo)

    def move(request: Any) -> None:
        if request.path.endswith("model_index.json") and request.method == "GET":
            hub.on_request = None
            hub.add("someone/tiny", {"README.md": "moved on meanwhile"})

    hub.on_request = move
    made = run("generate", "--model", "someone/tiny", "a red car", "--seed", "1", "--steps", "1")
    assert made.exit_code == 0, made.output
