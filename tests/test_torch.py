"""Datasets in DataLoaders: every item once, in one order, whatever the number of workers and however they are
started."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import replaystore as rs
from replaystore.errors import SchemaError, UnsupportedError
from replaystore.schema.fields import Field
from replaystore.torch import BatchDataset, ItemDataset, data_loader

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*pin_memory:UserWarning", ("ignore:This DataLoader will create:UserWarning")
)
STORAGE = {".zarr": {}, ".h5": {}, " .zarr": {"observation": {"codec": "zstd:1", "chunk_rows": 16}}}


@pytest.fixture(params=STORAGE)
def buffer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[rs.Buffer]:
    """300 steps whose number is in every field, in trajectories of 7."""
    fields = {
        "observation": Field("i4", (3,), "observation"),
        "action": Field("i8", (), "action"),
        "terminated": Field("?", (), "terminated"),
    }
    path = tmp_path / f"a{request.param.strip()}"
    with rs.create(path, rs.Schema(fields), storage=STORAGE[request.param]) as buffer:
        numbers = np.arange(300)
        finals = np.repeat(1000 + numbers[6::7, None], 3, axis=1).astype("i4")
        last = np.array([[1299] * 3], "i4")
        observations = np.repeat(numbers[:, None], 3, axis=1).astype("i4")
        buffer.append(
            {"observation": observations, "action": numbers, "terminated": numbers % 7 == 6},
            final_observation=np.concatenate([finals, last]),
        )
    with rs.open(path) as buffer:
        yield buffer


def shown(loader: Any) -> list[list[int]]:
    batches = []
    for batch in loader:
        assert torch.equal(batch["observation"][:, 0].long(), batch["action"])
        following = batch["next_observation"][:, 0].long() - batch["action"]
        assert torch.equal(following, torch.where(batch["terminated"] | (batch["action"] == 299), 1000, 1))
        batches.append(batch["action"].tolist())
    return batches


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize("kept", [False, True])
def test_every_row_comes_once_an_epoch_in_the_order_of_the_sampler(
    buffer: rs.Buffer, workers: int, kept: bool
) -> None:
    expected = [
        [batch["action"].tolist() for batch in epoch]
        for sampler in [buffer.sampler(32, order="epoch", seed=3)]
        for epoch in (sampler, sampler)
    ]
    loader = data_loader(BatchDataset(buffer, 32, seed=3), workers, persistent_workers=kept and workers > 0)

    assert len(loader) == 10
    for epoch in range(2):
        batches = shown(loader)
        assert batches == expected[epoch]
        assert Counter(number for batch in batches for number in batch) == Counter(range(300))


def test_workers_that_are_started_anew_open_the_store_for_themselves(buffer: rs.Buffer) -> None:
    dataset = BatchDataset(buffer.location, 64, seed=1)
    alone = shown(dataset)
    dataset.set_epoch(0)

    assert (
        shown(DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="spawn")) == alone
    )


def test_workers_are_forked_while_a_sampler_is_working(buffer: rs.Buffer) -> None:
    sampler = buffer.sampler(32, seed=2, prefetch=3)
    sampler.sample()
    dataset = BatchDataset(buffer, 32, order="uniform", seed=3)
    batches = iter(data_loader(dataset, 2))
    for number in range(6):
        assert next(batches)["action"].tolist() == uniform(buffer, number)
        sampler.sample()


def uniform(buffer: rs.Buffer, number: int) -> list[int]:
    sampler = buffer.sampler(32, seed=3)
    found: list[int] = [sampler.sample()["action"].tolist() for _ in range(number + 1)][-1]
    return found


def test_an_epoch_can_be_chosen(buffer: rs.Buffer) -> None:
    dataset = BatchDataset(buffer, 32, seed=3)
    epochs = [shown(dataset) for _ in range(3)]
    dataset.set_epoch(1)
    assert shown(dataset) == epochs[1]
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(
    "settings", [{}, {"batch_size": 1}, {"batch_size": 32, "drop_last": True}, {"num_workers": 1}], ids=str
)
def test_batches_are_not_collated_into_batches_again(buffer: rs.Buffer, settings: dict[str, Any]) -> None:
    with pytest.raises(
        SchemaError,
        match=(
            r"whole batches, of 32 each.*DataLoader\(dataset, "
            r"batch_size=None\).*data_loader\(dataset\)"
        ),
    ):
        # PyTorch waits 5 s for each worker that fails so early.
        next(iter(DataLoader(BatchDataset(buffer, 32), **settings)))


def test_a_collate_function_of_the_users_own_gets_several_batches(buffer: rs.Buffer) -> None:
    loader = DataLoader(BatchDataset(buffer, 32), batch_size=2, collate_fn=list)
    assert [len(batches) for batches in loader] == [2, 2, 2, 2, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_items_are_found_by_number(buffer: rs.Buffer, workers: int) -> None:
    dataset = ItemDataset(buffer)
    assert len(dataset) == 300
    assert dataset[7]["action"].item() == 7
    assert dataset[-1]["next_observation"].tolist() == [1299] * 3
    with pytest.raises(IndexError, match="there are 300 items"):
        dataset[300]
    loader = DataLoader(dataset, batch_size=32, shuffle=True, num_workers=workers)
    assert sorted(number for batch in shown(loader) for number in batch) == list(range(300))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("prefetch", [0, 2])
def test_batches_come_to_a_gpu_as_they_are(buffer: rs.Buffer, prefetch: int) -> None:
    """Pinned memory is used again while copies are under way: what arrives must be each batch's own."""
    batches = [*buffer.sampler(32, order="epoch", seed=3, prefetch=prefetch, device="cuda")]
    expected = [*buffer.sampler(32, order="epoch", seed=3)]
    torch.cuda.synchronize()
    for batch, wanted in zip(batches, expected, strict=True):
        assert batch.keys() == wanted.keys()
        for name, values in batch.items():
            assert values.is_cuda
            np.testing.assert_array_equal(values.cpu().numpy(), wanted[name])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_pins_memory_where_there_is_a_gpu(buffer: rs.Buffer, workers: int) -> None:
    for batch in data_loader(BatchDataset(buffer, 32, seed=3), workers):
        assert all(values.is_pinned() for values in batch.values())


def test_fragments_and_stacks_come_as_batches(buffer: rs.Buffer) -> None:
    fragments = ItemDataset(buffer, fragment_length=5, split="")
    assert len(fragments) == 42 * 3 + 2
    assert fragments[0]["observation"].shape == (5, 3)
    batch = next(iter(data_loader(BatchDataset(buffer, 8, frame_stack=4, order="uniform"), 1)))
    assert batch["observation"].shape == batch["next_observation"].shape == (8, 4, 3)


def test_what_makes_no_sense_is_refused(buffer: rs.Buffer) -> None:
    for settings in ({"prefetch": 2}, {"device": "cpu"}):
        with pytest.raises(SchemaError, match="the DataLoader does that"):
            BatchDataset(buffer, 32, **settings)
    with pytest.raises(SchemaError, match="BatchDataset"):
        ItemDataset(buffer, order="epoch")
    with pytest.raises(UnsupportedError, match=r"buffer\.sampler"):
        BatchDataset(buffer, 32, weights=np.ones(300))
    with pytest.raises(UnsupportedError, match=r"priorities change in one process.*buffer\.sampler"):
        BatchDataset(buffer, 32, order="prioritized")
    for made in (BatchDataset, ItemDataset):
        for chosen in ({}, {"order": "uniform"}) if made is BatchDataset else ({},):
            for source in (buffer, buffer.whereabouts):
                with pytest.raises(
                    UnsupportedError, match=r"leave out live, or iterate over buffer\.sampler"
                ):
                    made(source, live=True, **chosen)
    with pytest.raises(TypeError, match="no end"):
        len(BatchDataset(buffer, 32, order="uniform"))
    with (
        rs.create("memory:datasets", buffer.schema, overwrite=True) as memory,
        pytest.raises(UnsupportedError, match="in memory"),
    ):
        BatchDataset(memory)


def test_a_dataset_shows_one_commit(tmp_path: Path) -> None:
    with rs.create(
        tmp_path / "a.zarr",
        rs.Schema({"action": Field("i8", (), "action"), "terminated": Field("?", (), "terminated")}),
    ) as writer:
        columns = {"action": np.arange(10), "terminated": np.arange(10) == 9}
        writer.append(columns)
        writer.commit()
        dataset = BatchDataset(writer, 4)
        writer.append(columns)
        writer.commit()
        assert sum(len(batch["action"]) for batch in data_loader(dataset, 1)) == 10
        assert sum(len(batch["action"]) for batch in BatchDataset(tmp_path / "a.zarr", 4)) == 20
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert sum(len(batch["action"]) for batch in BatchDataset(tmp_path / "a.zarr", 4, commit=1)) == 10


def test_a_dataset_of_a_relative_location_is_read_from_wherever_the_process_has_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an open buffer, and of a location; both open the store anew, later."""
    monkeypatch.chdir(tmp_path)
    with rs.create("a.zarr", rs.Schema({"reward": rs.Field("float32", (), "reward")})) as buffer:
        buffer.append({"reward": np.arange(40, dtype=np.float32)})
    with rs.open("a.zarr") as buffer:
        by_name = BatchDataset("a.zarr", batch_size=8, order="epoch", next_observation=False)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        for dataset in (by_name, BatchDataset(buffer, batch_size=8, order="epoch", next_observation=False)):
            assert sorted(float(value) for batch in dataset for value in batch["reward"]) == list(range(40))
