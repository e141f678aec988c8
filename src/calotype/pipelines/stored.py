"""Where pipelines come from and are kept: the methods of `DiffusionPipeline` that read and write repositories."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch

from calotype.errors import ComponentError
from calotype.graph.node import Node
from calotype.pipelines.declared import MEMO, constructor_parameters, declared_settings

if TYPE_CHECKING:
    from calotype.memory.placement import Placing
    from calotype.memory.request import Memory
    from calotype.pipelines.loading.pooled import Files
    from calotype.pipelines.loading.report import LoadReport


class WithRepositories:
    """The part of a pipeline that knows of repositories."""

    if TYPE_CHECKING:
        units: ClassVar[tuple[Node, ...]]
        _declared: ClassVar[Mapping[str, Any]]
        _inserted: ClassVar[bool]
        _settings: dict[str, Any]
        _report: LoadReport | None

        @property
        def components(self) -> dict[str, Any]: ...

    @classmethod
    def from_pretrained(
        cls,
        source: "str | PathLike[str] | Files",
        *,
        custom_pipeline: str | PathLike[str] | None = None,
        custom_revision: str | None = None,
        only: Sequence[str] | None = None,
        dtype: torch.dtype | str | Mapping[str, Any] | None = None,
        torch_dtype: torch.dtype | str | Mapping[str, Any] | None = None,
        variant: str | Mapping[str, str | None] | None = None,
        check: str | None = None,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        device: torch.device | str | None = None,
        memory: "Memory | None" = None,
        placement: "Placing | None" = None,
        memo: int | str = MEMO,
        **components: Any,
    ) -> Self:
        """Load a pipeline from a folder, a hub, or the package itself (`"calotype/emoji-64"`).

        From a hub, every file comes from one commit, and only the files of the components that are loaded are fetched.
        `pipe.load_report` says which commit that was, and what the repository lists that the pipeline does not take.

        Args:
            source: a folder with a `model_index.json`, an id on the hub (`"owner/name"`, or `"owner/name@revision"`),
                or the name of a shipped model; or single files: a `ModelConfig`, a list of them or a `ModelPool`, whose
                networks go where their type or their `name=` fits.
            custom_pipeline: the class to load instead of the repository's own: the name of a pipeline that ships in
                `calotype.community`, a file, a folder, or the id of a repository on a hub, whose code runs only once it
                was approved (`calotype trust`). The code of a path that you type runs as your own.
            custom_revision: the branch, tag or commit of a `custom_pipeline` on a hub; by default the approved one.
            only: load these components and leave the others None.
            dtype: the type of floating-point weights, float32 by default; a mapping by component name; `"auto"` keeps
                the files'. `torch_dtype` is the same.
            variant: which of several weight files (`"fp16"`), or a mapping by component name.
            check: `"finite"` refuses weights that have NaN or infinity.
            revision: a branch, a tag or a commit on the hub.
            cache_dir: where files of a hub are kept, by default the hub client's own cache.
            local_files_only: fetch nothing; take what the cache has.
            device, memory, placement, memo: as for the class.
            components: components to use instead of the folder's; `name=None` leaves one out.

        Raises:
            RepositoryError, WeightsError, ConfigError: the folder, its weights or its configurations are wrong.
            UntrustedCode: the class is code of others that was not approved.
            UnknownInput: a name that is neither a component nor an option.
        """
        from calotype.pipelines.loading.pretrained import load_pipeline  # only who loads needs it
        from calotype.weights.dtypes import one_dtype

        whole: type[Any] = cls  # a DiffusionPipeline: this is a part of it
        loaded: Self = load_pipeline(
            whole, source, components, custom_pipeline=custom_pipeline, custom_revision=custom_revision,
            only=only, dtype=one_dtype(dtype, torch_dtype), variant=variant, check=check, revision=revision,
            cache_dir=cache_dir, local_files_only=local_files_only, device=device, memory=memory,
            placement=placement, memo=memo,
        )  # fmt: skip
        return loaded

    @classmethod
    def from_single_file(
        cls,
        source: str | PathLike[str],
        *,
        filename: str | None = None,
        config: str | PathLike[str] | None = None,
        prediction_type: str | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        device: torch.device | str | None = None,
        memory: "Memory | None" = None,
        placement: "Placing | None" = None,
        memo: int | str = MEMO,
        **components: Any,
    ) -> Self:
        """Load a pipeline from one safetensors file of all its networks, as the code of Stable Diffusion wrote them.

        Such a file has no tokenizer: give it, or a `config=` that has one. `pipe.load_report` says what was left out.

        Args:
            source: the file; a folder or an id on the hub, whose `filename` it is; or the hub's link to it.
            config: the folder or the id of a repository of the same family, whose configurations, tokenizers and
                scheduler are taken, and no weights. By default the published ones are, where the file tells its family.
            prediction_type: what the denoiser predicts, `"epsilon"` or `"v_prediction"`. Files of 2.x do not show it.
            dtype, revision, cache_dir, local_files_only, device, memory, placement, memo: as for
                `from_pretrained`.
            components: components to use instead of the file's, or that it does not have; `name=None` leaves one out.

        Raises:
            RepositoryError: there is no such file.
            WeightsError: the file is damaged, a pickle or an adapter, or holds no network that is known.
            ComponentError: the file is not one of this pipeline, or a component is in neither place.
            ConfigError: nothing tells how to build a network or the scheduler, or two things tell otherwise.
            UnknownInput: a name that is neither a component nor an option.
        """
        from calotype.pipelines.loading.single_file import load_single_file  # only who loads needs it
        from calotype.weights.dtypes import one_dtype

        whole: type[Any] = cls  # a DiffusionPipeline: this is a part of it
        loaded: Self = load_single_file(
            whole, source, components, filename=filename, config=config, prediction_type=prediction_type,
            dtype=one_dtype(dtype, torch_dtype), revision=revision, cache_dir=cache_dir,
            local_files_only=local_files_only, device=device, memory=memory, placement=placement, memo=memo,
        )  # fmt: skip
        return loaded

    @property
    def load_report(self) -> "LoadReport | None":
        """What loading found; None for a pipeline that was put together by hand."""
        return self._report

    def save_pretrained(
        self, folder: str | PathLike[str], *, variant: str | None = None, max_shard_size: int | str | None = None
    ) -> None:
        """Write every component and the index in the ecosystem's layout: all of it or nothing.

        The code of a class that came from a file of others is written too, and is loaded with the folder. On this
        machine it is approved already, because you ran these very bytes; others approve it with `calotype trust`.

        Args:
            variant: a word in the names of the weight files, such as `"fp16"`.
            max_shard_size: bytes or a text such as `"5GB"`; larger weights are written as several files with an index.

        Raises:
            ComponentError: a component cannot be saved, the pipeline has inserted units, which no folder holds, its
                constructor takes a setting that it does not keep, or adapters run beside the weights.
            RepositoryError: `folder` is a file.
            InputError: `folder` is no path.
        """
        from calotype.paths import path_of
        from calotype.pipelines.adapter_records import refuse_unsaved  # only who saves needs them
        from calotype.pipelines.loading.custom import class_code, saved
        from calotype.weights.saving import save_components

        cls, place = type(self), path_of(folder, "save_pretrained", "the path of a folder")
        if self._inserted:
            raise ComponentError(
                f"{cls.__name__} has inserted units, which a folder does not hold; save the pipeline that with_units "
                "was called on, and insert them again after loading"
            )
        components = self.components
        refuse_unsaved(components)
        kept = {*components, *self._settings}
        lost = [] if cls.units else [p.name for p in constructor_parameters(cls) if p.name not in kept]
        if lost:
            raise ComponentError(
                f"{cls.__name__}.__init__ takes {', '.join(lost)}, which would be lost: keep a component with "
                f"self.register_modules({lost[0]}={lost[0]}), a plain value with self.register_to_config(...)"
            )
        settings = {name: components.pop(name) for name in declared_settings(cls._declared) if cls.units}
        extras = {**self._settings, **settings}
        code = class_code(cls)
        save_components(
            cls.__name__, components, place, extras=extras, code=code, variant=variant, max_shard_size=max_shard_size
        )
        if code is not None:
            saved(code, place)
