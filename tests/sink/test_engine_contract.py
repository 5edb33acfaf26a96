"""What the sink relies on, and guards against, in the engine. Measured, not read.

A new engine that fails one of these needs a look at `services/sink/` before the version below is
raised: each case says which choice rests on it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, DataError

from services.sink.warehouse import INSERT_SETTINGS, Warehouse

pytestmark = pytest.mark.clickhouse

ENGINE = "26.9."


def table(warehouse: Warehouse, *, window: int | None, engine: str = "MergeTree") -> None:
    setting = "" if window is None else f"SETTINGS non_replicated_deduplication_window = {window}"
    warehouse.command(f"CREATE OR REPLACE TABLE t (n Int64) ENGINE = {engine} ORDER BY n {setting}")


def insert(
    warehouse: Warehouse,
    numbers: Sequence[int],
    token: str | None,
) -> None:
    named = ", ".join(f"{name} = {value}" for name, value in INSERT_SETTINGS.items())
    if token is not None:
        named += f", insert_deduplication_token = '{token}'"
    values = ", ".join(f"({number})" for number in numbers)
    warehouse.command(f"INSERT INTO t SETTINGS {named} VALUES {values}")


def rows(warehouse: Warehouse) -> list[int]:
    return [n for (n,) in warehouse.query("SELECT n FROM t ORDER BY n").rows]


def test_the_engine_is_the_one_these_cases_were_measured_on(warehouse: Warehouse) -> None:
    assert str(warehouse.query("SELECT version()").rows[0][0]).startswith(ENGINE)


def test_a_token_does_nothing_without_a_window(warehouse: Warehouse) -> None:
    table(warehouse, window=None)
    for _ in range(3):
        insert(warehouse, [1, 2, 3], "token")
    assert len(rows(warehouse)) == 9


def test_a_token_within_the_window_makes_a_repeat_nothing(warehouse: Warehouse) -> None:
    table(warehouse, window=1000)
    for _ in range(3):
        insert(warehouse, [1, 2, 3], "token")
    assert rows(warehouse) == [1, 2, 3]


def test_the_same_token_drops_other_data(warehouse: Warehouse) -> None:
    table(warehouse, window=1000)
    insert(warehouse, [1], "token")
    insert(warehouse, [2], "token")
    assert rows(warehouse) == [1]


def test_without_a_token_an_equal_second_batch_is_dropped(warehouse: Warehouse) -> None:
    """So every insert has a token, and no two the same."""
    table(warehouse, window=1000)
    for _ in range(2):
        insert(warehouse, [1], None)
    assert rows(warehouse) == [1]
    for _ in range(2):
        warehouse.insert("t", ["n"], [[1]])
    assert rows(warehouse) == [1, 1, 1]


def test_what_turns_it_off_differs_by_version(warehouse: Warehouse) -> None:
    table(warehouse, window=1000)
    for off, found in (("insert_deduplicate = 0", 1), ("deduplicate_insert = 'disable'", 3)):
        for _ in range(2):
            warehouse.command(f"INSERT INTO t SETTINGS async_insert = 0, {off} VALUES (1)")
        assert len(rows(warehouse)) == found


def test_a_window_forgets(warehouse: Warehouse) -> None:
    """So rows are keyed by event id as well, and what is in the archive is not inserted again."""
    table(warehouse, window=5)
    for _ in range(2):
        for number in range(7):
            insert(warehouse, [number], f"token {number}")
    assert len(rows(warehouse)) == 14


def test_after_a_deletion_the_token_is_still_refused(warehouse: Warehouse) -> None:
    table(warehouse, window=1000)
    insert(warehouse, [1], "token")
    warehouse.command("ALTER TABLE t DELETE WHERE n = 1")
    insert(warehouse, [1], "token")
    assert rows(warehouse) == []
    insert(warehouse, [1], "another token")
    assert rows(warehouse) == [1]


def test_a_token_outlives_rows_that_a_crash_took(warehouse: Warehouse) -> None:
    """So no token comes twice: the retry of an insert that was killed halfway would be dropped.

    The engine puts the token down, and then puts the part in its place. A kill between the two is
    made here by taking the part away from a table that is not loaded: nobody looks for it.
    """
    table(warehouse, window=1000)
    insert(warehouse, [1], "token")
    parts = "SELECT path FROM system.parts WHERE database = currentDatabase() AND table = 't'"
    ((part,),) = warehouse.query(f"{parts} AND active").rows
    warehouse.command("DETACH TABLE t")
    shutil.rmtree(part)
    warehouse.command("ATTACH TABLE t")
    insert(warehouse, [1], "token")
    assert rows(warehouse) == []
    warehouse.insert("t", ["n"], [[1]])
    assert rows(warehouse) == [1]


def test_after_a_truncation_the_token_is_accepted(warehouse: Warehouse) -> None:
    table(warehouse, window=1000)
    insert(warehouse, [1], "token")
    warehouse.command("TRUNCATE TABLE t")
    insert(warehouse, [1], "token")
    assert rows(warehouse) == [1]


BIG = "SELECT number FROM numbers(3000000)"


def blocks(warehouse: Warehouse) -> int:
    found = warehouse.query(
        "SELECT count() FROM system.parts "
        "WHERE database = currentDatabase() AND table = 't' AND level = 0 AND active"
    )
    return int(found.rows[0][0])


def test_one_insert_is_one_block_only_when_told(warehouse: Warehouse) -> None:
    """So that it is whole or not there."""
    table(warehouse, window=1000)
    warehouse.command("SYSTEM STOP MERGES t")
    warehouse.command(f"INSERT INTO t SETTINGS async_insert = 0 {BIG}")
    assert blocks(warehouse) > 1
    table(warehouse, window=1000)
    warehouse.command("SYSTEM STOP MERGES t")
    warehouse.insert("t", ["n"], [range(3_000_000)])
    assert blocks(warehouse) == 1


def test_a_column_that_fails_leaves_nothing(warehouse: Warehouse) -> None:
    table(warehouse, window=1000)
    with pytest.raises(DataError):
        warehouse.insert("t", ["n"], [[1, 2, "three"]])
    assert rows(warehouse) == []
    warehouse.insert("t", ["n"], [[1, 2, 3]])
    assert rows(warehouse) == [1, 2, 3]


def test_an_insert_that_fails_midway_keeps_earlier_blocks_unless_it_is_one(
    warehouse: Warehouse,
) -> None:
    fails = "SELECT if(number = 2999999, throwIf(1) + 0, number) FROM numbers(3000000)"
    table(warehouse, window=1000)
    with pytest.raises(DatabaseError, match="FUNCTION_THROW_IF"):
        warehouse.command(
            "INSERT INTO t SETTINGS max_threads = 1, max_block_size = 65536, "
            f"min_insert_block_size_rows = 65536 {fails}"
        )
    assert rows(warehouse) != []
    table(warehouse, window=1000)
    named = ", ".join(f"{name} = {value}" for name, value in INSERT_SETTINGS.items())
    with pytest.raises(DatabaseError, match="FUNCTION_THROW_IF"):
        warehouse.command(f"INSERT INTO t SETTINGS {named} {fails}")
    assert rows(warehouse) == []


def test_a_batch_over_partitions_is_several_blocks(warehouse: Warehouse) -> None:
    """So no table is partitioned."""
    warehouse.command(
        "CREATE OR REPLACE TABLE t (n Int64) ENGINE = MergeTree ORDER BY n PARTITION BY n"
    )
    insert(warehouse, [1, 2, 3], "token")
    assert blocks(warehouse) == 3


def test_repeats_that_have_not_merged_are_gone_by_final(warehouse: Warehouse) -> None:
    table(warehouse, window=0, engine="ReplacingMergeTree")
    warehouse.command("SYSTEM STOP MERGES t")
    for _ in range(3):
        insert(warehouse, [1, 2], None)
    assert len(rows(warehouse)) == 6
    assert warehouse.query("SELECT count() FROM t FINAL").rows[0][0] == 2


def test_a_time_out_of_range_is_taken_in_and_then_breaks_every_read(warehouse: Warehouse) -> None:
    """So times are moved into range before they are inserted."""
    warehouse.command(
        "CREATE OR REPLACE TABLE t (at DateTime64(3, 'UTC')) ENGINE = MergeTree ORDER BY at"
    )
    warehouse.insert("t", ["at"], [[10**15]])
    with pytest.raises(ValueError, match="outside the date range"):
        warehouse.query("SELECT at FROM t")
