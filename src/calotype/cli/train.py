"""`calotype train`: a run of training that one file describes."""

from pathlib import Path

import click

EPILOG = """\b
A config, in YAML, TOML or JSON:
  pipeline: calotype/emoji-64
  data: {kind: folder, path: pictures}
  output: run
  target: {kind: lora, component: transformer, rank: 8}
  steps: 500
  batch: 4
  cache: cache

\b
Examples:
  calotype train config.yaml
  calotype train config.yaml --resume
"""


@click.command(epilog=EPILOG, short_help="Train a part of a pipeline on pictures of your own.")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint of the run's folder.")
@click.option("--prepare", is_flag=True, help="Fill the cache, and train nothing.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
def train(config: Path, resume: bool, prepare: bool, quiet: bool) -> None:
    """Train what CONFIG describes, and write an adapter's file or a whole repository.

    A run that was stopped, or killed, goes on with --resume as if it had not been.
    """
    from calotype.training.config import prepare_apart, read_config, run_training

    run = read_config(config)
    if prepare:
        if run.cache is None:
            raise click.UsageError("--prepare fills a cache, and the config has none; add `cache: cache`")
        prepare_apart(run, progress=not quiet)
        click.echo(f"The cache is in {Path(run.output, Path(run.cache).expanduser())}", err=True)
        return
    result = run_training(run, resume=resume, progress=not quiet)
    for path in result.files:
        click.echo(path)
