"""What only notebooks show and check with: tables, figures, checked claims, exercises."""

from statistics import median

from ..study.findings import compared, found_in, headline, published
from ..study.report import probabilities
from ..study.statistics import gains, interval
from .arms import about, one_line, train_arms
from .checks import holds
from .drawings import circle, heat, timeline
from .exercises import check
from .figures import accuracy_against_time, bars, plot, redraws, shares, show, tally
from .insides import answers, formats
from .recorded import (
    beside_refreshed,
    equal_table,
    gain_by_epochs,
    on_test_images,
    study_table,
    with_few_labels,
)
from .sentences import changed, clear, faster, gained, say, sureness
from .tables import accuracy_table, caption, recipe_table, table

__all__ = [
    "about",
    "accuracy_against_time",
    "accuracy_table",
    "answers",
    "bars",
    "beside_refreshed",
    "caption",
    "changed",
    "check",
    "circle",
    "clear",
    "compared",
    "equal_table",
    "faster",
    "formats",
    "found_in",
    "gain_by_epochs",
    "gained",
    "gains",
    "headline",
    "heat",
    "holds",
    "interval",
    "median",
    "on_test_images",
    "one_line",
    "plot",
    "probabilities",
    "published",
    "recipe_table",
    "redraws",
    "say",
    "shares",
    "show",
    "study_table",
    "sureness",
    "table",
    "tally",
    "timeline",
    "train_arms",
    "with_few_labels",
]
