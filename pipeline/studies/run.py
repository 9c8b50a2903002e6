"""A comparative study from its description to its page."""

import posixpath

from pipeline import storage
from pipeline.cli import read_options
from pipeline.errors import UserError
from pipeline.studies.comparison import compare, format_comparison, write_comparison
from pipeline.studies.config import StudyConfig
from pipeline.studies.description import names, read_description
from pipeline.studies.trials import Trials


def study(config: StudyConfig) -> str:
    """Run a study, or go on with it, and return its result as text.

    Raises:
        UserError: The description or an option is wrong, or every trial failed.
    """
    if config.output is None:
        raise UserError("--output is required")
    description = read_description(config.study)
    own = read_options(config.options, noun="options file") if config.options else {}
    name = config.study_id or posixpath.splitext(posixpath.basename(config.study))[0]
    folder = storage.join(config.output, f"study_id={name}")
    storage.check_writable(folder)
    seeds = config.seeds or description.seeds
    print(f"{name}: {len(description.variants)} variants, {seeds} seeds each; {storage.redact(folder)}", flush=True)
    outcomes = Trials(description, own, folder, seeds=seeds).run(parallel=config.parallel)
    if all(outcome.score is None for outcome in outcomes):
        raise UserError(f"every trial failed; {outcomes[0].trial.name}: {outcomes[0].problem}")
    comparison = compare(description, outcomes)
    write_comparison(folder, name, description, comparison)
    return f"\n{format_comparison(description, comparison)}\n\nreport: {folder}/report.html"


def list_studies() -> str:
    """Return the studies of the package with their claims, one per line."""
    known = {name: read_description(name).claim for name in names()}
    width = max(map(len, known))
    return "\n".join(f"{name:<{width}}  {claim}" for name, claim in known.items())
