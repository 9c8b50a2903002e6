"""The pictures of a comparison: the masks of two segmentation runs for the images that changed most."""

import numpy as np

from pipeline.bulk.comparison.pair import Pair
from pipeline.bulk.results import take
from pipeline.bulk.segmentation.gallery import read_picture
from pipeline.data.images import decode_mask
from pipeline.report.blocks import Card, Gallery, View
from pipeline.report.thumbnails import painted, photograph, small_size

PICTURES = 12
COLUMNS = ("image_id", "uri", "mask", "label_uri", "label_error")
VIEWS = [
    View("Picture", ["picture"]),
    View("Earlier", ["earlier"]),
    View("Later", ["later"]),
    View("Truth", ["truth"]),
]


def changed_pictures(pair: Pair) -> Gallery | None:
    """Return the matched images that changed most, with the masks of both runs; None if none has changed."""
    ranked = np.argsort(-pair.change, kind="stable")[:PICTURES]
    chosen = [int(i) for i in ranked if pair.change[i] > 0]
    if not chosen:
        return None
    sides = (pair.earlier, pair.later)
    rows = []
    for side, indices in zip(sides, pair.matched, strict=True):
        wanted = [int(side.amounts.positions[indices[i]]) for i in chosen]
        columns = [name for name in COLUMNS if name in side.images.schema.names]
        found = dict(zip(sorted(wanted), take(side.run, side.files, sorted(wanted), columns), strict=True))
        rows.append([found[position] for position in wanted])
    classes, others = pair.earlier.classes, pair.later.classes
    colours = others.colour_of | classes.colour_of  # the earlier run's, for the later masks too
    palette = np.array([colours[name] for name in others.names], np.uint8)
    same = np.array([classes.names.index(name) if name in classes.names else -1 for name in others.names])
    changes, cards = list[float](), list[Card]()
    for i, before, after in zip(chosen, *rows, strict=True):
        pixels, earlier, _ = read_picture(before, classes)
        _, later, truth = read_picture(after, others)
        changed = float((same[decode_mask(after["mask"]["bytes"])] != decode_mask(before["mask"]["bytes"])).mean())
        changes.append(changed)
        note = f"{changed:.1%} of the pixels changed class"
        note += "" if np.isnan(pair.gain[i]) else f" · {pair.measure.score} {pair.gain[i]:+.3f}"
        images = {} if pixels is None else {"picture": photograph(pixels)}
        images |= {"earlier": painted(earlier, classes.palette), "later": painted(later, palette)}
        images |= {} if truth is None else {"truth": painted(truth, palette)}
        shown = {classes.names[k] for k in np.unique(earlier)} | {others.names[k] for k in np.unique(later)}
        cards.append(Card(before["image_id"], note, small_size(earlier), images, names=sorted(shown)))
    cards = [cards[i] for i in np.argsort(-np.array(changes), kind="stable")]  # the choice was by a lower bound
    layers = {layer for card in cards for layer in card.images}
    names = {name for card in cards for name in card.names}
    legend = {name: colour for name, colour in colours.items() if name in names}
    views = [view for view in VIEWS if view.layers[0] in layers]
    views = sorted(views, key=lambda view: view.name != "Later")  # the first one is shown
    return Gallery({"Most changed": cards}, views, legend)
