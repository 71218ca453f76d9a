"""What only notebooks show and check with: tables, figures, checked claims, exercises."""

from statistics import median

from ..study.findings import headline, published
from ..study.statistics import gains, interval
from .arms import about, probabilities, train_arms
from .checks import holds
from .exercises import check
from .figures import accuracy_against_time, bars, plot, shares, show, tally
from .sentences import changed, faster, gained, say, sureness
from .tables import accuracy_table, caption, recipe_table, table

__all__ = [
    "about",
    "accuracy_against_time",
    "accuracy_table",
    "bars",
    "caption",
    "changed",
    "check",
    "faster",
    "gained",
    "gains",
    "headline",
    "holds",
    "interval",
    "median",
    "plot",
    "probabilities",
    "published",
    "recipe_table",
    "say",
    "shares",
    "show",
    "sureness",
    "table",
    "tally",
    "train_arms",
]
