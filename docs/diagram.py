"""Draws docs/diagram.svg, a batch that flows through the model: python docs/diagram.py"""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Polygon, Rectangle

INK, GREY, BLUE, PURPLE, RED, GREEN = "#1f2933", "#8a94a0", "#2f6fb3", "#7a4fb5", "#c8372d", "#2e8b57"
WIDTH, HEIGHT = 100, 230  # Portrait, so that a phone shows it at a legible size.


def draw(path):
    """Writes the diagram to `path`; the same bytes each time."""
    with matplotlib.rc_context({"svg.hashsalt": "keras_glimpse", "font.size": 7, "mathtext.fontset": "dejavusans"}):
        figure = Figure(figsize=(3.4, 3.4 * HEIGHT / WIDTH), facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(HEIGHT, 0))
        axes.axis("off")
        inference(axes)
        training(axes)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def inference(axes):
    heading(axes, 5, "Looking: one batch", "section 2.1")
    image(axes, 3, 12, 24, glimpse=True)
    text(axes, 15, 39.5, r"images $X$", "[batch, 48, 48, 1]")
    arrow(axes, (27, 24), (34, 24))
    image(axes, 34, 18, 12)
    text(axes, 41, 33.5, r"thumbnail $\bar{X}$", "[batch, 12, 12, 1]")
    arrow(axes, (46, 24), (56, 24))
    box(axes, 56, 17, 42, 14, BLUE, "LowResNet", r"$h^L,\ o^L$", "(1, 2)")

    arrow(axes, (77, 31), (77, 47))
    text(axes, 78.5, 37, "features and", "class evidence", align="left")
    box(axes, 56, 47, 42, 14, PURPLE, "LocationHead", r"$l^{p_n} = (y, x)$", "(3, 8)")

    arrow(axes, (77, 61), (77, 73))
    arrow(axes, (15, 45.5), (15, 80), (56, 80))
    text(axes, 31, 77.5, "full resolution")
    box(axes, 56, 73, 42, 14, RED, "MultiScaleCrop", r"$X(l^{p_n})$", "§ 2.2.3")
    patches(axes, 18, 84)
    text(axes, 29.5, 102.5, "patches at 2 scales", "[batch, 12, 12, 2]")

    arrow(axes, (77, 87), (77, 99))
    box(axes, 56, 99, 42, 14, RED, "GlimpseNet", r"$o^{H_n}$", "(4, 7)")
    arrow(axes, (77, 113), (77, 125))
    formula = r"$y = \mathrm{softmax}(o^L + \frac{1}{n} \sum_j o^{H_j})$"
    box(axes, 56, 125, 42, 16, INK, "averaged logits", formula, "(5, 6)", size=6)
    text(axes, 77, 144, r"before any glimpse: $o^L$ alone")
    arrow(axes, (56, 133), (48, 133))
    axes.add_patch(Polygon([(29, 121), (48, 133), (29, 145), (10, 133)], facecolor="#fff6dc", edgecolor="#b98900", lw=1))
    text(axes, 29, 131, "sure enough?", r"$\max\,y \geq$ threshold", size=5.6)
    arrow(axes, (10, 133), (4, 133), (4, 148))
    text(axes, 6.5, 128, "yes", colour=GREEN)
    text(axes, 2, 151, "answer: early exit", colour=GREEN, align="left")
    arrow(axes, (29, 121), (29, 113), (51, 113), (51, 54), (56, 54))
    text(axes, 27, 116, "no: look again", colour=RED, align="right")


def training(axes):
    axes.plot((2, 98), (156, 156), color=GREY, lw=0.8, ls=(0, (4, 3)))
    heading(axes, 161.5, "Learning where to look", "section 2.2")
    axes.add_patch(Rectangle((4, 168), 26, 26, facecolor="#11161c"))
    for row in range(3):
        for column in range(3):
            colour = {(0, 1): GREEN, (2, 2): RED, (1, 1): "white"}.get((row, column), GREY)
            axes.add_patch(Circle((8.5 + 7.5 * column, 173.5 + 7.5 * row), 1.5, facecolor=colour))
    for x, y, label, colour in ((20, 173, "$z^*$", "#7fe0a8"), (27.2, 188, "$z^-$", "#ff9a92"), (19, 180.8, "$l$", "white")):
        axes.text(x, y, label, color=colour, ha="center", va="center", size=7)
    text(axes, 17, 197.5, r"candidates $N(l^{p_n})$", "at the prediction (12)")
    arrow(axes, (30, 181), (37, 181))
    box(axes, 37, 168, 61, 26, GREEN, "search, without gradient")
    text(axes, 40, 178, r"$z^*$: least loss for the label (9, 12, 18)", colour=GREEN, align="left")
    text(axes, 40, 185, r"$z^-$: most confident of a wrong", "class (15)", colour=RED, align="left")
    arrow(axes, (67, 194), (67, 206))
    box(
        axes,
        37,
        206,
        61,
        21,
        INK,
        "objective",
        r"$E_0 + E(z^*) + E(z^-) + \frac{\lambda}{2}\,\Vert l^{p_n} - z^* \Vert^2$",
        "(16, 17)",
        size=6.6,
    )
    text(axes, 67.5, 222.5, "one gradient step, at these two places (13, 14)", size=5.4)


def heading(axes, y, title, where):
    axes.text(4, y, title, size=9, weight="bold", color=INK, va="center")
    axes.text(96, y, where, size=6.5, color=GREY, va="center", ha="right")


def text(axes, x, y, *lines, colour=INK, align="center", size=6):
    for number, line in enumerate(lines):
        axes.text(x, y + 3.8 * number, line, color=colour, ha=align, va="center", size=size)


def box(axes, x, y, width, height, colour, title, formula="", equations="", size=7):
    style = "round,pad=0,rounding_size=2"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=colour + "14", edgecolor=colour, lw=1.2))
    axes.text(x + 2, y + 4, title, size=7, weight="bold", color=colour, va="center")
    axes.text(x + width / 2, y + 10.2, formula, size=size, color=INK, ha="center", va="center")
    axes.text(x + width - 1.5, y + 4, equations, size=6.2, color=colour, ha="right", va="center")


def arrow(axes, *points):
    """A line through points with a head at the last."""
    (*_, before, last) = points
    axes.plot(*zip(*points[:-1], last), color=INK, lw=0.9, solid_joinstyle="round")
    length = max(abs(last[0] - before[0]), abs(last[1] - before[1]))
    dx, dy = ((last[i] - before[i]) / length for i in (0, 1))
    tail = (last[0] - 2.6 * dx, last[1] - 2.6 * dy)
    axes.add_patch(
        Polygon([last, (tail[0] - 1.1 * dy, tail[1] + 1.1 * dx), (tail[0] + 1.1 * dy, tail[1] - 1.1 * dx)], color=INK, lw=0)
    )


def image(axes, x, y, side, glimpse=False):
    """A digit on black, to the right of the middle; and the window of a glimpse."""
    axes.add_patch(Rectangle((x, y), side, side, facecolor="#11161c"))
    three(axes, x + 0.62 * side, y + 0.55 * side, 0.2 * side)
    if glimpse:
        for width, style in ((0.25, "-"), (0.5, "--")):
            corner = (x + (0.63 - width / 2) * side, y + (0.52 - width / 2) * side)
            axes.add_patch(Rectangle(corner, width * side, width * side, fill=False, edgecolor="#ff6b5e", lw=1.1, ls=style))


def three(axes, x, y, size, lw=None):
    """The digit 3, as a line."""
    points = [(-0.8, -1.2), (0.2, -1.4), (0.8, -0.8), (0.2, -0.1), (-0.3, 0), (0.3, 0.1), (0.9, 0.8), (0.2, 1.5), (-0.8, 1.2)]
    axes.plot(
        *zip(*((x + size * a, y + size * b) for a, b in points)), color="white", lw=lw or 0.45 * size, solid_capstyle="round"
    )


def patches(axes, x, y):
    """Two patches, stacked: pixels as they are, and twice as many averaged."""
    for shift, size, lw in ((9, 2.0, 1.2), (0, 4.0, 2.2)):
        axes.add_patch(Rectangle((x + shift, y + shift / 3), 14, 12, facecolor="#11161c", edgecolor="#ff6b5e", lw=1))
        three(axes, x + shift + 7, y + shift / 3 + 6, 0.9 * size, lw)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".svg"))
