"""The results of a comparative study: tables, the verdict, a figure and a page."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy.stats import ttest_ind

from pipeline import parquet, storage
from pipeline.card import read_card
from pipeline.models import configure, count_parameters
from pipeline.models.weightless import weightless
from pipeline.report.blocks import Facts, Headline, Page, Picture, Section, Table
from pipeline.studies.claims import Claim, verdict
from pipeline.studies.description import Description
from pipeline.studies.trials import Outcome
from pipeline.training.records import read_records

LEVEL = 0.05  # of the one-sided tests
TRIALS = pa.schema(
    [
        ("variant", pa.string()),
        ("seed", pa.int64()),
        ("score", pa.float64()),
        ("seconds", pa.float64()),
        ("parameters", pa.int64()),  # of the network that the first training step trained
        ("train_seconds_per_epoch", pa.float64()),
        ("score_at_equal_time", pa.float64()),  # best score within the training time of the fastest trial
        ("problem", pa.string()),
    ]
)
SUMMARY = pa.schema(
    [
        ("variant", pa.string()),
        ("trials", pa.int64()),
        ("failed", pa.int64()),
        ("mean", pa.float64()),
        ("std", pa.float64()),  # over seeds, with n - 1
        ("parameters", pa.int64()),
        ("train_seconds_per_epoch", pa.float64()),
        ("mean_at_equal_time", pa.float64()),
    ]
)
RULE = (
    "the mean of each variant is above that of the one before it, and Welch's one-sided t-test over the seeds has "
    f"p < {LEVEL} for each pair; it does not hold if a pair is reversed with such a p; else it is undecided"
)


class Comparison(NamedTuple):
    """The tables of a study, as lists of rows, and its verdict."""

    trials: list[dict[str, Any]]
    summary: list[dict[str, Any]]
    claim: Claim


def compare(description: Description, outcomes: Sequence[Outcome]) -> Comparison:
    """Return the tables and the verdict of finished and failed trials."""
    trials = _trial_rows(description, outcomes)
    summary = [_summary_row(name, [row for row in trials if row["variant"] == name]) for name in description.variants]
    return Comparison(trials, summary, judge(description, trials))


def judge(description: Description, trials: Sequence[dict[str, Any]]) -> Claim:
    """Return the claim with its verdict, by `RULE`."""
    scores = {
        name: [row["score"] for row in trials if row["variant"] == name and row["score"] is not None]
        for name in description.variants
    }
    texts, held, broken = [], True, False
    for worse, better in (pair for chain in description.expect for pair in pairwise(chain)):
        low, high = scores[worse], scores[better]
        gap = float(np.mean(high) - np.mean(low)) if low and high else float("nan")
        p = _p_value(low, high)
        held &= p < LEVEL
        broken |= 1 - p < LEVEL
        known = "too few trials" if np.isnan(p) else f"p = {p:.3f}"
        texts.append(f"{better} - {worse} = {gap:+.4f} ({known})")
    return Claim(
        description.claim,
        f"{description.paper}: {description.published}",
        RULE,
        "; ".join(texts),
        verdict(False if broken else True if held else None),
    )


def _p_value(low: Sequence[float], high: Sequence[float]) -> float:
    """Return the p-value of `high` having no larger mean than `low`; NaN for fewer than two trials of either."""
    if min(len(low), len(high)) < 2:
        return float("nan")
    if np.ptp(low) == np.ptp(high) == 0:
        return float("nan") if low[0] == high[0] else float(high[0] < low[0])
    return float(ttest_ind(high, low, equal_var=False, alternative="greater").pvalue)


def _trial_rows(description: Description, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    first = next((name for name, step in description.steps.items() if step.job.startswith("train")), None)
    records = {
        outcome.trial: read_records(outcome.results[first]) if first in outcome.results else [] for outcome in outcomes
    }
    totals = [sum(record["train_s"] for record in some) for some in records.values() if some]
    budget = min(totals, default=0.0)
    rows = []
    for outcome in outcomes:
        trained = records[outcome.trial]
        times = [record["train_s"] for record in trained]
        within = [record for record, spent in zip(trained, np.cumsum(times), strict=True) if spent <= budget * 1.0001]
        key = description.score.column
        reached = [record[key] for record in within if record.get(key) is not None]
        scored_there = description.score.table is None and description.score.step == first
        rows.append(
            {
                "variant": outcome.trial.variant,
                "seed": outcome.trial.seed,
                "score": outcome.score,
                "seconds": outcome.seconds,
                "parameters": _parameters(outcome.results[first]) if first and trained else None,
                "train_seconds_per_epoch": float(np.mean(times)) if times else None,
                "score_at_equal_time": max(reached) if scored_there and reached else None,
                "problem": outcome.problem,
            }
        )
    return rows


def _parameters(bundle: str) -> int:
    """Return the number of trainable parameters of a bundle's network."""
    card = read_card(bundle)
    with weightless():
        return count_parameters(configure(card.architecture, card.options).build(len(card.classes)))


def _summary_row(name: str, trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def mean(key: str) -> float | None:
        values = [row[key] for row in trials if row[key] is not None]
        return float(np.mean(values)) if values else None

    scores = [row["score"] for row in trials if row["score"] is not None]
    parameters = [row["parameters"] for row in trials if row["parameters"] is not None]
    return {
        "variant": name,
        "trials": len(scores),
        "failed": sum(row["problem"] is not None for row in trials),
        "mean": mean("score"),
        "std": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        "parameters": parameters[0] if parameters else None,
        "train_seconds_per_epoch": mean("train_seconds_per_epoch"),
        "mean_at_equal_time": mean("score_at_equal_time"),
    }


def write_comparison(folder: str, name: str, description: Description, comparison: Comparison) -> None:
    """Write tables, figure, page and, last, `study.json`."""
    from pipeline.report.render import render  # Jinja2
    from pipeline.studies.comparison_figure import draw_comparison  # matplotlib

    parquet.write_rows(storage.join(folder, "trials.parquet"), comparison.trials, TRIALS)
    parquet.write_rows(storage.join(folder, "summary.parquet"), comparison.summary, SUMMARY)
    png, svg = draw_comparison(description, comparison.trials)
    storage.write_bytes(storage.join(folder, "figure.png"), png)
    storage.write_bytes(storage.join(folder, "figure.svg"), svg)
    claim = comparison.claim
    failed = [row for row in comparison.trials if row["problem"] is not None]
    sections = [
        Section("Claim", [Facts(claim._asdict())]),
        Section(
            "Variants",
            [
                Table(SUMMARY.names, [[row[key] for key in SUMMARY.names] for row in comparison.summary]),
                Picture(png, f"{description.score.title} of each trial and mean of each variant"),
            ],
        ),
    ]
    if failed:
        rows = [[row["variant"], row["seed"], row["problem"]] for row in failed]
        sections.append(Section("Failed trials", [Table(["variant", "seed", "problem"], rows)]))
    headlines = [
        Headline("verdict", claim.verdict),
        Headline("trials", f"{len(comparison.trials):,}", f"{len(failed):,} failed"),
    ]
    page = Page(name, "Comparative study", claim.claim, headlines, sections)
    storage.write_bytes(storage.join(folder, "report.html"), render(page))
    about = {"study": name, "description": description.model_dump(mode="json"), "claims": [claim._asdict()]}
    storage.write_bytes(storage.join(folder, "study.json"), json.dumps(about, indent=2).encode())


def format_comparison(description: Description, comparison: Comparison) -> str:
    """Format the summary and the verdict for a terminal."""
    width = max(map(len, description.variants))
    lines = []
    for row in comparison.summary:
        score = "–" if row["mean"] is None else f"{row['mean']:.4f}"
        spread = "" if row["std"] is None else f" ± {row['std']:.4f}"
        failed = f", {row['failed']} failed" if row["failed"] else ""
        lines.append(f"  {row['variant']:<{width}}  {score}{spread}  ({row['trials']} trials{failed})")
    claim = comparison.claim
    return "\n".join([description.score.title, *lines, f"{claim.verdict}: {claim.claim}", f"  {claim.measured}"])
