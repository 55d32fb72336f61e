"""`--map`: which of its entries are refused."""

from __future__ import annotations

import pytest

from ouzel.cli.column_map import column_map


@pytest.mark.parametrize(
    "pairs", [["user_id"], ["=x"], ["user_id=a", "item_id=a"], ["user_id=a", "user_id=b"]]
)
def test_entries_that_are_no_map_are_refused(pairs) -> None:
    with pytest.raises(ValueError, match="--map"):
        column_map(pairs)
