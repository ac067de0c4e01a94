"""The picture of a report: how long it takes, and how that grows."""

from collections.abc import Sequence
from io import StringIO

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.summary import Summary

COLOURS = {"limit": "#9aa5b1", "job": "#1f77b4", "loop": "#d62728"}
LABELS = {"limit": "limit: best SQL, one transaction", "job": "job", "loop": "loop, extrapolated"}
BAR_HEIGHT = 0.27


def draw(summaries: Sequence[Summary]) -> str:
    """Return the picture as SVG."""
    # Text as text, and no random names: the file is small, and the same for the same numbers.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 10})
    figure = Figure(figsize=(11, 1.6 + 0.55 * len(summaries)), layout="constrained")
    times, growth = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_times(times, summaries)
    _draw_growth(growth, summaries)
    figure.legend(*times.get_legend_handles_labels(), loc="outside lower left", ncols=3)
    svg = StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    # Matplotlib leaves blanks at line ends.
    return "\n".join(line.rstrip() for line in svg.getvalue().splitlines()) + "\n"


def _draw_times(axes: Axes, summaries: Sequence[Summary]) -> None:
    for index, (variant, colour) in enumerate(COLOURS.items()):
        seconds = {
            place: value
            for place, summary in enumerate(summaries)
            if (value := _seconds(summary, variant)) is not None
        }
        bars = axes.barh(
            [place + (index - 1) * BAR_HEIGHT for place in seconds],
            list(seconds.values()),
            height=BAR_HEIGHT,
            color=colour,
            label=LABELS[variant],
        )
        axes.bar_label(bars, labels=[f"{value:,.3g} s" for value in seconds.values()], padding=3)
    axes.set_yticks(range(len(summaries)), [summary.case.name for summary in summaries])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.25)
    axes.set_xlabel("seconds")
    axes.set_title("How long it takes")
    axes.spines[["top", "right"]].set_visible(False)


def _seconds(summary: Summary, variant: str) -> float | None:
    return {
        "limit": summary.limit_seconds,
        "job": summary.job_seconds,
        "loop": summary.loop_seconds,
    }[variant]


def _draw_growth(axes: Axes, summaries: Sequence[Summary]) -> None:
    for summary in summaries:
        last = summary.points[-1]
        axes.plot(
            [point.rows / max(last.rows, 1) for point in summary.points],
            [point.job_seconds / last.job_seconds for point in summary.points],
            marker="o",
            label=f"{summary.case.name} ({summary.growth:.2f})",
        )
    axes.plot([0.1, 1], [0.1, 1], color="black", linestyle=":", label="linear (1.00)")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([0.1, 0.3, 1], ["10 %", "30 %", "100 %"])
    axes.set_yticks([0.01, 0.1, 1], ["1 %", "10 %", "100 %"])
    axes.minorticks_off()
    axes.set_ylabel("share of the longest time")
    axes.set_xlabel("rows changed, as a share of the most")
    axes.set_title("How the job grows (exponent)")
    axes.legend(fontsize="small", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
