"""The figures of `localisation.py`."""

import itertools

import numpy as np
from maps import GRID

from mbert.model.scoring.localisation import patch_truth

STYLES = {  # colours that differ for colour-blind eyes too
    "mbert": ("#D55E00", "-", 2.5),
    "paper": ("#CC79A7", "-", 1.5),
    "paper_distance": ("#CC79A7", "--", 1.5),
    "random_weights": ("#999999", "-", 1.5),
    "random_distance": ("#999999", "--", 1.5),
    "frame_difference": ("#56B4E9", "-", 1.5),
    "optical_flow": ("#0072B2", "-", 1.5),
    "dis": ("#009E73", "-", 1.5),
    "dis_fine": ("#009E73", ":", 1.5),
    "farneback": ("#009E73", "--", 1.5),
    "evidence": ("#E69F00", "-", 1.5),
    "constant": ("#000000", ":", 1.5),
}


def draw_curves(found, titles, path):
    """AUROC by amplitude: within pairs above, at the same place below, one column for each level."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(10, 7.2), layout="constrained")
    panels = drawing.subplots(2, len(found), sharex=True, sharey=True, squeeze=False)
    for (row, metric), (column, level) in itertools.product(enumerate(("within", "same_place")), enumerate(found)):
        axes, amplitudes = panels[row, column], list(found[level])
        for name, (colour, line, width) in STYLES.items():
            if name not in found[level][amplitudes[0]]:
                continue
            results = [found[level][amplitude][name][metric] for amplitude in amplitudes]
            values = [each.value for each in results]
            axes.plot(amplitudes, values, line, color=colour, linewidth=width, marker="o", markersize=3, label=name)
            if name == "mbert" and all(each.interval for each in results):
                axes.fill_between(
                    amplitudes, *zip(*(each.interval for each in results), strict=True), color=colour, alpha=0.15
                )
        axes.set_title(f"{titles[metric]}, {level}", fontsize=11)
        axes.set_ylim(0.3, 1.02)
        axes.set_xscale("log")
        axes.set_xticks(amplitudes, [f"{amplitude:g}" for amplitude in amplitudes])
        axes.minorticks_off()
        axes.axhline(0.5, color="#cccccc", linewidth=0.8, zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel("largest displacement, px of the 224 px crop")
    handles, names = panels[0, 0].get_legend_handles_labels()
    names = [name.replace("_", " ") for name in names]
    drawing.legend(handles, names, loc="outside lower center", ncols=5, frameon=False)
    save(drawing, path)


def draw_maps(pairs, levels, maps, path, faces):
    """A column for each pair: its true motion and its maps, each between its own ends; outlined is what moved.

    `levels` has the preset of each pair, `maps` (P, GRID, GRID) of each method.
    """
    from matplotlib.figure import Figure

    rows = {
        **({"t0": [pair.t0 for pair in pairs]} if faces else {}),
        "true motion": [np.linalg.norm(pair.expression, axis=-1) for pair in pairs],
        "mbert": maps["mbert"],
        "frame difference": maps["frame_difference"],
        "optical flow": maps["optical_flow"],
        "flow, no head": maps["dis_fine"],
        "evidence": maps["evidence"],
    }
    drawing = Figure(figsize=(1.25 * len(pairs), 1.3 * len(rows) + 0.3), layout="constrained")
    drawing.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
    panels = drawing.subplots(len(rows), len(pairs), squeeze=False)
    for (row, (name, images)), (column, pair) in itertools.product(enumerate(rows.items()), enumerate(pairs)):
        axes, size = panels[row, column], pair.t0.shape[0]
        axes.imshow(images[column], cmap="inferno", interpolation="nearest", extent=(0, size, size, 0))
        moved = patch_truth(pair.expression, pair.distractor, GRID).moved
        outline = np.kron(moved, np.ones((8, 8)))
        places = (np.arange(len(outline)) + 0.5) * size / len(outline)
        axes.contour(places, places, outline, levels=[0.5], colors="#7fdbff", linewidths=0.7)
        axes.set(xticks=[], yticks=[])
        if column == 0:
            axes.set_ylabel(name, fontsize=9)
        if row == 0:
            axes.set_title(f"{levels[column]}\nAU {pair.row.action_units}", fontsize=8)
    save(drawing, path)


def save(drawing, path):
    """With a palette: a third of the bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(drawing)
    canvas.draw()
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
