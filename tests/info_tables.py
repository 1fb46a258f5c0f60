"""A model of the columns that infos are recorded in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import gymnasium
import numpy as np
from numpy.typing import NDArray

from replaystore.gymnasium.infos import InfoColumns, batch_of_one
from replaystore.schema.fields import Field, Schema

if TYPE_CHECKING:
    from replaystore.buffers.buffer import Buffer


Rows = dict[str, list[Any]]


class Table:
    """What InfoColumns needs of a buffer, and the rows that it was given."""

    def __init__(self, fields: Mapping[str, Field] | None = None) -> None:
        self.schema = Schema({"reward": Field(np.dtype(float), (), "reward"), **(fields or {})})
        self.rows: Rows = {name: [] for name in self.schema.fields}

    @property
    def rows_recorded(self) -> int:
        return len(self.rows["reward"])

    def add_fields(self, declared: Mapping[str, Field], *, fill: Mapping[str, int]) -> None:
        self.schema = self.schema.with_fields(declared)
        for name, kind in declared.items():
            self.rows[name] = [np.full(kind.shape, fill[name], kind.dtype) for _ in range(self.rows_recorded)]

    def add(
        self, columns: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_] | None = None, rows: int = 1
    ) -> None:
        columns = {**columns, "reward": np.zeros(len(next(iter(columns.values()), range(rows))))}
        assert columns.keys() == self.schema.fields.keys()
        for name, values in columns.items():
            declared = self.schema.fields[name]
            assert values.dtype == declared.dtype
            assert values.shape[1:] == declared.shape
            self.rows[name].extend(np.array(values if mask is None else values[mask]))

    def column(self, name: str) -> list[Any]:
        return [value.tolist() for value in self.rows[name]]


class BothWays(InfoColumns):
    """Wherever a writer would take what the quick way makes, the other way makes the same."""

    quick = 0
    """How many times it would."""

    def columns(self, infos: Any, resetting: Any = None, final: Any = None) -> dict[str, NDArray[Any]]:
        quick = self.usual(infos) if resetting is None and final is None else None
        fields, left_out = self.keys.schema.fields, self.left_out.copy()
        found = super().columns(infos, resetting, final)
        if quick is None or quick.keys() != {name for name in fields if name.startswith("info/")}:
            return found
        for name, values in quick.items():
            declared = fields[name]
            if type(values) is not np.ndarray or values.dtype != declared.dtype:
                return found
            if values.shape != (self._num_envs, *declared.shape):
                return found
        self.quick += 1
        assert self.left_out == left_out
        assert quick.keys() == found.keys()
        for name, values in quick.items():
            np.testing.assert_array_equal(values, found[name], err_msg=name)
        return found


def columns_of(table: Table, num_envs: int = 1, selected: Any = True, *, masks: bool = True) -> BothWays:
    return BothWays(
        cast("Buffer", table), num_envs, selected, masks=masks, reserved=("final_obs", "final_info")
    )


def record(*infos: Mapping[Any, Any], selected: Any = True, table: Table | None = None) -> Table:
    """Record the infos of one environment, step after step."""
    table = Table() if table is None else table
    columns = columns_of(table, selected=selected, masks=False)
    for info in infos:
        table.add(columns.columns(batch_of_one(info)))
    return table


def vector(*infos: Mapping[str, Any]) -> dict[str, Any]:
    """The infos of a vector environment, as Gymnasium makes them."""
    env = gymnasium.vector.VectorEnv[Any, Any, Any]()
    env.num_envs = len(infos)
    batch: dict[str, Any] = {}
    for place, info in enumerate(infos):
        batch = env._add_info(batch, dict(info), place)
    return batch


def fields(table: Table) -> dict[str, str]:
    return {name: str(declared.dtype) for name, declared in table.schema.fields.items() if name != "reward"}
