"""The page that compares two finished runs."""

from typing import Any

import numpy as np

from pipeline import storage
from pipeline.bulk.comparison.drift import FEWEST, TEST, Drift, class_drift
from pipeline.bulk.comparison.gallery import changed_pictures
from pipeline.bulk.comparison.pair import Pair, Side, open_pair
from pipeline.bulk.page import error_causes
from pipeline.bulk.throughput import format_time
from pipeline.report.blocks import Bar, Bars, Block, Facts, Headline, Page, Section, Table, Text, flattened
from pipeline.report.render import render

PICTURES = 20  # lines of a list of pictures
STEPS = (0.01, 0.05, 0.2)  # changes that are counted


def write_comparison(earlier: str, later: str, output: str) -> str:
    """Write the page that compares two runs, and return its URL.

    Args:
        earlier: Folder of the first run.
        later: Folder of the second run.
        output: File of the page.

    Raises:
        UserError: A run is not there or not finished, they cannot be compared, or the page cannot be written.
    """
    page = render(comparison_page(open_pair(earlier, later)))
    with storage.friendly_errors(output, "cannot write the page"):
        storage.write_bytes(output, page)
    return output


def comparison_page(pair: Pair) -> Page:
    """Return the page."""
    drift = _drift(pair)
    sections = [Section("Classes", _classes(pair), _classes_note(pair)), _drift_section(pair, drift)]
    if pair.matched.shape[1]:
        sections.append(Section("Pictures in both runs", _pictures(pair), _pictures_note(pair)))
    sections += _errors(pair)
    sections.append(Section("Configuration", _configuration(pair)))
    times = [format_time(side.manifest["finished"]) for side in (pair.earlier, pair.later)]
    title = f"{pair.earlier.manifest['run_id']} → {pair.later.manifest['run_id']}"
    return Page(title, "Comparison of two runs", f"{times[0]} → {times[1]}", _headlines(pair, drift), sections)


def _headlines(pair: Pair, drift: list[Drift] | None) -> list[Headline]:
    a, b = pair.earlier.manifest, pair.later.manifest
    earlier, later = pair.only
    replaced = f"{pair.replaced:,} more have the same name and another content" if pair.replaced else ""
    lines = [
        Headline("pictures in both", f"{pair.matched.shape[1]:,}", replaced),
        Headline("only in the earlier", f"{len(earlier):,}"),
        Headline("only in the later", f"{len(later):,}"),
        Headline("errors", f"{b['errors']:,}", f"before: {a['errors']:,}"),
    ]
    known = ~np.isnan(pair.gain)
    if known.any():
        note = f"mean over {int(known.sum()):,} pictures in both"
        lines.append(Headline(f"change of {pair.measure.score}", f"{pair.gain[known].mean():+.4f}", note))
    if drift is not None:
        flagged = [name for name, one in zip(pair.names, drift, strict=True) if one.is_flagged]
        lines.append(Headline("classes that drifted", f"{len(flagged)}", ", ".join(flagged[:6])))
    return lines


def _scores(side: Side, pair: Pair) -> dict[str, float | None]:
    """Return the score of each class; of a run with several stages, that of the last one."""
    table = side.tables.get(pair.measure.table)
    return {} if table is None else {row["class"]: row[pair.measure.column] for row in table.to_pylist()}


def _classes(pair: Pair) -> list[Block]:
    scores = [_scores(side, pair) for side in (pair.earlier, pair.later)]
    means = [
        side.amounts.amounts.mean(axis=0) if len(side.amounts.ids) else np.zeros(len(pair.names))
        for side in (pair.earlier, pair.later)
    ]
    top = 1.0  # the longest bar; shares and probabilities have it by themselves
    if pair.measure.table == "detection_report":
        top = max(1e-9, *(float(mean.max(initial=0)) for mean in means))
    bars = []
    for k, name in enumerate(pair.names):
        a, b = float(means[0][k]), float(means[1][k])
        texts = [f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}"]
        colour = pair.earlier.classes.colour_of[name]
        if all(scores):
            before, after = scores[0][name], scores[1][name]
            gain = "–" if before is None or after is None else f"{after - before:+.4f}"
            bars.append(Bar(name, [before, after], [gain, *texts], colour))
        else:
            bars.append(Bar(name, [a / top, b / top], texts[2:] if top == 1.0 else texts, colour))
    amounts = [f"{pair.measure.short} earlier", "later", "change"]
    if all(scores):
        what = pair.measure.class_score
        return [Bars("class", [f"{what} earlier", f"{what} later"], bars, ["change", *amounts])]
    return [Bars("class", ["earlier", "later"], bars, ["change"] if top == 1.0 else amounts)]


def _classes_note(pair: Pair) -> str:
    text = f"The mean {pair.measure.amount} over all images of each run"
    if all(_scores(side, pair) for side in (pair.earlier, pair.later)):
        score = pair.measure.class_score
        text = f"{score} over all scored images of each run; on the right, {text[0].lower()}{text[1:]}"
    own = [name for side in (pair.earlier, pair.later) for name in side.classes.names if name not in pair.names]
    text += f". Classes of one run only: {', '.join(own)}" if own else ""
    return f"{text}." + (f" One image in {pair.one_in} was read, chosen by its name." if pair.one_in > 1 else "")


def _drift(pair: Pair) -> list[Drift] | None:
    """Test the images that one run has and the other one has not; None if these are too few."""
    earlier, later = pair.only
    if min(len(earlier), len(later)) < FEWEST:
        return None
    return class_drift(pair.earlier.amounts.amounts[earlier], pair.later.amounts.amounts[later])


def _drift_section(pair: Pair, drift: list[Drift] | None) -> Section:
    earlier, later = pair.only
    if drift is None:
        text = (
            f"Not tested: {len(earlier):,} pictures are only in the earlier run and {len(later):,} only in the later "
            f"one, and the test needs {FEWEST} of each. Pictures that both runs have are left out: they are the same "
            "sample twice."
        )
        return Section("Drift", [Text(text)])
    rows = [
        [
            name,
            one.earlier,
            one.later,
            f"{one.delta:+.3f}",
            one.effect,
            _p(one.p),
            _p(one.adjusted),
            "drifted" if one.is_flagged else "",
        ]
        for name, one in zip(pair.names, drift, strict=True)
    ]
    rows.sort(key=lambda row: (row[-1] == "", -abs(float(row[3]))))
    heads = ["class", f"mean {pair.measure.amount}, earlier", "later", "effect", "", "p", "corrected p", ""]
    about = f"{len(earlier):,} pictures that are only in the earlier run, {len(later):,} only in the later one. "
    return Section("Drift", [Table(heads, rows)], about + TEST)


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _pictures(pair: Pair) -> list[Block]:
    count = pair.matched.shape[1]
    facts: dict[str, Any] = {"unchanged": f"{int((pair.change == 0).sum()):,}"}
    if pair.measure.factor == 0.5:
        for step in STEPS:
            more = int((pair.change > step).sum())
            facts[f"surely changed by more than {step:.0%}"] = f"{more:,} ({more / count:.1%})"
    blocks: list[Block] = [Facts(facts)]
    gallery = changed_pictures(pair) if pair.measure.table == "class_report" else None
    blocks += [] if gallery is None else [gallery]
    known = np.flatnonzero(~np.isnan(pair.gain))
    order = np.argsort(pair.gain[known], kind="stable")
    if len(known):
        worst, best = known[order][:PICTURES], known[order][::-1][:PICTURES]
        chosen = [*[i for i in worst if pair.gain[i] < 0], *[i for i in best if pair.gain[i] > 0][::-1]]
    else:
        chosen = [i for i in np.argsort(-pair.change, kind="stable")[:PICTURES] if pair.change[i] > 0]
    rows = [_row(pair, int(i), scored=len(known) > 0) for i in chosen]
    heads = ["image", pair.measure.change]
    heads += [f"{pair.measure.score} earlier", "later", "change"] if len(known) else []
    return [*blocks, Table(heads, rows)] if rows else blocks


def _row(pair: Pair, i: int, *, scored: bool) -> list[Any]:
    a, b = pair.matched[:, i]
    row: list[Any] = [pair.earlier.amounts.ids[a], float(pair.change[i])]
    if scored:
        row += [float(pair.earlier.amounts.scores[a]), float(pair.later.amounts.scores[b]), f"{pair.gain[i]:+.4f}"]
    return row


def _pictures_note(pair: Pair) -> str:
    known = not np.isnan(pair.gain).all()
    order = "the largest losses first, then the gains" if known else "the largest changes first"
    text = f"Images of the same name and content. The list has {order}, at most {PICTURES} of each."
    if pair.measure.factor == 0.5:
        text += " Changes come from the pixels of each class: they are lower bounds. The pictures have exact ones."
    return text


def _errors(pair: Pair) -> list[Section]:
    return [
        Section(f"Errors of the {name} run", [error_causes(side.images)])
        for name, side in (("earlier", pair.earlier), ("later", pair.later))
        if side.manifest["errors"]
    ]


def _configuration(pair: Pair) -> list[Block]:
    """Return what differs between the options and models of the runs."""
    options = []
    for side in (pair.earlier, pair.later):
        about = {"fingerprint of the model": side.manifest["model_fingerprint"][:16]}
        options.append(about | {"segpipe": side.manifest["code_version"]} | flattened(side.manifest["config"]))
    names = list(dict.fromkeys([*options[0], *options[1]]))
    rows = [[name, options[0].get(name), options[1].get(name)] for name in names]
    differing = [row for row in rows if row[1] != row[2]]
    if not differing:
        return [Text("Model and options are the same.")]
    return [Table(["differing option", "earlier", "later"], differing)]
