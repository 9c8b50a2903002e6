"""The report of a lesion study: tables in Parquet, verdicts, a figure and a page."""

import json
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import ConstantInputWarning, spearmanr

from pipeline import parquet, storage
from pipeline.report.blocks import Facts, Headline, Page, Picture, Section, Table
from pipeline.studies.claims import Claim, verdict
from pipeline.studies.config import LesionConfig
from pipeline.studies.lesion_results import PATHS, PathGradients, Results, means_by_k

PAPER = "Veit, Wilber & Belongie, NIPS 2016"
VARIANTS = pa.schema(
    [
        ("kind", pa.string()),  # intact, single, several or shuffled
        ("removed", pa.list_(pa.string())),  # names of the removed blocks
        ("transition", pa.bool_()),  # whether a removed block changes the shape of the map
        ("k", pa.int64()),  # number of removed blocks or swapped pairs
        ("tau", pa.float64()),  # Kendall's rank correlation with the intact order
        ("error", pa.float64()),  # 1 - top-1 accuracy, or 1 - mIoU
        ("damage", pa.float64()),  # (error - intact error) / (chance - intact error)
        ("problem", pa.string()),
    ]
)
CLAIMS = pa.schema([(name, pa.string()) for name in Claim._fields])
NEAR = 0.1  # damage up to which an error is nearly unchanged
LOST = 0.9  # damage from which an error is nearly chance


def write_results(folder: str, config: LesionConfig, results: Results) -> None:
    """Write tables, figure, page and, last, `study.json`."""
    from pipeline.studies.lesion_figure import draw_figure  # matplotlib

    claims = judge(results)
    parquet.write_rows(storage.join(folder, "variants.parquet"), variant_rows(results), VARIANTS)
    parquet.write_rows(storage.join(folder, "claims.parquet"), [claim._asdict() for claim in claims], CLAIMS)
    if results.paths is not None:
        parquet.write_rows(storage.join(folder, "paths.parquet"), results.paths.rows, PATHS)
    png, svg = draw_figure(results)
    storage.write_bytes(storage.join(folder, "figure.png"), png)
    storage.write_bytes(storage.join(folder, "figure.svg"), svg)
    storage.write_bytes(storage.join(folder, "report.html"), _page(config, results, claims, png))
    about = {
        "study": config.study,
        "config": config.model_dump(mode="json"),
        "fingerprint": results.card.fingerprint,
        "images": results.images,
        "left_out": len(results.left_out),
        "claims": [claim._asdict() for claim in claims],
    }
    storage.write_bytes(storage.join(folder, "study.json"), json.dumps(about, indent=2).encode())


def variant_rows(results: Results) -> list[dict[str, Any]]:
    """Return a row of `VARIANTS` for each variant."""
    rows = []
    for i, (lesion, error, damage) in enumerate(
        zip(results.lesions, results.errors.tolist(), results.damage.tolist(), strict=True)
    ):
        known = results.counts[i] is not None
        rows.append(
            {
                "kind": lesion.kind,
                "removed": [results.blocks[k].name for k in sorted(lesion.variant.removed)],
                "transition": results.hits_transition(i),
                "k": lesion.k,
                "tau": lesion.tau,
                "error": error if known else None,
                "damage": damage if known else None,
                "problem": results.problems[i],
            }
        )
    return rows


def judge(results: Results) -> list[Claim]:
    """Return the paper's claims with the verdicts of this study.

    If the intact network is hardly better than chance, there is nothing to lose, and no claim can be decided.
    """
    with warnings.catch_warnings(category=ConstantInputWarning, action="ignore"):  # a correlation that is NaN
        if not results.blocks[0].residual:
            claims = [_plain(results)]
        else:
            claims = [_single(results), _transitions(results), _several(results), _shuffled(results)]
            claims += [_gradient(results.paths)] if results.paths is not None else []
    error = results.errors[0]
    if error < LOST * results.chance:
        return claims
    note = results.problems[0] or f"the intact network's error {error:.3f} is near that of chance, {results.chance:.3f}"
    return [claim._replace(measured=note, verdict="undecided") for claim in claims]


def _plain(results: Results) -> Claim:
    damage = results.damage[results.of_kind("single")]
    median = float(np.median(damage)) if len(damage) else float("nan")
    return Claim(
        "Without any one of its layers, a plain network falls to chance.",
        f"{PAPER}, section 4.1, figure 3",
        f"the median damage of single layers is at least {LOST}",
        f"median damage {median:.2f}, {_share(damage >= LOST)} of the {len(damage)} layers at {LOST} or more",
        verdict(None if not len(damage) else median >= LOST),
    )


def _single(results: Results) -> Claim:
    kept = [i for i in results.of_kind("single") if not results.hits_transition(i)]
    damage = results.damage[kept]
    median = float(np.median(damage)) if len(damage) else float("nan")
    return Claim(
        "Without any one of its blocks, a residual network is hardly worse.",
        f"{PAPER}, section 4.1, figure 3",
        f"the median damage of single blocks, without those that change the shape of the map, is at most {NEAR}",
        f"median damage {median:.3f}, largest {damage.max():.3f}" if len(damage) else "no such block",
        verdict(None if not len(damage) else median <= NEAR),
    )


def _transitions(results: Results) -> Claim:
    single = results.of_kind("single")
    at = results.damage[[i for i in single if results.hits_transition(i)]]
    others = results.damage[[i for i in single if not results.hits_transition(i)]]
    decided = len(at) > 0 and len(others) > 0
    bound = float(np.quantile(others, 0.9)) if len(others) else float("nan")
    return Claim(
        "The blocks that change the resolution matter most.",
        f"{PAPER}, section 4.1, figure 3",
        "each of them damages more than nine tenths of the other blocks do",
        f"their damage is {', '.join(f'{value:.3f}' for value in at)}; nine tenths of the others damage at most "
        f"{bound:.3f}"
        if decided
        else "no such block",
        verdict(bool((at > bound).all()) if decided else None),
    )


def _several(results: Results) -> Claim:
    ks, means = means_by_k(results, "several")
    decided = len(ks) >= 4
    rank = float(spearmanr(ks, means).statistic) if decided else float("nan")
    span = results.chance - results.errors[0]
    jump = float(np.diff(np.r_[results.errors[0], means]).max()) / span if decided else float("nan")
    return Claim(
        "The error grows smoothly with the number of removed blocks, as in an ensemble.",
        f"{PAPER}, section 4.2, figure 5a",
        "Spearman's correlation of the mean error with the number is at least 0.9, and no step is more than half of "
        "the way to chance",
        f"correlation {rank:.2f}, largest step {jump:.2f} of the way" if decided else "fewer than four numbers",
        verdict(rank >= 0.9 and jump <= 0.5 if decided else None),
    )


def _shuffled(results: Results) -> Claim:
    shuffled = results.of_kind("shuffled")
    taus = [results.lesions[i].tau for i in shuffled]
    decided = len(set(taus)) >= 4
    rank = float(spearmanr(taus, results.errors[shuffled]).statistic) if decided else float("nan")
    return Claim(
        "The error grows smoothly as the order of the blocks is corrupted.",
        f"{PAPER}, section 4.3, figure 5b",
        "Spearman's correlation of the error with Kendall's tau is at most -0.7",
        f"correlation {rank:.2f}, over {len(taus)} orders" if decided else "too few orders",
        verdict(rank <= -0.7 if decided else None),
    )


def _gradient(paths: PathGradients) -> Claim:
    rows = paths.rows
    n = len(rows) - 1
    share = np.array([row["share_of_gradient"] for row in rows])
    mean = float((np.arange(n + 1) * share).sum())
    total = np.cumsum(share)
    low, high = int(np.searchsorted(total, 0.025)), int(np.searchsorted(total, 0.975))
    covered = sum(row["share_of_paths"] for row in rows[low : high + 1])
    bound = n / 2 - np.sqrt(n) / 2
    return Claim(
        "Most of the gradient comes from short paths, which are few.",
        f"{PAPER}, section 5, figure 6: of 54 blocks, lengths 5 to 17, 0.45% of the paths",
        "the mean length of a path, weighted by its gradient, is below the mean length n / 2 by more than one standard "
        "deviation of the lengths, sqrt(n) / 2",
        f"n = {n}; mean length {mean:.1f} (bound {bound:.1f}); 95% of the gradient from lengths {low} to {high}, "
        f"{covered:.2%} of the paths",
        verdict(mean < bound if share.any() else None),
    )


def _share(which: NDArray[np.bool_]) -> str:
    return f"{which.mean():.0%}" if len(which) else "–"


def _page(config: LesionConfig, results: Results, claims: Sequence[Claim], figure: bytes) -> bytes:
    from pipeline.report.render import render  # Jinja2

    facts = {
        "model": f"{storage.redact(config.model)} ({results.card.architecture})",
        "images": f"{results.images} below {storage.redact(config.images)}",
        "unusable images": f"{len(results.left_out)}; the first: {results.left_out[0]}" if results.left_out else 0,
        "score": results.scorer.score,
        "error of the intact network": float(results.errors[0]),
        "error of chance": results.chance,
        "blocks": len(results.blocks),
        "variants": len(results.lesions),
    }
    heads = ["claim", "paper", "rule", "measured here", "verdict"]
    worst = sorted(results.of_kind("single"), key=lambda i: -results.errors[i])[:10]
    single = [
        [", ".join(row["removed"]), row["transition"], row["error"], row["damage"]]
        for row in (variant_rows(results)[i] for i in worst)
    ]
    verdicts = Counter(claim.verdict for claim in claims)
    headlines = [Headline(verdict, f"{count}", f"of {len(claims)} claims") for verdict, count in verdicts.items()]
    sections = [
        Section("Claims", [Table(heads, [list(claim) for claim in claims])]),
        Section("Errors", [Picture(figure, "errors of the variants, and the gradient along paths")]),
        Section("Blocks that matter most", [Table(["removed", "changes the shape", "error", "damage"], single)]),
        Section("Study", [Facts(facts)]),
    ]
    return render(Page(f"Lesions of {results.card.architecture}", "Lesion study", PAPER, headlines, sections))


def format_claims(folder: str) -> str:
    """Format the verdicts of a finished study for a terminal."""
    claims = json.loads(storage.read_bytes(storage.join(folder, "study.json")))["claims"]
    return "\n".join(f"{claim['verdict']:>12}  {claim['claim']}\n{'':>14}{claim['measured']}" for claim in claims)
