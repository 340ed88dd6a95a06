"""`python -m drivetrain.drive WORK`: one training worker, as the launcher starts it."""

import sys
from pathlib import Path

from .worker import main

main(Path(sys.argv[1]))
