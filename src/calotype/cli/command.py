"""A command whose flags are the inputs of a model: which model is read from the arguments before the rest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from calotype.cli.flags import PREFIX, flag_options
from calotype.errors import CalotypeError, RepositoryError

if TYPE_CHECKING:
    from calotype.graph.inputs import InputField
    from calotype.pipelines.base import DiffusionPipeline

DEFAULT_MODEL = "calotype/emoji-64"

ON_A_HUB: tuple[click.Option, ...] = (
    click.Option(["--revision"], metavar="NAME", help="A branch, tag or commit of a model on a hub."),
    click.Option(["--variant"], metavar="WORD", help="Which of several weight files, such as fp16."),
    click.Option(["--local-files-only"], is_flag=True, help="Ask no hub; take what its cache has."),
)
"""Options of the commands that load a model."""

CODE: tuple[click.Option, ...] = (
    click.Option(["--custom-pipeline"], metavar="SOURCE",
                 help="Run the model with this pipeline: one that ships, a file, a folder, or owner/name on a hub."),
    click.Option(["--custom-revision"], metavar="NAME", help="A branch, tag or commit of that, on a hub."),
)  # fmt: skip
"""Options of the commands that run a model with code of others."""


def amount(memory: str | None) -> int | str | None:
    """What `--memory` says, a number as one: refusals name the budget that is enough so, and here all is text."""
    return int(memory) if memory is not None and memory.isdecimal() else memory


WHERE: tuple[click.Option, ...] = (
    click.Option(["--memory"], metavar="SIZE", callback=lambda context, option, memory: amount(memory),
                 help="The most memory that weights and what is computed take, such as 8GiB, or a JSON object of "
                      "budgets by device and of what stays or streams."),
    click.Option(["--placement"], metavar="WHERE",
                 help="Components on several devices: text_encoder=cuda:1,vae=cuda:1, or auto."),
)  # fmt: skip
"""Options of the commands that run a model, or say what it would do: in how much memory, and where."""

ADDED: tuple[click.Option, ...] = (
    click.Option(["--units", "-u", "packs"], multiple=True, metavar="SOURCE",
                 help="Insert this pack of units: one that ships, a file, a folder, owner/name on a hub. Repeatable."),
    click.Option(["--adapter", "-a", "adapters"], multiple=True, metavar="SOURCE[:WEIGHT]",
                 help="Run this adapter (LoRA, LoHa, LoKr) beside the weights; by default at weight 1. Repeatable."),
)  # fmt: skip
"""Options of the commands that run a model with more than its repository holds."""


@dataclass(frozen=True)
class Model:
    """A repository and the pipeline class that it is for, before anything is loaded."""

    source: str
    pipeline: "type[DiffusionPipeline]"
    place: str
    """The source with the commit that was looked at, from which everything else is loaded."""
    options: Mapping[str, Any]
    """What is loaded from it, and how: `variant` and `local_files_only`."""
    packs: tuple[str, ...] = ()
    """The packs of units that are inserted, which `pipeline` has already."""
    adapters: tuple[tuple[str, float], ...] = ()
    """The adapters that run, with their weights."""

    @property
    def fields(self) -> "dict[str, InputField]":
        """The inputs in the order of a call: required ones first, the engine's last."""
        from calotype.graph.inputs import fields_of, signature_of

        found = fields_of(self.pipeline.Inputs)
        return {name: found[name] for name in signature_of(self.pipeline.Inputs).parameters}


class ModelCommand(click.Command):
    """A command that takes the inputs of the model it is about as flags.

    Its callback takes the `Model` first, then its parameters.

    Args:
        source_of: the model among the command's own parameters and the arguments that these leave.
    """

    def __init__(self, *args: Any, source_of: Callable[[dict[str, Any], list[str]], str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.source_of = source_of

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        settings = {**self.context_settings, **extra}
        own, rest = self._peek(args)
        source = self.source_of(own, rest)
        try:
            model = _find(source, own)
        except CalotypeError as error:
            if not {"-h", "--help"} & set(args):
                raise
            return self._without_inputs(str(error)).make_context(info_name, args, parent, **settings)
        return self._of(model).make_context(info_name, args, parent, **settings)

    def _peek(self, args: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """The command's own parameters, and what is left, whatever else there is among the arguments."""
        own = [p for p in self.params if isinstance(p, click.Option)]
        scout = click.Command(self.name, params=list(own), add_help_option=False)
        ctx = scout.make_context(
            self.name, list(args), resilient_parsing=True, ignore_unknown_options=True, allow_extra_args=True
        )
        return ctx.params, ctx.args

    def _of(self, model: Model) -> click.Command:
        taken = {flag for p in self.params for flag in p.opts}
        flags = flag_options(model.fields, taken)
        callback = partial(self.callback, model) if self.callback else None
        title = f"Inputs of {model.source} ({model.pipeline.__name__})"
        return _Parsed(title, self, [*self.params, *flags], callback)

    def _without_inputs(self, why: str) -> click.Command:
        return _Parsed("Inputs of the model", self, list(self.params), None, why=f"They cannot be listed: {why}.")


class _Parsed(click.Command):
    """The command that parses, once the model is known: the inputs have a section of their own in the help."""

    def __init__(
        self,
        title: str,
        outer: ModelCommand,
        params: list[click.Parameter],
        callback: Callable[..., Any] | None,
        why: str = "It has none.",
    ) -> None:
        super().__init__(outer.name, params=params, callback=callback, help=outer.help, epilog=outer.epilog)
        self.title, self.why = title, why

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = [(p, p.get_help_record(ctx)) for p in self.get_params(ctx) if isinstance(p, click.Option)]
        for title, wanted in ((self.title, True), ("Options", False)):
            rows = [row for p, row in records if row is not None and (p.name or "").startswith(PREFIX) is wanted]
            with formatter.section(title):
                if rows:
                    formatter.write_dl(rows)
                else:
                    formatter.write_text(self.why)


def _find(source: str, params: Mapping[str, Any]) -> Model:
    from calotype.pipelines.loading.which import find_pipeline

    options = {name: params[name] for name in ("variant", "local_files_only") if params.get(name)}
    local = bool(params.get("local_files_only"))
    code = {name: params.get(name) for name in ("custom_pipeline", "custom_revision")}
    pipeline, place = find_pipeline(source, revision=params.get("revision"), local_files_only=local, **code)
    asked = code["custom_pipeline"] or source
    if not getattr(pipeline, "units", ()):  # one of diffusers has no such attribute
        raise RepositoryError(
            f"{asked} is for {pipeline.__name__}, a free-form pipeline: it declares no inputs and no units, so "
            "that only Python can call it"
        )
    return _with_added(Model(source, pipeline, place, options), params.get("packs") or (), params.get("adapters") or ())


def _with_added(model: Model, packs: Sequence[str], adapters: Sequence[str]) -> Model:
    """The model with packs of units in its pipeline's class, which needs no weights, and with adapters."""
    weighed = tuple(map(weighed_adapter, adapters))
    if not packs:
        return replace(model, adapters=weighed)
    pipe = model.pipeline.from_pretrained(model.place, **model.options, only=[], device="cpu")
    for pack in packs:
        pipe = pipe.with_units(pack)
    return replace(model, pipeline=type(pipe), packs=tuple(packs), adapters=weighed)


def weighed_adapter(text: str) -> tuple[str, float]:
    """`FILE:0.8` as a source and a weight; what follows the last colon is one where it is a number."""
    source, _, after = text.rpartition(":")
    try:
        weight = float(after) if source else 1.0
    except ValueError:
        return text, 1.0
    return source or text, weight
