"""One look for all figures, and PNG bytes that depend on the data alone."""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
INK, GREY, LIGHT = "#222222", "#767676", "#dddddd"
#: Okabe and Ito's palette, told apart by colour-blind readers too; the yellow is too pale for lines.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SETTINGS: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 10.0,
    "axes.titlesize": 12.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12.0,
    "axes.labelsize": 10.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
}


def render(draw: Callable[["Figure"], None], size: tuple[float, float]) -> bytes:
    """Return the PNG that `draw` makes on an empty figure of `size` inches.

    The reader's own matplotlib settings are left aside and nothing is stored about program or date,
    so that equal data gives equal bytes.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)  # type: ignore[arg-type]
        figure = Figure(figsize=size, dpi=DPI, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        draw(figure)
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()


def message(text: str) -> bytes:
    """Return a picture that says why there is nothing to draw."""
    return render(lambda figure: void(figure.text(0.5, 0.5, text, ha="center", va="center", color=GREY)), (8, 2))


def void(_: object) -> None:
    """Drop a value, so that a lambda returns nothing."""


def grid(axes: "Axes", axis: str = "both") -> None:
    """Draw light grid lines at the major ticks."""
    axes.grid(True, axis=axis, color=LIGHT, linewidth=0.7)  # type: ignore[arg-type]
    axes.tick_params(length=3, width=0.7)


def log_ticks(low: float, high: float) -> list[float]:
    """Return round values in [low, high] for a log axis: 1, 2, 5 or, over more than three decades, 1 times 10^k."""
    import math

    steps = (1, 2, 5) if high / low <= 1000 else (1, 3) if high / low <= 20_000 else (1,)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    ticks = [float(step * 10**k) if k >= 0 else step / 10**-k for k in decades for step in steps]
    return [tick for tick in ticks if low <= tick <= high]


def log_x(axes: "Axes", values: Sequence[float], words: Callable[[float], str], title: str, margin: float) -> None:
    """Make x logarithmic with the labels `words(tick)`; `margin` is the factor left free on both sides."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(values) / margin, max(values) * margin
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(log_ticks(low, high)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
    axes.set_xlabel(title)


def percent_y(axes: "Axes", values: Sequence[float], above: float = 0.08, below: float = 0.08) -> None:
    """Fit y to `values` (percent) with free room in shares of their range; never flatter than two points."""
    low, high = min(values), max(values)
    span = max(high - low, 2.0)
    axes.set_ylim(max(low - below * span - 0.2, -1.0), min(high + above * span + 0.2, 101.0))
    axes.set_ylabel("Validation accuracy (%)")


def tick_size(value: float) -> str:
    """Bytes on an axis: 2e6 -> '2 MB'."""
    return _tick(value, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)), " B")


def tick_count(value: float) -> str:
    """A count on an axis: 2e6 -> '2 M'."""
    return _tick(value, (("G", 1e9), ("M", 1e6), ("k", 1e3)), "")


def _tick(value: float, units: tuple[tuple[str, float], ...], base: str) -> str:
    for unit, factor in units:
        if value >= factor * 0.999:
            return f"{value / factor:g} {unit}"
    return f"{value:g}{base}"
