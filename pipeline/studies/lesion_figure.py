"""The figure of a lesion study, as figures 3, 5 and 6 of Veit, Wilber & Belongie (NIPS 2016)."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.studies.figures import png_and_svg
from pipeline.studies.lesion_results import PathGradients, Results, means_by_k


def draw_figure(results: Results) -> tuple[bytes, bytes]:
    """Draw the errors of the variants and the gradient along paths, as PNG and as SVG."""
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    single, several, shuffled, paths = figure.subplots(2, 2).ravel()
    _draw_single(single, results)
    _draw_several(several, results)
    _draw_shuffled(shuffled, results)
    if results.paths is not None:
        _draw_paths(paths, results.paths)
    else:
        paths.set_axis_off()
    for axes in (single, several, shuffled):
        axes.axhline(results.errors[0], color="gray", linewidth=0.8, label="intact")
        axes.axhline(results.chance, color="gray", linewidth=0.8, linestyle=":", label="chance")
        axes.set_ylabel(f"error: 1 - {results.scorer.score}")
        axes.set_ylim(0, 1.02)
        axes.legend(fontsize="small", loc="lower right")
    return png_and_svg(figure)


def _draw_single(axes: Axes, results: Results) -> None:
    noun = "block" if results.blocks[0].residual else "layer"
    for transition, colour, label in (
        (False, "tab:blue", f"one {noun} removed"),
        (True, "tab:red", f"a {noun} that changes the shape"),
    ):
        some = [i for i in results.of_kind("single") if results.hits_transition(i) == transition]
        if some:
            places = [min(results.lesions[i].variant.removed) + 1 for i in some]
            axes.bar(places, results.errors[some], color=colour, label=label)
    axes.set_title(f"single {noun}s removed from {results.card.architecture}")
    axes.set_xlabel(f"position of the {noun}")


def _draw_several(axes: Axes, results: Results) -> None:
    some = results.of_kind("several")
    axes.scatter([results.lesions[i].k for i in some], results.errors[some], s=12, alpha=0.5, label="draw")
    ks, means = means_by_k(results, "several")
    axes.plot(ks, means, color="tab:red", marker=".", label="mean")
    axes.set_title("several removed at random")
    axes.set_xlabel("number removed")


def _draw_shuffled(axes: Axes, results: Results) -> None:
    some = results.of_kind("shuffled")
    axes.scatter([results.lesions[i].tau for i in some], results.errors[some], s=12, alpha=0.6, label="order")
    axes.set_title("pairs of the same shape swapped")
    axes.set_xlabel("Kendall's tau of the order")
    axes.set_xlim(1.02, min([results.lesions[i].tau for i in some], default=0.9) - 0.02)


def _draw_paths(axes: Axes, paths: PathGradients) -> None:
    rows = paths.rows
    lengths = [row["length"] for row in rows]
    axes.plot(lengths, [row["share_of_paths"] for row in rows], label="share of the paths")
    axes.plot(lengths, [row["share_of_gradient"] for row in rows], color="tab:red", label="share of the gradient")
    axes.set_ylim(bottom=0)
    axes.set_title("paths by length")
    axes.set_xlabel("residual branches on the path")
    norm = axes.twinx()
    norm.plot(lengths, [row["gradient"] for row in rows], color="gray", linestyle="--", linewidth=0.8)
    norm.set_yscale("log")
    norm.set_ylabel("gradient along one path (dashed)", color="gray")
    axes.legend(fontsize="small")
