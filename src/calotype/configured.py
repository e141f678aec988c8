"""What is described by a config: networks and schedulers, whose constructors take the fields of their `Config`."""

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from calotype.described import Described
from calotype.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel, ConfigDict, ValidationError


_NO_FIELDS = {"union_tag_not_found", "model_attributes_type", "model_type"}
"""What a validator calls a value that is not what one of several kinds is described by."""


class BaseConfig(Described):
    """What describes one object. Validated at birth and frozen. Fields are also read by name: `config["shift"]`.

    What validates it is built when the first one is made, so that importing a module does not build those of classes
    that the program never makes.
    """

    model_config: ClassVar["ConfigDict"] = {
        "frozen": True, "extra": "forbid", "validate_default": True, "allow_inf_nan": False, "defer_build": True,
    }  # fmt: skip

    def __getitem__(self, name: str) -> Any:
        if name not in type(self).model_fields:
            raise KeyError(name)
        return getattr(self, name)

    def __contains__(self, name: object) -> bool:
        return name in type(self).model_fields

    def keys(self) -> Iterator[str]:
        """The names of the fields, so that `dict(config)` and `**config` work."""
        return iter(type(self).model_fields)

    def get(self, name: str, default: Any = None) -> Any:
        """The field `name`, or `default` where there is none."""
        return getattr(self, name) if name in self else default


class _ConfigSignature:
    """The `__signature__` of a class that is described by its `Config`, made when it is asked for.

    Only of the class itself, as before: an instance that can be called shows the signature of its `__call__`.
    """

    def __get__(self, instance: object, owner: "type[Configured]") -> inspect.Signature:
        if instance is not None:
            raise AttributeError("__signature__")
        owner.Config.model_rebuild()  # does nothing where it is built
        return inspect.signature(owner.Config)


class Configured:
    """Something whose constructor takes the fields of its `Config` as keywords.

    A `config.json` is therefore the call: `UNet2DModel(**json.load(file))`. Keys that start with an underscore
    (`_class_name`, `_diffusers_version`) are the file's own remarks, not fields, and are left out.
    """

    Config: ClassVar[type[BaseConfig]] = BaseConfig
    config: Any  # a subclass narrows it to its own Config

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "Config" in cls.__dict__:
            cls.__signature__ = _ConfigSignature()  # type: ignore[attr-defined]

    @classmethod
    def parse_config(cls, fields: Mapping[str, Any]) -> Any:
        """The `Config` that `fields` describe. Raises `ConfigError`, naming every field that is wrong."""
        from pydantic import ValidationError

        given = {name: value for name, value in fields.items() if not name.startswith("_")}
        try:
            return cls.Config(**given)
        except ValidationError as error:
            raise ConfigError(explained(cls.__name__, cls.Config, error)) from None


def explained(owner: str, config: "type[BaseModel]", error: "ValidationError") -> str:
    """Every field that is wrong in what was given for a `config`, on behalf of `owner`."""
    lines: list[str] = []
    wrong: dict[tuple[str, str], list[str]] = {}
    for problem in error.errors():
        name = _place(problem["loc"])
        if problem["type"] == "extra_forbidden":
            near = did_you_mean(str(problem["loc"][-1]), _fields_beside(config, problem["loc"]))
            lines.append(f"{name!r} is not a field{near}")
        elif problem["type"] == "missing":
            lines.append(f"{name!r} is missing")
        elif problem["type"] == "union_tag_invalid":
            tag, known = problem["ctx"]["tag"], problem["ctx"]["expected_tags"]
            near = did_you_mean(tag, known.replace("'", "").split(", "))
            lines.append(f"{name!r}: there is no kind {tag!r}{near}; there are {known}")
        elif problem["type"] in _NO_FIELDS and (kinds := _kinds(config, problem["loc"])):
            shown = ", ".join(map(repr, kinds))
            lines.append(f"{name!r} must have a 'kind', one of {shown}, and the fields of it; got {problem['input']!r}")
        else:
            what = problem["msg"].removeprefix("Value error, ")
            wrong.setdefault((name, f"got {problem['input']!r}"), []).append(what)
    for (name, got), found in wrong.items():
        what = " or ".join([found[0], *(other.removeprefix("Input should be ") for other in found[1:])])
        lines.append((f"{name!r}: {what}" if got in what else f"{name!r}: {what}, {got}") if name else what)
    return f"{owner} cannot be made from this configuration: " + "; ".join(lines)


def _fields_beside(config: "type[BaseModel]", place: tuple[int | str, ...]) -> list[str]:
    """The fields of the model that the last part of a place is in, or of all that it may be in."""
    within = [config]
    for part in place[:-1]:
        inner = [m for c in within if part in c.model_fields for m in _models(c.model_fields[str(part)].annotation)]
        tagged = [m for m in within if "kind" in m.model_fields and m.model_fields["kind"].default == part]
        within = inner or tagged or within
    return [name for model in within for name in model.model_fields]


def _kinds(config: "type[BaseModel]", place: tuple[int | str, ...]) -> list[str]:
    """What the `kind` may be of what stands at a place."""
    beside = [config]
    for part in place:
        found = [m for c in beside if part in c.model_fields for m in _models(c.model_fields[str(part)].annotation)]
        beside = found or beside
    return sorted({str(model.model_fields["kind"].default) for model in beside if "kind" in model.model_fields})


def _models(hint: Any) -> "list[type[BaseModel]]":
    """The models that a type may be, or have within."""
    if hasattr(hint, "model_fields"):
        return [hint]
    return [model for member in get_args(hint) for model in _models(member)]


def _place(parts: tuple[int | str, ...]) -> str:
    """The field that a problem is in, and where in it; not which member of a union was tried (`tuple[int, ...]`)."""
    inner = (part for part in parts[1:] if isinstance(part, int) or (part.isidentifier() and part not in _SIMPLE))
    return ".".join(map(str, (*parts[:1], *inner)))


_SIMPLE = frozenset({"int", "float", "str", "bool"})
