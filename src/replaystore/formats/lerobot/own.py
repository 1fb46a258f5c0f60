"""A dataset of LeRobot that replaystore wrote: as others', and what LeRobot does not look at (plan.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from replaystore.errors import FormatError
from replaystore.formats.lerobot.dataset import OWN, Dataset, json_file
from replaystore.formats.lerobot.plan import Plan
from replaystore.formats.lerobot.reading import Foreign
from replaystore.formats.lerobot.writing import FINALS, STEPS, TRAJECTORIES
from replaystore.formats.shared.arrow.fields import check_column, joined, values_of
from replaystore.formats.shared.arrow.reading import Table, opened_table
from replaystore.formats.shared.arrow.values import numbers, ragged
from replaystore.formats.shared.cutting import Run
from replaystore.formats.source import Source
from replaystore.schema.field import Field
from replaystore.schema.ragged import Ragged
from replaystore.schema.roles import FLAGS

__all__ = ["Own", "own_plan"]

PASS_BYTES = 1 << 20


def own_plan(dataset: Dataset) -> Plan | None:
    """What replaystore said of a dataset; None: others recorded it, or have changed it since, which a remark
    says."""
    path = os.path.join(dataset.path, OWN)
    if not os.path.isfile(path):
        return None
    plan = Plan.from_json(json_file(path), path)
    said = dataset.info.get("total_frames"), dataset.info.get("total_episodes")
    missing = [name for name in plan.names.values() if name not in dataset.features]
    if said == (plan.steps, plan.trajectories) and not missing:
        return plan
    dataset.remarks.append(
        f"others have changed the dataset since replaystore wrote it, so that {OWN} was left out: final "
        "observations, seeds, splits and what else LeRobot does not hold are not read"
    )
    return None


class Own(Foreign):
    """Such a dataset."""

    def __init__(self, dataset: Dataset, plan: Plan) -> None:
        self.dataset, self.episodes, self.plan = dataset, dataset.episodes(), plan
        self.fields, self.names = {}, {feature: name for name, feature in plan.names.items()}
        self.declared, self.task = dict(plan.schema.fields), plan.task
        if self.task and dataset.tasks is None:
            raise FormatError(f"{dataset.path} has no meta/tasks.parquet any more: copy it there")
        if (self.episodes.steps, len(self.episodes.lengths)) != (plan.steps, plan.trajectories):
            raise FormatError(
                f"{dataset.path} holds {self.episodes.steps} steps in {len(self.episodes.lengths)} episodes, "
                f"and {OWN} speaks of {plan.steps} in {plan.trajectories}: restore what is missing"
            )

    def source(self) -> Source:
        """As a format gives it."""
        plan = self.plan
        table = self._table()
        splits = [table["split"][at] for at in range(len(table["split"]))]
        return Source(
            plan.schema,
            self.blocks(splits),
            environment=plan.environment,
            metadata=plan.metadata or None,
            splits=[name for name in dict.fromkeys(splits) if name],
            columns=plan.columns,
            steps=plan.steps,
            trajectories=plan.trajectories,
            details={"version": self.dataset.info["codebase_version"]},
            remarks=list(self.dataset.remarks),
        )

    def _table(self) -> dict[str, Any]:
        """What is said of each trajectory."""
        path = os.path.join(self.dataset.path, TRAJECTORIES)
        found: dict[str, list[Any]] = {}
        with opened_table(path) as table:
            names = ["seed", "env", *FLAGS, *(f"column/{name}" for name in self.plan.columns)]
            _check_there(table, [*names, "split"])
            for batch in table.batches(PASS_BYTES, [*names, "split"]):
                for name in names:
                    found.setdefault(name, []).append(numbers(batch[name], f"{path}, column {name!r}", ()))
                found.setdefault("split", []).append(ragged(batch["split"], f"{path}, column 'split'"))
        empty: dict[str, Any] = dict.fromkeys(names, np.zeros(0, np.int64))
        empty["split"] = Ragged.empty(0, text=True)
        whole = {name: joined(found[name]) if name in found else empty[name] for name in empty}
        if any(len(values) != self.plan.trajectories for values in whole.values()):
            raise FormatError(
                f"{path} has not a row for each of {self.plan.trajectories} episodes: restore it"
            )
        return whole

    def runs(self, max_bytes: int, splits: Sequence[str]) -> Iterator[Run]:
        """All rows, with what is beside them."""
        plan, table = self.plan, self._table()
        with ExitStack() as stack:
            steps = finals = None
            if plan.fields("beside"):
                steps = stack.enter_context(_cursor(self.dataset, STEPS, plan.fields("beside"), max_bytes))
            if plan.finals:
                row = {"row": Field("int64", (), "extra")}
                finals = stack.enter_context(_cursor(self.dataset, FINALS, row | plan.observed, max_bytes))
            begin, number = 0, -1
            for run in super().runs(max_bytes, splits):
                each = np.cumsum(run.begins) + number
                number = int(each[-1])
                columns = {**run.columns, **(steps.take(len(run)) if steps else {})}
                known = finals.before(begin + len(run)) if finals else {}
                told = {name: table[name][each] for name in ("seed", "env")}
                told |= {name: table[name][each] for name in plan.flags}
                rows = known.pop("row", np.zeros(0, np.int64)) - begin
                if len(rows) and rows[0] < 0:
                    raise FormatError(f"{self.dataset.path}: {FINALS} is not in order: it is damaged")
                yield Run(
                    {name: columns[name] for name in plan.schema.fields},
                    run.begins,
                    rows,
                    known if len(rows) else {},
                    told={**run.told, **told},
                    table={name: table[f"column/{name}"][each].astype(d) for name, d in plan.columns.items()},
                )
                begin += len(run)


class _Cursor:
    """Rows of a table that are read one behind the other, as many as are asked for."""

    def __init__(self, table: Table, fields: Mapping[str, Field], max_bytes: int) -> None:
        self.path, self.fields = table.path, fields
        _check_there(table, list(fields))
        for name, declared in fields.items():
            check_column(declared, table.types[name], f"{table.path}, column {name!r}")
        self._batches = table.batches(max_bytes, list(fields))
        self._waiting: dict[str, Any] | None = None
        self._count = 0

    def _more(self) -> bool:
        batch = next(self._batches, None)
        if batch is None:
            return False
        rows = {
            name: values_of(batch[name], declared, f"{self.path}, column {name!r}")
            for name, declared in self.fields.items()
        }
        before = self._waiting if self._count else None
        self._waiting = (
            rows if before is None else {name: joined([before[name], rows[name]]) for name in rows}
        )
        self._count = len(next(iter(self._waiting.values())))
        return True

    def take(self, count: int) -> dict[str, Any]:
        """So many rows. FormatError: there are fewer."""
        while self._count < count:
            if not self._more():
                raise FormatError(f"{self.path} has fewer rows than the dataset has steps: it is damaged")
        assert self._waiting is not None, "a row is waiting"
        found = {name: rows[:count] for name, rows in self._waiting.items()}
        self._waiting = {name: rows[count:] for name, rows in self._waiting.items()}
        self._count -= count
        return found

    def before(self, row: int) -> dict[str, Any]:
        """Those whose column `row` is below this."""
        while True:
            rows = self._waiting["row"] if self._waiting is not None else np.zeros(0, np.int64)
            if (len(rows) and rows[-1] >= row) or not self._more():
                break
        count = int(np.searchsorted(rows, row))
        return self.take(count) if count else {}


@contextmanager
def _cursor(dataset: Dataset, name: str, fields: Mapping[str, Field], max_bytes: int) -> Iterator[_Cursor]:
    """A cursor in a file of a dataset, while it is open."""
    with opened_table(os.path.join(dataset.path, name)) as table:
        yield _Cursor(table, fields, max_bytes)


def _check_there(table: Table, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in table.types]
    if missing:
        raise FormatError(f"{table.path} has no column {missing[0]!r}: it is damaged")
