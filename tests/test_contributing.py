"""What CONTRIBUTING says of adding a trick has been done, once: here."""

import re
import sys
from pathlib import Path

from fasttricks import BASELINE, train
from fasttricks.recipe import SEEN, Recipe
from fasttricks.study.plan import read_study

ROOT = Path(__file__).resolve().parents[1]


def test_a_trick_is_added_as_the_text_says(tmp_path, monkeypatch, small):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    part = text[text.index("## Add a trick") : text.index("## What is where")]
    blocks = dict(re.findall(r"`([\w./]+\.(?:py))`.*?```python\n(.*?)```", part, re.S))
    study = re.search(r"```toml\n(.*?)```", part, re.S)[1]
    assert list(blocks) == ["fasttricks/tricks/cosine.py", "tests/test_cosine.py"]
    written = sum(len(block.splitlines()) for block in (*blocks.values(), study))
    assert written < 75, "short"
    (tmp_path / "cosine.py").write_text(blocks["fasttricks/tricks/cosine.py"], encoding="utf-8")
    (tmp_path / "tiny.toml").write_text(study, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FASTTRICKS_MODULES", "cosine")
    names: dict = {}
    exec(blocks["tests/test_cosine.py"], names)
    names["test_it_is_torchs"]()
    try:
        recipe = read_study(tmp_path / "tiny.toml").recipe("plain + cosine")
        assert recipe.names == ("cosine",)
        assert recipe.lr_at(50, 100) == BASELINE.lr / 2
        run = train(recipe, small, images=128)
        assert Recipe.from_json(run.recipe.to_json()) == recipe
    finally:
        SEEN.pop("Cosine", None)
        sys.modules.pop("cosine", None)
