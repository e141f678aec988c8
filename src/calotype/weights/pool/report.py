"""What a pool found in its files, as values that can be read and printed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calotype.errors import quoted
from calotype.weights.pool.recognition import Match


@dataclass(frozen=True)
class ModelReport:
    """One recognised model."""

    model_name: str
    role: str | None
    """The `name` of its `ModelConfig`."""
    prefix: str
    """What its keys begin with in the file."""
    tensors: int
    """How many of its tensors are there."""
    missing: tuple[str, ...]
    """Names of tensors that are not."""
    misshapen: tuple[str, ...]
    """Tensors of another shape, with both shapes."""
    filled: tuple[str, ...]
    """Names of tensors that are not there and that a default fills."""
    extra: tuple[str, ...]
    """Keys that no model takes."""
    left_out: tuple[str, ...] = ()
    """Keys that such files have and the network does not take, by intent."""

    def __str__(self) -> str:
        where = f" below {self.prefix!r}" if self.prefix else ""
        lines = [f"{self.role or self.model_name}: {self.model_name}{where}, {self.tensors} tensors"]
        for what in ("missing", "filled", "extra", "left_out"):
            keys = getattr(self, what)
            lines += [f"  {len(keys)} {what.replace('_', ' ')}: {quoted(keys)}"] if keys else []
        lines += [f"  misshapen: {text}" for text in self.misshapen]
        return "\n".join(lines)


@dataclass(frozen=True)
class FileReport:
    """What is in one file, or in the shards of one."""

    files: tuple[Path, ...]
    models: tuple[ModelReport, ...]
    unclaimed: tuple[str, ...]
    """Keys that belong to no model and lie below no prefix of one."""

    def __str__(self) -> str:
        lines = [", ".join(map(str, self.files)), *(str(model) for model in self.models)]
        return "\n  ".join("\n".join(lines + self._rest()).splitlines())

    def _rest(self) -> list[str]:
        return [f"{len(self.unclaimed)} of no known model: {quoted(self.unclaimed)}"] if self.unclaimed else []


def model_report(match: Match, role: str | None) -> ModelReport:
    """What there is to say about a match."""
    return ModelReport(
        match.model.model_name,
        role,
        match.prefix,
        len(match.keys),
        match.missing,
        tuple(match.misshapen.values()),
        match.filled,
        match.extra,
        match.left_out,
    )


def not_recognised(place: str, nearest: Sequence[Match], keys: Sequence[str], known: Sequence[str]) -> str:
    """Why files are those of no known model."""
    lines = [f"{place} holds no model that is known ({', '.join(known) or 'none is'})"]
    for match in nearest:
        total = len(match.keys) + len(match.missing) + len(match.misshapen) + len(match.filled)
        wrong = [f"{len(match.missing)} missing: {quoted(match.missing)}"] if match.missing else []
        wrong += list(match.misshapen.values())[:3]
        below = f" below {match.prefix!r}" if match.prefix else ""
        what = match.failure or f"{len(match.keys)} of {total} tensors fit; {'; '.join(wrong)}"
        lines.append(f"nearest is {match.model.model_name!r}{below}: {what}")
    if not nearest:
        lines.append(f"its {len(keys)} tensors are {quoted(keys)}")
    return ". ".join([*lines, "Register it: CATALOGUE.with_model(model_name, cls, keys=...) as the pool's catalogue="])
