"""The list of approved code: what it covers, and that nothing is trusted when it is damaged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from calotype.errors import InputError, RepositoryError, UntrustedCode
from calotype.weights.code.consent import Consent, configuration_folder
from calotype.weights.code.source import Code

HUB = Code("someone/thing", "pipeline.py", {"pipeline.py": b"x = 1", "helper.py": b"y = 2"}, "a" * 40)
FOLDER = Code("/there", "pipeline.py", {"pipeline.py": b"x = 1"})


@pytest.fixture
def consent(tmp_path: Path) -> Consent:
    return Consent(tmp_path / "trust.json")


def test_nothing_is_approved_at_first(consent: Consent) -> None:
    assert consent.approvals() == () and not consent.covers(HUB) and consent.revision_of("someone/thing") is None
    with pytest.raises(UntrustedCode) as refused:
        consent.require(HUB)
    assert str(refused.value) == (
        f"someone/thing@{'a' * 40}/pipeline.py is code that was not approved, so it was not run\n"
        f"  revision  {'a' * 40}\n"
        "  files     pipeline.py (5 bytes), helper.py (5 bytes)\n"
        f"  hash      {HUB.digest}\n"
        f"Read it, and approve exactly this: calotype trust someone/thing@{'a' * 40}"
    )


def test_an_approval_is_of_the_source_the_revision_and_the_bytes(consent: Consent) -> None:
    consent.approve(HUB)
    consent.require(HUB)
    assert consent.revision_of("someone/thing") == "a" * 40
    other_revision = Code(HUB.source, HUB.main, HUB.files, "b" * 40)
    with pytest.raises(UntrustedCode, match=f"approved  revision {'a' * 40}, which is another one"):
        consent.require(other_revision)
    for changed in ({"pipeline.py": b"x = 2", "helper.py": b"y = 2"}, {"pipeline.py": b"x = 1", "helper.py": b"y = 3"}):
        with pytest.raises(UntrustedCode, match=f"approved  {HUB.digest}, before it changed"):
            consent.require(Code(HUB.source, HUB.main, changed, HUB.revision))
    assert not consent.covers(Code("else/where", HUB.main, HUB.files, HUB.revision))


def test_code_in_a_folder_is_approved_wherever_the_folder_is(consent: Consent) -> None:
    consent.approve(FOLDER, "saved")
    assert consent.covers(Code("/moved", "pipeline.py", FOLDER.files))
    assert not consent.covers(Code("someone/thing", "pipeline.py", FOLDER.files, "a" * 40))


def test_approvals_are_taken_back(consent: Consent) -> None:
    for what in ("someone/thing", f"someone/thing@{'a' * 40}", HUB.digest, HUB.digest[7:15]):
        consent.approve(HUB)
        consent.approve(FOLDER)
        assert [a.source for a in consent.revoke(what)] == ["someone/thing"]
        assert not consent.covers(HUB) and consent.covers(FOLDER)
    for what in ("someone/thing", HUB.digest[7:14], ""):
        with pytest.raises(InputError, match="was not approved, so there is nothing to take back"):
            consent.revoke(what)


def test_approving_twice_is_one_entry_that_people_can_read(consent: Consent) -> None:
    consent.approve(HUB)
    consent.approve(HUB)
    [entry] = json.loads(consent.path.read_text())["approved"]
    assert entry.pop("since").endswith("Z")
    assert entry == {
        "source": "someone/thing", "revision": "a" * 40, "digest": HUB.digest,
        "files": ["pipeline.py", "helper.py"], "reason": "reviewed",
    }  # fmt: skip
    assert consent.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"version": 2}', '{"approved": [{"source": "a"}]}', '{"everything": true}',
     '{"approved": [{"source": "a", "digest": "sha256:*", "files": [], "since": "2026-01-01T00:00:00Z",'
     ' "reason": "reviewed"}]}', "\xff\xfe"],
)  # fmt: skip
def test_a_damaged_list_trusts_nothing(consent: Consent, text: str) -> None:
    consent.path.write_bytes(text.encode("latin-1"))
    for use in (consent.approvals, lambda: consent.require(HUB), lambda: consent.approve(HUB)):
        with pytest.raises(RepositoryError, match="the list of approved code, cannot be read, so nothing in it is"):
            use()
    assert consent.path.read_bytes() == text.encode("latin-1")


def test_where_the_list_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CALOTYPE_HOME", str(tmp_path / "own"))
    assert configuration_folder() == tmp_path / "own"
    monkeypatch.delenv("CALOTYPE_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert configuration_folder() == tmp_path / "xdg" / "calotype"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert configuration_folder() == Path.home() / ".config" / "calotype"


def test_processes_at_once_lose_no_approval(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from calotype.weights.code.consent import Consent; "
        "from calotype.weights.code.source import Code\n"
        "for i in range(5): Consent(Path(sys.argv[1])).approve(Code(f'{sys.argv[2]}{i}', 'a.py', {'a.py': b''}))"
    )
    path = tmp_path / "trust.json"
    running = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    assert [process.wait() for process in running] == [0, 0]
    assert sorted(a.source for a in Consent(path).approvals()) == [f"{n}{i}" for n in "ab" for i in range(5)]


def test_a_user_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CALOTYPE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", nobody)
    with pytest.raises(RepositoryError, match=r"this user has no home folder, .*; set CALOTYPE_HOME to a folder"):
        Consent()
