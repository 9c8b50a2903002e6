"""The episodes of a full run and of a short one."""

from dataclasses import replace

from benchmarks.chaos.episode import Episode

FULL = (
    Episode("predictors", {"predictor killed": 5, "predictor stopped for 20 s": 2}),
    Episode("helpers", {"helper process killed": 6}),
    Episode("crf", {"CRF task killed": 5, "helper process killed": 3, "predictor killed": 2}, crf=True),
    Episode("nodes", {"node lost, another added after 5 s": 3}),
    Episode("nodes-crf", {"node lost, another added after 5 s": 2}, crf=True),
    Episode("gcs", {"GCS killed, restarted after 3 s": 3}),
    Episode("head", {"head lost": 1}),
    Episode("driver-killed", {"driver killed": 4, "driver killed beside its supervisor": 2}),
    Episode("driver-terminated", {"driver terminated (SIGTERM)": 4, "second driver started": 2}),
    Episode("driver-stopped", {"driver stopped for 130 s, second driver started": 1}),
    Episode(
        "store-down",
        {
            "images: 503": 2,
            "images: 403": 2,
            "all requests: 30% throttled (429)": 2,
            "all requests: credentials expired (400)": 2,
            "all requests: clock refused (403 RequestTimeTooSkewed)": 2,
            "listings: 503": 2,
        },
    ),
    Episode("store-away", {"images: 503": 2, "output: 503": 2}, options=("--store.patience=3",)),
    Episode(
        "connections",
        {
            "images: half of the connections reset": 2,
            "all requests: 10% reset": 2,
            "images: 10% answered after 30 s": 2,
            "images: 30% at 1 KB/s": 2,
        },
    ),
    Episode(
        "bodies",
        {"images: 30% cut, Content-Length to fit": 3, "images: 30% shorter than Content-Length": 3},
    ),
    Episode(
        "output",
        {"output: 503": 2, "output: read-only bucket (403)": 2, "output: store full (507)": 2},
    ),
    Episode("disk", {"disk of output and temporary files full": 4}, on_disk=True),
    Episode(
        "everything-crf",
        {
            "predictor killed": 2,
            "helper process killed": 2,
            "CRF task killed": 2,
            "node lost, another added after 5 s": 1,
            "driver killed": 1,
            "driver terminated (SIGTERM)": 1,
            "images: 503": 1,
            "images: 30% cut, Content-Length to fit": 1,
            "output: 503": 1,
        },
        crf=True,
    ),
)

# All of them refine by the CRF, so that one undisturbed run is enough.
SHORT = (
    Episode(
        "processes",
        {
            "predictor killed": 1,
            "helper process killed": 1,
            "CRF task killed": 2,
            "node lost, another added after 5 s": 1,
            "driver killed": 1,
            "driver terminated (SIGTERM)": 1,
        },
        crf=True,
    ),
    Episode(
        "store",
        {
            "images: 503": 1,
            "images: half of the connections reset": 1,
            "images: 30% cut, Content-Length to fit": 1,
            "images: 30% shorter than Content-Length": 1,
            "output: read-only bucket (403)": 1,
        },
        crf=True,
    ),
)


def scaled(episodes: tuple[Episode, ...], faults: int) -> tuple[Episode, ...]:
    """Return episodes with at least a number of faults in all, each fault at least once."""
    planned = sum(sum(episode.faults.values()) for episode in episodes)
    return tuple(
        replace(one, faults={name: -(-n * faults // planned) for name, n in one.faults.items()}) for one in episodes
    )
