"""Move the first version's records, a JSON file a run, into a study's runs.jsonl.

usage: move_records.py RESULTS      (data/results; folders that have a runs.jsonl already are left)
"""

import json
import sys
from pathlib import Path

from fasttricks.study.runs import RUNS, append_record

NEW = {"skipped_steps": 0, "peak_memory": None}  # what the first version did not record


def moved(record: dict) -> dict:
    """A record of schema 1 under the names of schema 2; a peer's keeps its own."""
    if "recipe" not in record:
        return {**record, "schema": 2}
    recipe = {**record["recipe"], "schema": 2}
    return {**record, **NEW, "recipe": recipe, "schema": 2}


def main(results: Path) -> None:
    """Move all, in the order in which the runs were made."""
    for folder in sorted(path for path in results.iterdir() if path.is_dir()):
        files = list(folder.glob("*/*.json"))
        if not files or (folder / RUNS).exists():
            continue
        records = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in files]
        records.sort(key=lambda item: (item[1].get("started", ""), str(item[0])))
        for path, record in records:
            append_record(folder, path.parent.name, moved(record))
        for path, _ in records:
            path.unlink()
        for arm in {path.parent for path in files}:
            arm.rmdir()
        print(f"{folder}: {len(records)} records")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
