"""The table of the faults benchmark."""

from benchmarks.chaos.episode import Outcome

HEADS = ("times", "lost", "doubled", "different", "recomputed", "refetched", "rounds", "seconds lost")


def format_outcomes(outcomes: list[Outcome], *, seed: int, planned: int) -> str:
    """Describe the episodes: a line with the figures of each, and one for each of its faults.

    Args:
        outcomes: The episodes.
        seed: Seed of the faults.
        planned: Number of faults that were planned.
    """
    width = max(len(name) for one in outcomes for name in [one.name, *one.injected]) + 4
    lines = [f"{'episode and fault':{width}}" + "".join(f"{head:>14}" for head in HEADS)]
    for one in outcomes:
        rows = [len(one.lost), len(one.doubled), len(one.different)]
        cells = [sum(one.injected.values()), *rows, one.recomputed, one.refetched, one.rounds, round(one.seconds_lost)]
        lines.append(f"{one.name:{width}}" + "".join(map(_cell, cells)))
        lines += [f"  {name:{width - 2}}{times:14,}" for name, times in one.injected.items()]
    total = sum(sum(one.injected.values()) for one in outcomes)
    wrong = sum(one.wrong for one in outcomes)
    lines.append(f"\nseed {seed}: {total} faults of {planned} planned; {wrong} rows lost, doubled or different")
    lines += [f"{one.name}, {finding}" for one in outcomes for finding in one.findings]
    return "\n".join(lines)


def _cell(value: int | None) -> str:
    return f"{'–':>14}" if value is None else f"{value:14,}"
