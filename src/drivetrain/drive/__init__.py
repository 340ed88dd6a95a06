"""The whole way: a TOML file drives a model from data to a verdict, and a report proves each step."""

from .config import DriveFile, read_drive
from .report import write_report
from .runner import RunResult, run_drive
from .scaffold import scaffold
from .trained import load_model
from .training import open_training

__all__ = [
    "DriveFile",
    "RunResult",
    "load_model",
    "open_training",
    "read_drive",
    "run_drive",
    "scaffold",
    "write_report",
]
