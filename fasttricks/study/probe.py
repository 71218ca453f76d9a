"""One launched process: measure what the folder says.

usage: python -m fasttricks.study.probe FOLDER
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..worker import serve
from .limits import Probe, measure_here


def work(folder: Path) -> dict[str, Any]:
    """The speeds, as plain values."""
    probe = Probe(**json.loads((folder / "probe.json").read_text(encoding="utf-8")))
    return asdict(measure_here(probe))


if __name__ == "__main__":
    serve(Path(sys.argv[1]), work)
