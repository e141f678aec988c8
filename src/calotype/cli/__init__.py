"""The command line: `calotype generate`, `inspect`, `replay` and `licenses`. Thin: parse, call, save.

No module here imports torch, or a pipeline, before a command needs it, so that `calotype --help` is quick.
"""

from calotype.cli.app import main

__all__ = ["main"]
