"""The group of commands: exit codes, interruption, and the help that a newcomer reads first."""

import errno
from typing import Any

import click

from calotype import __version__
from calotype.cli.generate import generate
from calotype.cli.inspect import inspect
from calotype.cli.licenses import licenses
from calotype.cli.replay import replay
from calotype.cli.share import share
from calotype.cli.signals import Terminated, terminable
from calotype.cli.train import train
from calotype.cli.trust import trust
from calotype.errors import CalotypeError

EPILOG = """\b
Examples:
  calotype generate "a red apple" -o apple.png
  calotype generate "a blue house" --num-images 4 --seed 7
  calotype generate --prompts prompts.jsonl -o pictures
  calotype inspect
  calotype replay apple.png

\b
Exit codes:
  0    done
  1    something failed; the message says what and what to do
  2    the command line is wrong: a flag, a value, or something is missing
  3    replay: the picture made again is not identical
  130  interrupted (Ctrl-C)
  143  terminated
"""


SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Commands(click.Group):
    """A group whose commands end with the exit codes above, and with a message instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with terminable():
                return super().invoke(ctx)
        except CalotypeError as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            raise click.exceptions.Exit(130) from None
        except Terminated:
            click.echo("Terminated.", err=True)
            raise click.exceptions.Exit(143) from None


@click.group(cls=Commands, epilog=EPILOG, context_settings=SETTINGS)
@click.version_option(__version__, message="calotype %(version)s")
def main() -> None:
    """Make pictures from words, offline, with the model that comes with calotype or with one of your own.

    Start with: calotype generate "a red apple" -o apple.png
    """


for command in (generate, inspect, replay, train, share, trust, licenses):
    main.add_command(command)
