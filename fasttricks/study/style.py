"""How figures look: told apart by all eyes, in black and white too."""

from matplotlib.axis import Axis

STYLES = ("-", "--", ":", "-.", "-")
MARKS = ("o", "s", "^", "D", "v")
HATCHES = ("", "//", "..", "xx", "--", "oo", "\\\\")
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7")  # Okabe and Ito, for all eyes


def plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis 1, 2, 5, 10 instead of in powers of ten."""

    def between(value: float, _: int) -> str:
        low, high = axis.get_view_interval()
        return f"{value:g}" if high < 300 * low and f"{value:e}"[0] in "25" else ""

    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(between)
