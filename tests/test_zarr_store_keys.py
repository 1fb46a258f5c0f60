"""The keys of a `zarr_store()`, and their bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr_readers import keys, opened, value

from replaystore.schema.fields import Schema
from replaystore.testing.samples import every_dtype, small

pytest_plugins = ["zarr_readers"]


@pytest.mark.parametrize("schema", [small(), every_dtype()], ids=["small", "every dtype"])
def test_what_is_listed_is_what_there_is(tmp_path: Path, schema: Schema, small_chunks: None) -> None:
    with opened("live.zarr", tmp_path, schema) as buffer:
        store = buffer.zarr_store()
        everything = keys(store.list())
        sizes = {key: len(value(store, key) or b"") for key in everything}

        assert len(set(everything)) == len(everything)
        assert not [key for key in everything if key.startswith(("journal", "checksums"))]
        arrays = {key.removesuffix("/zarr.json") for key in everything if "/c." not in key}
        assert {key.rpartition("/c.")[0] for key in everything if "/c." in key} <= arrays
        for key, size in sizes.items():
            assert zarr_says(store, "exists", key)
            assert zarr_says(store, "getsize", key) == size > 0
        folders = {"", *("/".join(key.split("/")[:depth]) for key in everything for depth in range(1, 9))}
        for folder in sorted(folders - sizes.keys()):
            below = [key for key in everything if key.startswith(f"{folder}/" if folder else "")]
            assert keys(store.list_prefix(f"{folder}/" if folder else "")) == below, folder
            skip = len(folder) + 1 if folder else 0
            children = {key[skip:].split("/")[0] for key in below}
            for written in (folder, f"{folder}/"):
                assert sorted(keys(store.list_dir(written))) == sorted(children), folder
        assert keys(store.list_prefix("steps/rew")) == [k for k in everything if k.startswith("steps/rew")]
        assert zarr_says(store, "is_empty", "steps") is False
        assert zarr_says(store, "is_empty", "step") is True
        assert zarr_says(store, "getsize_prefix", "steps") == sum(
            size for key, size in sizes.items() if key.startswith("steps")
        )


def zarr_says(store: Any, method: str, *arguments: Any) -> Any:
    return zarr.core.sync.sync(getattr(store, method)(*arguments))


def test_what_is_no_key_has_no_value(tmp_path: Path, small_chunks: None) -> None:
    with opened("live.zarr", tmp_path, small()) as buffer:
        store = buffer.zarr_store()
        chunks = len(keys(store.list_dir("steps/reward"))) - 1
        assert chunks > 1
        wrong = ["", "zarr", "steps", "steps/reward", "steps/reward/c", "steps/nothing/zarr.json", ".zgroup"]
        wrong += [
            f"steps/reward/c{name}"
            for name in ("/0", f".{chunks}", ".-1", ".00", ".0.0", ".", ".x", ".\u0661", ".0/", ".0.")
        ]
        wrong += [
            f"steps/observation/camera/c.{name}"
            for name in ("0", "0.0", "0.0.1", "0.0.0.0", "0.1.0", "0/0/0")
        ]
        wrong += ["/zarr.json", "steps//zarr.json", "journal/log/zarr.json", "checksums/zarr.json", "c.0"]
        for key in wrong:
            assert value(store, key) is None, key
            assert not zarr_says(store, "exists", key), key
            with pytest.raises(FileNotFoundError):
                zarr_says(store, "getsize", key)


def test_ranges_of_bytes(tmp_path: Path) -> None:
    with opened("live.zarr", tmp_path, small()) as buffer:
        store = buffer.zarr_store()
        for key in ("zarr.json", "steps/reward/c.0", "steps/observation/camera/c.0.0.0", "parts/c.0.0"):
            whole = value(store, key)
            assert whole is not None
            parts = {
                RangeByteRequest(3, 9): whole[3:9],
                RangeByteRequest(3, 1 << 40): whole[3:],
                RangeByteRequest(4, 4): b"",
                OffsetByteRequest(10): whole[10:],
                OffsetByteRequest(1 << 40): b"",
                SuffixByteRequest(7): whole[-7:],
                SuffixByteRequest(1 << 40): whole,
                None: whole,
            }
            for part, bytes_there in parts.items():
                assert value(store, key, part) == bytes_there
            asked = [(key, part) for part in parts] + [("nothing", None)]
            found = zarr_says(store, "get_partial_values", default_buffer_prototype(), asked)
            assert [part.to_bytes() for part in found[:-1]] == list(parts.values())
            assert found[-1] is None
