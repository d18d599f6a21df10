"""Trains and tests the rows of the paper's tables 3, 4 and 5: `dsa-fast tables`."""

from dsa_fast.tables.report import folder_name, sweep_report, table_report
from dsa_fast.tables.rows import PAPER_ROWS, TableRow, rows_of
from dsa_fast.tables.run import ROW, Training, TrainingScores, check_rows, run_trainings

__all__ = [
    "PAPER_ROWS",
    "ROW",
    "TableRow",
    "Training",
    "TrainingScores",
    "check_rows",
    "folder_name",
    "rows_of",
    "run_trainings",
    "sweep_report",
    "table_report",
]
