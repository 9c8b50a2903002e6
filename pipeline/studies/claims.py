"""The verdict on a paper's claim, by a stated rule."""

from typing import Literal, NamedTuple

Verdict = Literal["held", "did not hold", "undecided"]


class Claim(NamedTuple):
    """A claim, and what was measured.

    Attributes:
        claim: What the paper says.
        paper: The paper, with the section or figure.
        rule: When the claim holds here.
        measured: What was measured here.
        verdict: Whether it held.
    """

    claim: str
    paper: str
    rule: str
    measured: str
    verdict: Verdict


def verdict(held: bool | None) -> Verdict:
    """Return the verdict for a rule that is fulfilled, broken, or (None) not decided by the data."""
    return "undecided" if held is None else "held" if held else "did not hold"
