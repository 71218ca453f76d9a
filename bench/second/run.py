"""The second study, until it takes the first one's place: python run.py cpu.toml HOURS."""

import sys
from pathlib import Path

from runs import bench

if __name__ == "__main__":
    bench(Path(sys.argv[1]), Path(__file__).parent / "results", float(sys.argv[2]))
