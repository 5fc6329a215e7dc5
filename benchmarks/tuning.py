"""What a worker's settings are chosen by: messages taken ahead of time, and children, by settles a second."""

import statistics
from typing import Any

from benchmarks.settles import Posting
from benchmarks.site import BATCH, Site, worker

PREFETCH = (1, 4, 16, 64)
"""Messages that a worker takes ahead, for each child."""
CHILDREN = (1, 2, 4)
USUAL_PREFETCH, USUAL_CHILDREN = 4, 2
ROUNDS = 2
SHAPES = {"single": (1_000, 1), "coalesced": (10_000, BATCH)}


def measured(site: Site) -> list[dict[str, Any]]:
    """A row for each setting: settles a second, in messages of one job and of 500. Settings take turns."""
    settings = [(each, USUAL_CHILDREN) for each in PREFETCH]
    settings += [(USUAL_PREFETCH, each) for each in CHILDREN if each != USUAL_CHILDREN]
    found: dict[tuple[str, int, int, str], list[float]] = {}
    for number in range(ROUNDS):
        for broker in site.brokers:
            posting = Posting(site, broker)
            for prefetch, children in settings:
                options = ("--prefetch-multiplier", str(prefetch))
                with worker(site, broker, "worker", "billing", children, options):
                    for shape, (count, jobs) in SHAPES.items():
                        rate = posting.ours(count, jobs)
                        found.setdefault((broker, prefetch, children, shape), []).append(rate.per_second)
                print(f"round {number + 1} of {ROUNDS}: {broker}, prefetch {prefetch}, {children} children", flush=True)
            posting.engine.dispose()
    return [
        {
            "broker": broker,
            "prefetch": prefetch,
            "children": children,
            **{shape: round(statistics.median(found[broker, prefetch, children, shape])) for shape in SHAPES},
        }
        for broker in site.brokers
        for prefetch, children in settings
    ]
