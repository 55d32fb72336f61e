"""A source that was read: clean types, known columns, nothing lost without a count."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from ouzel.data.raw import LINE
from ouzel.data.report import ReadReport
from ouzel.events.columns import EventColumns


@dataclass(frozen=True)
class Dataset:
    """Events in file order, and the items if the source describes them.

    `frame`: user_id, item_id, event (str), timestamp (int64, UTC ms), value (float32, null if
    absent), line (uint32, where in the source). `items`: item_id, title, genres (str).
    `digest`: SHA-256 (hex) of the source of the events.
    """

    frame: pl.DataFrame
    items: pl.DataFrame | None
    report: ReadReport
    digest: str

    def with_frame(self, frame: pl.DataFrame) -> Dataset:
        """Return this dataset with other events, such as a cleaned frame."""
        return replace(self, frame=frame)

    def columns(self) -> EventColumns:
        """Return the events as columns for `EventLog.import_frame`.

        >>> import ouzel.data
        >>> len(ouzel.data.from_arrow(pl.DataFrame({"user": ["u"], "item": ["i"]})).columns())
        1
        """
        frame = self.frame
        return EventColumns(
            frame["user_id"].to_list(),
            frame["item_id"].to_list(),
            frame["event"].to_list(),
            frame["timestamp"].to_numpy().astype(np.int64),
            frame["value"].fill_null(float("nan")).to_numpy().astype(np.float32),
            frame[LINE].to_numpy().astype(np.int64),
        )

    def item_columns(self) -> dict[str, list[str]]:
        """Return the item table as lists for `EventLog.import_frame`, empty if there is none.

        >>> import ouzel.data
        >>> ouzel.data.from_arrow(pl.DataFrame({"user": ["u"], "item": ["i"]})).item_columns()
        {}
        """
        if self.items is None:
            return {}
        return {name: self.items[name].to_list() for name in self.items.columns}
