"""A served store is what lies on the disk: read by all that takes a location, sampled to the same batches."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Run
from live_service import SCHEMA, recorded, serving, steps

import replaystore as rs
from replaystore import credentials, location
from replaystore.client.addresses import Address, of_request, with_token
from replaystore.client.told import error_of
from replaystore.errors import (
    ArgumentError,
    EvictedError,
    NotFoundError,
    SchemaError,
    StorageError,
    UnsupportedError,
)
from replaystore.gymnasium import RecordVector
from replaystore.service.serving import Running

pytest_plugins = ["commands", "live_service"]


# --- what is read


@pytest.mark.parametrize("name", ["a.zarr", "a.h5", "a.zarr.zip", "archive.zarr"])
def test_it_holds_what_lies_on_the_disk(running: Running, root: Path, name: str) -> None:
    if name.endswith(".zip"):
        rs.convert(recorded(root / "source.zarr"), root / name)
    else:
        recorded(root / name, layout="archive" if "archive" in name else "live")
    there = f"{running.address}/{name}"

    assert rs.digest(there) == rs.digest(root / name)
    assert rs.verify(there).problems == []
    with rs.open(there) as far, rs.open(root / name) as near:
        assert far.trajectories["return"].tolist() == near.trajectories["return"].tolist()
        assert far.trajectory(3).columns["reward"].tolist() == near.trajectory(3).columns["reward"].tolist()
        assert far.describe().storage.startswith("replay")
        assert [one.commit for one in far.commits()] == [one.commit for one in near.commits()]


def batches(place: Any, **options: Any) -> str:
    found = hashlib.sha256()
    with rs.open(place) as buffer:
        sampler = iter(buffer.sampler(64, seed=7, **options))
        for batch in islice(sampler, 20):
            for name, array in sorted(batch.items()):
                found.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


@pytest.mark.parametrize(
    "options", [{}, {"fragment_length": 4}, {"order": "epoch"}, {"order": "prioritized"}], ids=str
)
def test_batches_of_a_seed_are_the_same(running: Running, root: Path, options: dict[str, Any]) -> None:
    found = set()
    for name in ("a.zarr", "a.h5"):
        recorded(root / name, 500)
        found |= {batches(root / name, **options), batches(f"{running.address}/{name}", **options)}
    assert len(found) == 1


def test_a_reader_follows_and_opens_older_commits(running: Running, root: Path) -> None:
    address = f"{running.address}/a.zarr"
    with rs.create(root / "a.zarr", SCHEMA, capacity=100) as writer:
        writer.append(steps(0, 50))
        first = writer.commit()
        reader = rs.open(address)
        assert len(reader) == 50
        assert not reader.refresh()
        writer.append(steps(50, 50))
        commit = writer.commit()
        assert reader.refresh()
        assert reader["reward"][60] == 60.0
        with rs.open(address, commit=first) as older:
            assert len(older) == 50
        writer.append(steps(100, 100))
        writer.commit()
        with pytest.raises(EvictedError):
            rs.open(address, commit=commit)
        with pytest.raises(NotFoundError):
            rs.open(address, commit=99)
        reader.close()


def test_environments_are_recorded_through_a_server(running: Running, root: Path) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = []
        for place in (f"{running.address}/a.zarr", str(root / "b.zarr")):
            envs = gymnasium.make_vec("CartPole-v1", 3, vectorization_mode="sync")
            with rs.create(place, envs) as buffer:
                recording = RecordVector(envs, buffer, commit_every=20)
                recording.reset(seed=1)
                envs.action_space.seed(1)
                for _ in range(100):
                    recording.step(envs.action_space.sample())
                recording.close()
                assert buffer.environment is not None
                assert buffer.environment["id"] == "CartPole-v1"
            with rs.open(place) as buffer:
                found.append(
                    sorted(
                        buffer.trajectory(n).columns["observation"].tolist()
                        for n in range(buffer.num_trajectories)
                    )
                )
    assert found[0] == found[1]
    assert sum(map(len, found[0])) >= 270


# --- the command line


def test_commands_take_its_address(
    running: Running, root: Path, run: Run, facts: Callable[..., Any], tmp_path: Path
) -> None:
    recorded(root / "a.zarr")
    there = f"{running.address}/a.zarr"

    assert facts("info", there)["steps"] == 100
    assert "reward" in run("show", there, "--rows", "0:3")[1]
    assert run("verify", there)[0] == 0
    assert run("convert", there, tmp_path / "copy.h5")[0] == 0
    assert run("diff", tmp_path / "copy.h5", root / "a.zarr")[0] == 0
    assert run("diff", there, root / "a.zarr")[0] == 0


def test_what_goes_wrong_is_one_line_without_a_token(
    running: Running, root: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recorded(root / "a.zarr")
    for address in (
        f"{running.address}/none.zarr",
        f"{running.address}/a",
        f"{running.address}",
        f"{running.address}/../a.zarr",
        f"{running.address}/a.zarr?token=x",
    ):
        code, out, err = run("info", address)
        assert (code, out, err.count("\n")) == (1, "", 1)
    assert run("repair", f"{running.address}/a.zarr")[0] == 1
    assert run("convert", root / "a.zarr", f"{running.address}/b.zarr")[0] == 1
    monkeypatch.setenv(credentials.VARIABLE, "wrong-and-secret")
    code, out, err = run("info", f"{running.address}/a.zarr")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "REPLAYSTORE_TOKEN" in err
    assert "wrong-and-secret" not in err
    monkeypatch.setenv(credentials.VARIABLE, "no token at all")
    code, out, err = run("info", f"{running.address}/a.zarr")
    assert (code, err.count("\n")) == (1, 1)
    assert "no token at all" not in err


def test_a_token_goes_to_servers_alone(root: Path) -> None:
    recorded(root / "a.zarr")
    with pytest.raises(ArgumentError, match="leave out token"):
        rs.open(root / "a.zarr", token="abc")
    with pytest.raises(ArgumentError):
        rs.open("replay://localhost/a.zarr", token="a b")


# --- TLS


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_with_tls_others_are_let_in(
    root: Path, user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(root / "a.zarr")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    with serving(root, host="0.0.0.0", tls=(str(certificate), str(key))) as running:
        address = f"replays://localhost:{running.port}/a.zarr"
        assert running.address.startswith("replays://")
        with pytest.raises(StorageError, match="not one to trust"):
            rs.open(address)
        with pytest.raises(ArgumentError, match="certificate"):
            serve_with(root, key, certificate)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        from replaystore.storage.http import connections

        connections._connections.start_anew()  # which has kept what it trusted
        with rs.open(address) as buffer:
            assert len(buffer) == 100
        connections._connections.start_anew()


def serve_with(root: Path, certificate: Path, key: Path) -> None:
    from replaystore.service.serving import Settings, serve

    serve(Settings(str(root), port=0, tls=(str(certificate), str(key))))


# --- addresses and errors


def test_addresses_are_read() -> None:
    found = Address.of("replay://host/runs/a%20b.zarr")
    assert (found.host, found.port, found.store) == ("host", 8742, "runs/a b.zarr")
    assert found.files == "http://host:8742/v1/stores/runs/a%20b.zarr/files"
    assert of_request(found.files + "/steps/x") == "replay://host:8742/runs/a b.zarr/steps/x"
    assert of_request(found.files) == "replay://host:8742/runs/a b.zarr"
    assert Address.of("replays://[::1]:1/a.h5").server == "https://[::1]:1"
    place = location.parse("replay://host/a.zarr")
    secret = with_token(place.path, "secret")
    assert Address.of(secret).token == "secret"
    assert "secret" not in f"{location.parse(secret)}{location.parse(secret)!r}"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (422, b'{"error": "SchemaError", "message": "no"}', SchemaError),
        (422, b'{"error": "UnsupportedError", "message": "no"}', UnsupportedError),
        (507, b'{"error": "StorageError", "message": "full"}', StorageError),
        (410, b'{"error": "EvictedError", "message": "gone"}', EvictedError),
        (500, b'{"error": "SystemExit", "message": "no"}', None),
        (500, b'{"error": "ReplayStoreWarning", "message": "no"}', None),
        (500, b'{"error": 3}', None),
        (500, b"[" * 3000, None),
        (500, b"", None),
    ],
)
def test_errors_come_back_as_they_were(status: int, body: bytes, kind: type[Exception] | None) -> None:
    found = error_of(status, body, "replay://a")
    assert type(found) is (type(None) if kind is None else kind)
    if status == 507:
        assert isinstance(found, StorageError)
        assert found.errno == 28
