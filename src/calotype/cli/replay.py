"""`calotype replay`: make a saved picture again and compare."""

from pathlib import Path

import click

DIFFERS = 3

EPILOG = """\b
Examples:
  calotype replay apple.png
  calotype replay apple.png -o again.png
  calotype replay apple.png --model ./where-the-model-is-now
"""


@click.command(epilog=EPILOG, short_help="Make a saved picture again, and say whether it is identical.")
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="Write the new picture too.")
@click.option("--force", "-f", is_flag=True, help="Replace a file that is there already.")
@click.option("--model", "-m", metavar="REPO", help="Where the model is now, if it is not where it was.")
@click.option("--custom-pipeline", metavar="PATH", help="The pipeline's code, where it is a file or folder here.")
@click.option("--adapter", "-a", "adapters", multiple=True, metavar="FILE[:WEIGHT]",
              help="Where the file of an adapter is that ran. Repeatable.")  # fmt: skip
@click.option("--device", metavar="NAME", help="Where to run, if not where the original ran; others round differently.")
@click.option(
    "--memory",
    metavar="SIZE",
    help="The most memory that weights and what is computed take, such as 8GiB, or what stays or streams, as JSON.",
)
@click.option("--placement", metavar="WHERE",
              help="Components on several devices: text_encoder=cuda:1,vae=cuda:1, or auto. A recipe has no places, as "
                   "pictures do not depend on them.")  # fmt: skip
def replay(
    picture: Path,
    output: Path | None,
    force: bool,
    model: str | None,
    custom_pipeline: str | None,
    adapters: tuple[str, ...],
    device: str | None,
    memory: str | None,
    placement: str | None,
) -> None:
    """Make PICTURE again from the recipe that it carries, and compare the two.

    The recipe has the model, the digests of its weights, all inputs with the seed, and versions. Weights that are not
    the same are refused. On the same machine the new picture is identical; where it is not, the exit code is 3.
    """
    from calotype.cli.command import amount, weighed_adapter
    from calotype.cli.display import Display
    from calotype.cli.files import output_path
    from calotype.pipelines.replay.again import replay as make_again
    from calotype.pipelines.replay.recipe import save_png

    path = output_path(output, picture.stem, 1, force) if output is not None else None
    made = make_again(
        picture, source=model, device=device, memory=amount(memory), placement=placement,
        custom_pipeline=custom_pipeline, adapters=[weighed_adapter(text) for text in adapters], finish=Display().watch,
    )  # fmt: skip
    if path is not None:
        save_png(made.picture, path, made.made)
        click.echo(str(path))
    if made.difference is None:
        click.echo("identical")
        return
    changes = f" ({'; '.join(made.changes)})" if made.changes else ""
    click.echo(f"not identical: {made.difference}{changes}")
    raise click.exceptions.Exit(DIFFERS)
