"""The table of the faults benchmark."""

from benchmarks.chaos.config import ChaosConfig
from benchmarks.chaos.episode import Outcome

HEADS = ("times", "lost", "doubled", "different", "recomputed", "refetched", "rounds", "seconds lost")


def format_outcomes(outcomes: list[Outcome], config: ChaosConfig) -> str:
    """Return a line for each fault; the figures of its run stand on the first line of an episode."""
    width = max(len(name) for one in outcomes for name in [one.name, *one.injected]) + 4
    lines = [f"{'episode and fault':{width}}" + "".join(f"{head:>14}" for head in HEADS)]
    for one in outcomes:
        cells = [sum(one.injected.values()), len(one.lost), len(one.doubled), len(one.different), one.recomputed]
        cells += [one.refetched, one.rounds, round(one.seconds_lost)]
        lines.append(f"{one.name:{width}}" + "".join(f"{cell:14,}" for cell in cells))
        lines += [f"  {name:{width - 2}}{times:14,}" for name, times in one.injected.items()]
    total = sum(sum(one.injected.values()) for one in outcomes)
    planned = sum(sum(episode.faults.values()) for episode in config.episodes)
    wrong = sum(one.wrong for one in outcomes)
    lines.append(f"\nseed {config.seed}: {total} faults of {planned} planned; {wrong} rows lost, doubled or different")
    lines += [f"{one.name}, {finding}" for one in outcomes for finding in one.findings]
    return "\n".join(lines)
