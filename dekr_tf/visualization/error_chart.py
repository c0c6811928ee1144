"""A chart of the errors in poses."""

from collections.abc import Mapping

from matplotlib.figure import Figure

#: Suffixes of files that a figure can be saved to.
FORMATS = (".png", ".pdf", ".svg")

# Distinguishable with every kind of color vision (Okabe and Ito); good keypoints stay in the background.
COLORS = {"good": "#dde3e6", "jitter": "#56b4e9", "inversion": "#e69f00", "swap": "#cc79a7", "miss": "#d55e00"}
ALL_COLOR = "#009e73"


def error_chart(counts: Mapping[str, Mapping[str, int]], precision: float, corrected: Mapping[str, float]) -> Figure:
    """Bars of the shares of errors for every keypoint, and of the AP that correcting each kind of error gains.

    Args:
        counts: for each keypoint's name, the number of keypoints by kind: the keys of `COLORS`.
        precision: AP of the poses as they are.
        corrected: AP with one kind of error corrected, by its name, and with all corrected, as `all`.

    Returns:
        A figure, to be written with `savefig`.
    """
    total = {kind: sum(keypoint[kind] for keypoint in counts.values()) for kind in COLORS}
    rows = {"all keypoints": total, **counts}
    figure = Figure(figsize=(12, 1.6 + 0.28 * len(rows)), dpi=120, layout="constrained")
    shares, gains = figure.subplots(1, 2, width_ratios=(3, 2))

    left = [0.0] * len(rows)
    for kind, color in COLORS.items():
        widths = [100 * row[kind] / max(sum(row.values()), 1) for row in rows.values()]
        shares.barh(range(len(rows)), widths, left=left, color=color, label=kind, height=0.8)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    shares.set_yticks(range(len(rows)), rows)
    shares.invert_yaxis()
    shares.set_xlim(0, 100)
    shares.set_xlabel(f"% of {sum(total.values())} labeled keypoints of people who were found")
    figure.legend(loc="outside upper left", ncols=len(COLORS), frameon=False)

    names = list(corrected)
    heights = [corrected[name] - precision for name in names]
    bars = gains.bar(names, heights, color=[COLORS.get(name, ALL_COLOR) for name in names])
    gains.bar_label(bars, [f"{height:+.3f}" for height in heights], padding=2)
    gains.margins(y=0.12)
    gains.axhline(0, color="black", linewidth=0.8)
    gains.set_ylabel("gain in AP")
    gains.set_xlabel(f"errors corrected; AP as it is: {precision:.3f}")
    for axes in (shares, gains):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
