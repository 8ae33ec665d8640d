"""Python imports this when it starts with this folder on PYTHONPATH: the process and all that it forks listen to failpoints."""

import runpy
import sys
from pathlib import Path

sys.addaudithook(runpy.run_path(str(Path(__file__).parents[1] / "failpoints.py"))["listen"])
