"""Help, versions, exit codes, and that none of them waits for torch."""

import subprocess
import sys

import pytest

import calotype


def test_help_version_and_licences_do_not_import_torch():
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from calotype.cli import main\n"
        "for args in (['--help'], ['--version'], ['licenses'], ['replay', '--help']):\n"
        "    assert CliRunner().invoke(main, args).exit_code == 0, args\n"
        "slow = {'torch', 'transformers', 'numpy', 'pydantic', 'PIL'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_python_m_is_the_command_line():
    done = subprocess.run([sys.executable, "-m", "calotype", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"calotype {calotype.__version__}\n"


def test_the_help_has_an_example_and_the_exit_codes(run):
    result = run("--help")
    assert 'calotype generate "a red apple" -o apple.png' in result.output
    for line in ("0    done", "1    something failed", "2    the command line", "130  interrupted", "143  terminated"):
        assert line in result.output


def test_a_command_that_does_not_exist_names_the_nearest(run):
    result = run("generat")
    assert result.exit_code == 2
    assert "No such command 'generat'. Did you mean 'generate'?" in result.stderr


def test_the_help_of_generate_lists_the_inputs_of_the_model(run, repo):
    result = run("generate", "--model", repo, "--help")
    assert f"Inputs of {repo} (TextToImagePipeline):".replace("\n", "") in result.output.replace("\n", "")
    words = " ".join(result.output.split())
    for text in (
        "--negative-prompt TEXT What to steer away from.",
        "--guidance-scale FLOAT How closely to follow the prompt; 1 turns guidance off. [default: 3.0; 0 to 50]",
        "--image FILE",
        "--seed INTEGER",
        "--num-images INTEGER How many images to make of each prompt. [default: 1; 1 to 65536]",
        "[default: 64; 16 to 512, multiple of 8]",
        "--device NAME",
    ):
        assert text in words
    assert "--given" not in words
    assert "--outputs" not in words


def test_the_help_of_a_model_without_a_prompt_has_its_own_inputs(run, ddpm):
    words = " ".join(run("generate", "--model", ddpm, "--help").output.split())
    assert "--num-inference-steps INTEGER" in words
    assert "--prompt TEXT" not in words
    assert "--generator" not in words  # only Python can make one


def test_the_help_of_a_model_that_is_not_there_says_so(run):
    result = run("generate", "--model", "nowhere", "--help")
    assert result.exit_code == 0
    assert "They cannot be listed: there is no folder nowhere." in result.output
    assert "--output" in result.output


@pytest.mark.parametrize("command", ["generate", "inspect"])
def test_a_model_that_is_not_there_fails_in_one_line(run, command):
    arguments = ["--model", "nowhere", "a car"] if command == "generate" else ["nowhere"]
    result = run(command, *arguments)
    assert result.exit_code == 1
    assert result.stderr == "Error: there is no folder nowhere\n"


def test_a_model_without_a_name_is_none(run, here):
    """`-m "$MODEL"` of a variable that was never set drew with the model in the box."""
    result = run("generate", "a", "--model", "")
    assert result.exit_code == 1 and "there is no folder ''" in result.stderr
    assert not list(here.iterdir())


def test_a_free_form_pipeline_is_called_from_python(run, here, monkeypatch):
    from calotype.cli import command
    from calotype.pipelines.base import DiffusionPipeline

    class Free(DiffusionPipeline):
        pass

    monkeypatch.setattr("calotype.pipelines.loading.which.find_pipeline", lambda source, **where: (Free, source))
    assert command.DEFAULT_MODEL
    result = run("generate", "--model", "free", "a car")
    assert result.exit_code == 1
    assert "free is for Free, a free-form pipeline" in result.stderr


def test_licences(run):
    result = run("licenses")
    assert result.exit_code == 0
    assert f"calotype {calotype.__version__}" in result.output
    assert "Apache License, Version 2.0" in result.output
    assert "TERMS AND CONDITIONS" not in result.output
    assert "TERMS AND CONDITIONS" in run("licenses", "--full").output


def test_every_model_that_ships_is_attributed(run):
    from calotype.cli.licenses import ASSETS

    output = run("licenses").output
    for folder in (p for p in ASSETS.glob("*") if p.is_dir()):
        assert f"calotype/{folder.name} (ships with the package)" in output
        assert (folder / "NOTICE").read_text(encoding="utf-8").strip() in output
