"""HDF5 files that are cut or have flipped bits are refused or read, and never stop the interpreter."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import h5py
import pytest
from hdf5_story import (
    NAME,
    SPECS,
    State,
    reader_of,
    step_arrays,
    step_chunks,
    step_commit,
    step_document,
    step_publish,
    step_segment,
)

import replaystore as rs
from replaystore.containers.hdf5.container import Hdf5Container
from replaystore.containers.hdf5.front import USERBLOCK
from replaystore.errors import ReplayStoreError
from replaystore.storage.local import Files
from replaystore.testing import samples
from replaystore.testing.crashes import tiny

pytest_plugins = ["hdf5_story"]


def damaged(folder: Path, data: bytes, state: State) -> bool:
    """Open a damaged store and read all of it; whether the damage was noticed. What is not noticed must be
    right."""
    (folder / NAME).write_bytes(data)
    noticed, messages = False, list[str]()
    for writable in (False, True):
        try:
            container = Hdf5Container.open(Files(folder, writable=writable), NAME, writable=writable)
            specs = dict(container.specs())
            assert container.document() == state.document
            for name, rows in state.rows.items():
                container.extents(name, 0, len(rows) // SPECS[name].row_bytes)
            for name, number in state.chunks:
                container.entry(name, number)
            assert {name: specs[name] for name in state.arrays if name in specs}.items() <= SPECS.items()
            noticed = noticed or set(specs) != state.arrays
            container.segments()
        except ReplayStoreError as error:
            messages.append(str(error))
    assert all((NAME in message or "chunk" in message) and "\n" not in message for message in messages)
    return noticed or bool(messages)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, bytes, State]:
    container = Hdf5Container.create(Files(tmp_path, writable=True), NAME, {})
    state = State({}, frozenset())
    for step in (
        step_arrays(*SPECS),
        step_segment(0),
        step_commit(70, seed=1),
        step_chunks(0, 1),
        step_document(100),
        step_publish,
    ):
        state = step(container, state)
    container.close()
    return tmp_path, (tmp_path / NAME).read_bytes(), state


def test_truncated_files_are_refused_and_never_stop_the_interpreter(small: tuple[Path, bytes, State]) -> None:
    folder, data, state = small
    chance = random.Random(0)
    for length in [
        0,
        5,
        19,
        600,
        20480,
        USERBLOCK,
        USERBLOCK + 48,
        *(chance.randrange(len(data)) for _ in range(40)),
        len(data) - 1,
    ]:
        assert damaged(folder, data[:length], state)


def test_flipped_bits_of_metadata_are_noticed_or_harmless(small: tuple[Path, bytes, State]) -> None:
    folder, data, state = small
    chance = random.Random(1)
    metadata = (
        [place for place in range(USERBLOCK, USERBLOCK + 6000) if data[place]]
        + list(range(24))
        + list(range(12288, 12360))
    )
    noticed = 0
    for place in chance.sample(metadata, 250):
        changed = bytearray(data)
        changed[place] ^= 1 << chance.randrange(8)
        noticed += damaged(folder, bytes(changed), state)
    assert noticed > 50


def test_flipped_bits_of_a_head_leave_the_other(container: Hdf5Container) -> None:
    container.begin_segment(0, b"base")
    container.append_record(b"one")
    container.append_record(b"two")
    head = container._log._head
    assert head is not None
    container.files.write(NAME, head.slot + 20, b"\xff")
    assert reader_of(container).read_segment(0) == b"baseone"


def test_a_head_that_points_outside_the_file_is_ignored(container: Hdf5Container) -> None:
    container.begin_segment(0, b"base")
    head = container._log._head
    assert head is not None
    wrong = replace(head, sequence=head.sequence + 1, used=1 << 50, pieces=((1 << 40, 1 << 50),))
    container.files.write(NAME, wrong.slot, wrong.pack())
    assert reader_of(container).read_segment(0) == b"base"


def test_the_header_of_every_object_is_looked_at(tmp_path: Path) -> None:
    """Other software reads all of them; we find some, such as the directory, by other ways."""
    path = tmp_path / "a.h5"
    with tiny(), rs.create(path, samples.small()) as buffer:
        for seed in range(3):
            buffer.append(samples.columns(buffer.schema, 9, seed=seed))
            buffer.commit()
    places: dict[str, int] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, node: places.update({name: h5py.h5o.get_info(node.id).addr}))
        begin = file.userblock_size
    sound = path.read_bytes()

    assert any("directory" in name for name in places)
    for name, place in places.items():
        for at in (4, 12, 20, 40):
            damaged = bytearray(sound)
            damaged[begin + place + at] ^= 1
            path.write_bytes(damaged)
            with patch("replaystore.checking.verify._probe", lambda *_: True):
                assert rs.verify(path).problems, (name, at)
