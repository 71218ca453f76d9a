"""The second study, until it takes the first one's place: python run.py cpu.toml HOURS."""

import sys
from pathlib import Path

from runs import bench

if __name__ == "__main__":
    here = Path(__file__).parent
    bench(Path(sys.argv[1]), here / "results", float(sys.argv[2]), here.parent / "peers")
