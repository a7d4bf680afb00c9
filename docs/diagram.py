"""Draws docs/diagram.svg, a batch that flows through the model: python docs/diagram.py"""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Polygon, Rectangle

INK, GREY, BLUE, PURPLE, RED, GREEN = "#1f2933", "#8a94a0", "#2f6fb3", "#7a4fb5", "#c8372d", "#2e8b57"
WIDTH, HEIGHT = 100, 203  # Portrait, so that a phone shows it at a legible size.


def draw(path):
    """Writes the diagram to `path`; the same bytes each time."""
    with matplotlib.rc_context({"svg.hashsalt": "keras_glimpse", "font.size": 7, "mathtext.fontset": "dejavusans"}):
        figure = Figure(figsize=(4.4, 4.4 * HEIGHT / WIDTH), facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(HEIGHT, 0))
        axes.axis("off")
        inference(axes)
        training(axes)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def inference(axes):
    heading(axes, 5, "Looking: one batch", "section 2.1")
    image(axes, 4, 12, 24, glimpse=True)
    text(axes, 16, 39.5, r"images $X$", r"[batch, 48, 48, 1]")
    arrow(axes, (28, 24), (37, 24))
    image(axes, 37, 18, 12)
    text(axes, 43, 33.5, r"thumbnail $\bar{X}$", "[batch, 12, 12, 1]")
    arrow(axes, (49, 24), (60, 24))
    box(axes, 60, 17, 36, 14, BLUE, "LowResNet", r"$h^L,\ o^L$", "1, 2")

    arrow(axes, (78, 31), (78, 47))
    text(axes, 79.5, 39.5, "features and\nclass evidence", align="left")
    box(axes, 60, 47, 36, 14, PURPLE, "LocationHead", r"$l^{p_n} = (y, x)$", "3, 8")

    arrow(axes, (78, 61), (78, 73))
    arrow(axes, (16, 43), (16, 80), (60, 80))
    text(axes, 38, 77.5, "full resolution")
    box(axes, 60, 73, 36, 14, RED, "MultiScaleCrop", r"$X(l^{p_n})$", "sec. 2.2.3")
    patches(axes, 24, 84)
    text(axes, 36, 101.5, "patches at 2 scales", "[batch, 12, 12, 2]")

    arrow(axes, (78, 87), (78, 99))
    box(axes, 60, 99, 36, 14, RED, "GlimpseNet", r"$o^{H_n}$", "4, 7")
    arrow(axes, (78, 113), (78, 123))
    box(axes, 60, 123, 36, 14, INK, "averaged logits", r"$y = \mathrm{softmax}(o^L + \frac{1}{n} \sum o^{H_j})$", "5, 6", size=5.6)
    arrow(axes, (60, 130), (46, 130))
    axes.add_patch(Polygon([(31, 120), (46, 130), (31, 140), (16, 130)], facecolor="#fff6dc", edgecolor="#b98900", lw=1))
    text(axes, 31, 128.5, "sure enough?", r"$\max\,y \geq$ threshold", size=5.4)
    arrow(axes, (16, 130), (5, 130), (5, 143))
    text(axes, 10.5, 128, "yes", colour=GREEN)
    text(axes, 5, 146, "answer: early exit", colour=GREEN, align="left", x=2.5)
    arrow(axes, (31, 120), (31, 110), (51.5, 110), (51.5, 54), (60, 54))
    text(axes, 30, 113.5, "no: look again", colour=RED, align="right", x=29.5)


def training(axes):
    axes.plot((2, 98), (151, 151), color=GREY, lw=0.8, ls=(0, (4, 3)))
    heading(axes, 156.5, "Learning where to look: one step", "section 2.2")
    axes.add_patch(Rectangle((4, 163), 26, 26, facecolor="#11161c"))
    for row in range(3):
        for column in range(3):
            colour = {(0, 1): GREEN, (2, 2): RED, (1, 1): "white"}.get((row, column), GREY)
            axes.add_patch(Circle((9.5 + 7.5 * column, 168.5 + 7.5 * row), 1.5, facecolor=colour))
    for (x, y), label, colour in (((17, 165.3), "$z^*$", "#7fe0a8"), ((26.4, 180.2), "$z^-$", "#ff9a92"), ((17.4, 172.8), "$l$", "white")):
        axes.text(x + 2.6, y + 1.8, label, color=colour, ha="center", va="center", size=7)
    text(axes, 17, 192.5, r"candidates $N(l^{p_n})$", "around the prediction (12)")
    arrow(axes, (30, 176), (36, 176))
    box(axes, 36, 164, 25, 25, GREEN, "search", "", "")
    text(axes, 48.5, 171, r"$z^*$: best for the", "label (9, 12, 18)", colour=GREEN)
    text(axes, 48.5, 179.5, r"$z^-$: most sure of", "a wrong class (15)", colour=RED)
    arrow(axes, (61, 176), (67, 176))
    box(axes, 67, 164, 30, 25, INK, "objective", "", "16, 17")
    for y, term in ((172, r"$E_0 + E(z^*) + E(z^-)$"), (178.5, r"$+\ \frac{\lambda}{2}\,\Vert l^{p_n} - z^* \Vert^2$")):
        text(axes, 82, y, term)
    text(axes, 82, 192.5, "gradient at these two patches", "only (13, 14)")


def heading(axes, y, title, where):
    axes.text(4, y, title, size=9, weight="bold", color=INK, va="center")
    axes.text(96, y, where, size=6.5, color=GREY, va="center", ha="right")


def text(axes, x_centre, y, *lines, colour=INK, align="center", size=6.3, x=None):
    for number, line in enumerate(lines):
        axes.text(x_centre if x is None else x, y + 3.6 * number, line, color=colour, ha=align, va="center", size=size)


def box(axes, x, y, width, height, colour, title, formula, equations, size=7):
    style = "round,pad=0,rounding_size=2"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=colour + "14", edgecolor=colour, lw=1.2))
    axes.text(x + 2, y + 3.8, title, size=7.2, weight="bold", color=colour, va="center")
    axes.text(x + width / 2, y + 9.8, formula, size=size, color=INK, ha="center", va="center")
    if equations:
        label = equations if equations.startswith("sec") else f"({equations})"
        axes.text(x + width - 1.5, y + 3.8, label, size=6.2, color=colour, ha="right", va="center")


def arrow(axes, *points):
    """A line through points with a head at the last."""
    (*_, before, last) = points
    axes.plot(*zip(*points[:-1], last), color=INK, lw=0.9, solid_joinstyle="round")
    length = max(abs(last[0] - before[0]), abs(last[1] - before[1]))
    dx, dy = ((last[i] - before[i]) / length for i in (0, 1))
    tail = (last[0] - 2.6 * dx, last[1] - 2.6 * dy)
    axes.add_patch(Polygon([last, (tail[0] - 1.1 * dy, tail[1] + 1.1 * dx), (tail[0] + 1.1 * dy, tail[1] - 1.1 * dx)], color=INK, lw=0))


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
    axes.plot(*zip(*((x + size * a, y + size * b) for a, b in points)), color="white", lw=lw or 0.45 * size, solid_capstyle="round")


def patches(axes, x, y):
    """Two patches, stacked: pixels as they are, and twice as many averaged."""
    for shift, size, lw in ((9, 2.0, 1.2), (0, 4.0, 2.2)):
        axes.add_patch(Rectangle((x + shift, y + shift / 3), 14, 12, facecolor="#11161c", edgecolor="#ff6b5e", lw=1))
        three(axes, x + shift + 7, y + shift / 3 + 6, 0.9 * size, lw)


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".svg"))
