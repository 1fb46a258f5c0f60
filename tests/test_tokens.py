"""Tokens: what they give, that only their hashes are kept, and that a change of the file holds at once."""

from __future__ import annotations

import hmac
import itertools
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Run

from replaystore import credentials
from replaystore.errors import (
    AlreadyExistsError,
    ArgumentError,
    FormatError,
    NotFoundError,
    StorageError,
)
from replaystore.service.tokens import SCOPES, Grant, TokenFile, Tokens

pytest_plugins = ["commands"]


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "etc" / "tokens.json")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(credentials.VARIABLE, raising=False)
    return tmp_path / "config" / "replaystore" / "servers"


# --- the file


def test_a_token_gives_what_its_scopes_say(file: TokenFile) -> None:
    token = file.add("actor", ["append", "read"], "runs/*.zarr")

    found = Tokens(file).find(token)

    assert found is not None
    assert (found.name, found.scopes, found.path) == ("actor", {"read", "append"}, "runs/*.zarr")
    assert found.allows("append", "runs/ant.zarr")
    assert found.allows("append")
    assert not found.allows("append", "runs/old/ant.zarr")
    assert not found.allows("sample", "runs/ant.zarr")
    assert Tokens(file).find(token[:-1]) is None
    assert Tokens(file).find("") is None
    assert Tokens(file).find("é\udce9") is None


def test_the_file_has_the_hash_alone_and_is_its_owners(file: TokenFile) -> None:
    token = file.add("learner", ["sample"])

    text = file.path.read_text()

    assert token not in text
    assert len(token) >= 43
    assert stat.S_IMODE(os.stat(file.path).st_mode) == 0o600
    assert os.listdir(file.path.parent) == ["tokens.json"]


def test_all_tokens_are_compared_in_constant_time(file: TokenFile, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = [file.add(name, ["read"]) for name in "abc"]
    compared: list[object] = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: bool(compared.append(a)) or real(a, b))

    known = Tokens(file, own="o" * 43)

    for token in [*tokens, "wrong"]:
        compared.clear()
        known.find(token)
        assert len(compared) == 4


def test_scopes_do_not_contain_each_other(file: TokenFile) -> None:
    for number in range(1, len(SCOPES) + 1):
        for scopes in itertools.combinations(SCOPES, number):
            found = Tokens(file).find(file.add("-".join(("t", *scopes))[1:].strip("-"), scopes))
            assert found is not None
            assert {scope for scope in SCOPES if found.allows(scope, "a.zarr")} == set(scopes)


def test_the_own_token_may_do_everything(file: TokenFile) -> None:
    own = Tokens(own="secret").find("secret")

    assert own is not None
    assert all(own.allows(scope, "any/where.h5") for scope in SCOPES)
    assert Tokens(file, own="secret").find("secret") == own
    assert Tokens().find("secret") is None


def test_what_is_revoked_gives_nothing_at_once(file: TokenFile) -> None:
    kept, gone = file.add("kept", ["read"]), file.add("gone", ["read"])
    served = Tokens(TokenFile(file.path))
    assert served.find(gone) is not None

    file.revoke("gone")

    assert served.find(gone) is None
    assert served.find(kept) is not None
    with pytest.raises(NotFoundError, match="no token 'gone'"):
        file.revoke("gone")


def test_a_name_is_given_once(file: TokenFile) -> None:
    first = file.add("actor", ["read"])

    with pytest.raises(AlreadyExistsError, match="'actor'"):
        file.add("actor", ["admin"])

    found = Tokens(file).find(first)
    assert found is not None
    assert found.scopes == {"read"}


@pytest.mark.parametrize(
    ("name", "scopes", "path"),
    [
        ("", ["read"], "**"),
        ("a b", ["read"], "**"),
        ("a" * 65, ["read"], "**"),
        ("a", [], "**"),
        ("a", ["write"], "**"),
        ("a", ["read"], ""),
        ("a", ["read"], "/runs/*"),
        ("a", ["read"], "../*"),
    ],
)
def test_what_makes_no_sense_is_refused(file: TokenFile, name: str, scopes: list[str], path: str) -> None:
    with pytest.raises(ArgumentError):
        file.add(name, scopes, path)
    assert not file.path.exists()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"tokens": 3}', '{"tokens": [{}]}', '{"tokens": ["a"]}', "[" * 100_000, "\xff"],
)
def test_a_file_of_another_kind_is_an_error(file: TokenFile, text: str) -> None:
    file.path.parent.mkdir()
    file.path.write_text(text)

    with pytest.raises(FormatError, match="no file of tokens"):
        Tokens(file).find("a")


@pytest.mark.parametrize("wrong", [{"sha256": "AB"}, {"scopes": ["all"]}, {"name": 3}, {"path": None}])
def test_an_entry_that_cannot_be_meant_gives_nothing(file: TokenFile, wrong: dict[str, Any]) -> None:
    file.add("a", ["read"])
    told = json.loads(file.path.read_text())
    told["tokens"][0] |= wrong
    file.path.write_text(json.dumps(told))

    with pytest.raises(FormatError):
        TokenFile(file.path).grants()


@pytest.mark.parametrize(
    ("glob", "fits", "fits_not"),
    [
        ("**", ["a.zarr", "runs/b/c.h5"], []),
        ("*", ["a.zarr"], ["runs/a.zarr", ""][:1]),
        ("runs/*.zarr", ["runs/a.zarr"], ["runs/a.h5", "runs/b/a.zarr", "xruns/a.zarr", "runs/a.zarr/b"]),
        ("runs/**", ["runs/a.zarr", "runs/b/a.h5"], ["run/a.zarr", "runs"]),
        ("**/ant.h5", ["ant.h5", "a/b/ant.h5"], ["want.h5", "a/want.h5"]),
        ("a[1].zarr", ["a[1].zarr"], ["a1.zarr"]),
        ("a?.zarr", ["ab.zarr"], ["a/.zarr", "a.zarr"]),
    ],
)
def test_paths_of_stores_are_matched(glob: str, fits: list[str], fits_not: list[str]) -> None:
    grant = Grant("a", frozenset(SCOPES), glob)

    assert [path for path in [*fits, *fits_not] if grant.reaches(path)] == fits


# --- the token of this user


def test_the_token_of_a_server_is_found_by_its_user(home: Path) -> None:
    assert credentials.token_for("127.0.0.1", 8742) == ""

    token = credentials.kept_for_user(8742)

    assert credentials.kept_for_user(8742) == token  # a server that is started again
    for host in ("127.0.0.1", "localhost", "::1", "[::1]"):
        assert credentials.token_for(host, 8742) == token
    assert credentials.token_for("example.org", 8742) == ""
    assert credentials.token_for("127.0.0.1", 8743) == ""
    assert stat.S_IMODE(os.stat(home / "8742.token").st_mode) == 0o600
    assert os.listdir(home) == ["8742.token"]


def test_a_token_that_was_given_comes_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials.kept_for_user(8742)
    monkeypatch.setenv(credentials.VARIABLE, " given\n")

    assert credentials.token_for("127.0.0.1", 8742) == "given"
    assert credentials.token_for("example.org", 443) == "given"


def test_a_token_that_others_can_read_is_not_used(home: Path) -> None:
    credentials.kept_for_user(8742)
    os.chmod(home / "8742.token", 0o640)

    with pytest.raises(StorageError, match="by others"):
        credentials.token_for("127.0.0.1", 8742)


@pytest.mark.parametrize("token", ["", "a b", "a\r\nHost: x", "é", None, 3, b"abc", "a" * 600])
def test_what_cannot_be_sent_is_refused_and_not_shown(token: Any) -> None:
    with pytest.raises(ArgumentError) as told:
        credentials.checked(token)

    assert not isinstance(token, str) or len(token) < 3 or token not in str(told.value)


# --- the command line


def test_the_command_makes_lists_and_revokes(
    run: Run, facts: Callable[..., Any], tmp_path: Path, file: TokenFile
) -> None:
    code, out, err = run("token", "add", "actor", "--scope", "read,append", "--tokens", file.path)
    assert (code, err) == (0, "")
    assert Tokens(file).find(out.strip()) is not None
    told = facts("token", "add", "learner", "--scope", "sample", "--path", "runs/**", "--tokens", file.path)
    assert Tokens(file).find(told["token"]) is not None

    listed = facts("token", "list", "--tokens", file.path)["tokens"]
    assert [(one["name"], one["scopes"], one["path"]) for one in listed] == [
        ("actor", ["read", "append"], "**"),
        ("learner", ["sample"], "runs/**"),
    ]
    assert "read,append" in run("token", "list", "--tokens", file.path)[1]

    assert run("token", "revoke", "actor", "--tokens", file.path) == (0, "", "")
    assert Tokens(file).find(out.strip()) is None
    code, out, err = run("token", "revoke", "actor", "--tokens", file.path)
    assert (code, out, err.count("\n")) == (1, "", 1)


@pytest.mark.parametrize(
    "arguments",
    [["add", "a", "--scope", "all"], ["add", "a b", "--scope", "read"], ["revoke", "a"]],
)
def test_bad_arguments_are_one_line(run: Run, tmp_path: Path, arguments: list[str]) -> None:
    code, out, err = run("token", *arguments, "--tokens", tmp_path / "none" / "tokens.json")

    assert (code, out, err.count("\n")) == (1, "", 1)
    assert not (tmp_path / "none" / "tokens.json").exists()
