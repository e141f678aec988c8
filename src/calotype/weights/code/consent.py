"""Which code of others this user approved: a file in the configuration folder that can be read, edited and deleted."""

import json
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from calotype.atomic import atomic_file
from calotype.errors import InputError, RepositoryError, UntrustedCode
from calotype.paths import path_of
from calotype.weights.code.source import Code

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_SHORTEST = 8


class Approval(BaseModel):
    """One decision: this hash of this source may run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    revision: str | None = None
    digest: Digest
    files: tuple[str, ...]
    since: datetime
    reason: Literal["reviewed", "saved", "shared"]


class _Store(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    approved: tuple[Approval, ...] = ()


class Consent:
    """The approvals of one user.

    Args:
        path: the file; by default `trust.json` in the configuration folder (see `configuration_folder`).
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = configuration_folder() / "trust.json" if path is None else path

    def approvals(self) -> tuple[Approval, ...]:
        """All of them, the oldest first.

        Raises:
            RepositoryError: the file is damaged. Nothing is trusted then.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ()
        except (OSError, ValueError) as error:
            raise RepositoryError(self._damaged(str(error))) from None
        try:
            return _Store.model_validate_json(text).approved
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, problem["loc"]))
            raise RepositoryError(self._damaged(f"{place}: {problem['msg']}" if place else problem["msg"])) from None

    def covers(self, code: Code) -> bool:
        """Whether exactly these bytes were approved and, for a repository on a hub, at this revision of it."""
        return any(
            approval.digest == code.digest
            and (code.revision is None or (approval.source, approval.revision) == (code.source, code.revision))
            for approval in self.approvals()
        )

    def revision_of(self, source: str) -> str | None:
        """The revision of a repository on a hub that was approved last; None where none was."""
        found = (a.revision for a in reversed(self.approvals()) if a.source == source and a.revision is not None)
        return next(found, None)

    def approve(self, code: Code, reason: Literal["reviewed", "saved", "shared"] = "reviewed") -> Approval:
        """Record that these bytes may run."""
        made = Approval(
            source=code.source, revision=code.revision, digest=code.digest, files=tuple(code.files),
            since=datetime.now(UTC).replace(microsecond=0), reason=reason,
        )  # fmt: skip

        def with_it(old: tuple[Approval, ...]) -> tuple[Approval, ...]:
            same = (made.source, made.revision, made.digest)
            return (*(a for a in old if (a.source, a.revision, a.digest) != same), made)

        self._change(with_it)
        return made

    def revoke(self, what: str) -> tuple[Approval, ...]:
        """Take back the approvals of a source, of a source at one revision (`"owner/name@revision"`), or of a hash or
        at least 8 digits of one. Returns those taken back.

        Raises:
            InputError: there is none.
        """
        gone: list[Approval] = []

        def without(old: tuple[Approval, ...]) -> tuple[Approval, ...]:
            gone.extend(a for a in old if _is_meant(a, what))
            return tuple(a for a in old if a not in gone)

        self._change(without)
        if not gone:
            raise InputError(
                f"{what!r} was not approved, so there is nothing to take back; see `calotype trust --list`"
            )
        return tuple(gone)

    def require(self, code: Code) -> None:
        """Raise `UntrustedCode` unless these bytes were approved: with what they are and how to approve them."""
        if not self.covers(code):
            raise UntrustedCode(_refusal(code, self.approvals()))

    def _change(self, change: Callable[[tuple[Approval, ...]], Sequence[Approval]]) -> None:
        """Replace the approvals, one process at a time, so that none is lost."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(self.path.with_suffix(".lock")):
            store = _Store(approved=tuple(change(self.approvals())))
            with atomic_file(self.path) as aside:
                aside.write_text(json.dumps(store.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
                aside.chmod(0o600)

    def _damaged(self, why: str) -> str:
        return (
            f"{self.path}, the list of approved code, cannot be read, so nothing in it is trusted: {why}. Mend it, or "
            "delete it and approve what you need again with calotype trust"
        )


def configuration_folder() -> Path:
    """Where this user's settings are: `CALOTYPE_HOME`, else `calotype` in `XDG_CONFIG_HOME` or in `~/.config`."""
    if home := os.environ.get("CALOTYPE_HOME"):
        return path_of(home, "CALOTYPE_HOME", "the path of a folder")
    try:
        return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "calotype"
    except RuntimeError:
        raise RepositoryError(
            "this user has no home folder, so there is no list of approved code; set CALOTYPE_HOME to a folder for it"
        ) from None


def _is_meant(approval: Approval, what: str) -> bool:
    digits = what.removeprefix("sha256:")
    by_hash = len(digits) >= _SHORTEST and approval.digest.removeprefix("sha256:").startswith(digits)
    return by_hash or what in (approval.source, f"{approval.source}@{approval.revision}")


def _refusal(code: Code, approvals: Sequence[Approval]) -> str:
    sizes = ", ".join(f"{path} ({len(content)} bytes)" for path, content in code.files.items())
    lines = [
        f"{code.where} is code that was not approved, so it was not run",
        *([f"  revision  {code.revision}"] if code.revision else []),
        f"  files     {sizes}",
        f"  hash      {code.digest}",
    ]
    others = [a for a in approvals if a.source == code.source]
    if others and others[-1].revision != code.revision:
        lines.append(f"  approved  revision {others[-1].revision}, which is another one")
    elif others:
        lines.append(f"  approved  {others[-1].digest}, before it changed")
    return "\n".join([*lines, f"Read it, and approve exactly this: {code.approval_command}"])
