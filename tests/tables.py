"""Warehouses with tables and without rows: to make the tables takes a second of the processor."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from services.sink.warehouse import Warehouse

_MAKE = """
import sys
from pathlib import Path
from services.sink.settings import SinkSettings
from services.sink.warehouse import Warehouse
Warehouse.open(SinkSettings(path=Path(sys.argv[1]))).close()
"""


@cache
def _made() -> Path:
    # Not in this process: it holds one engine at a time.
    folder = Path(tempfile.mkdtemp(prefix="callstream-tables-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run([sys.executable, "-c", _MAKE, str(folder / "warehouse")], check=True)
    return folder / "warehouse"


def with_tables(data_dir: Path) -> Path:
    """That data folder, of the embedded suite, with an empty warehouse of today's schema in it."""
    if not (data_dir / "warehouse").exists():
        shutil.copytree(_made(), data_dir / "warehouse", symlinks=True)
    return data_dir


def empty(warehouse: Warehouse) -> None:
    """Takes all rows out of every table."""
    holding = warehouse.query(
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND total_rows > 0"
        " AND name != 'migrations'"
    )
    for (name,) in holding.rows:
        warehouse.command(f"TRUNCATE TABLE {name} SYNC")
