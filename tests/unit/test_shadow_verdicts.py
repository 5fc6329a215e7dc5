"""One verdict for each request, decided in one order."""

from dataclasses import replace

import pytest

from worker.shadow.verdicts import Pair, Verdict, verdict

PLAIN = Pair("r", 1, 0, ours=100, theirs=100, funds=1_000)
CASES: list[tuple[Verdict, dict[str, object]]] = [
    (Verdict.AGREED, {}),
    (Verdict.AGREED, {"ours": 0, "theirs": None}),
    (Verdict.AGREED, {"ours": 0, "theirs": 0}),
    (Verdict.AGREED, {"funds": None}),
    (Verdict.AGREED, {"ours": 1_000, "theirs": 1_000}),
    (Verdict.DIFFER, {"theirs": 99}),
    (Verdict.DIFFER, {"ours": 0}),
    (Verdict.DIFFER, {"theirs": 0}),
    (Verdict.DIFFER, {"theirs": -5, "below": True}),
    (Verdict.NEVER_CHARGED, {"theirs": None}),
    (Verdict.NEVER_CHARGED, {"theirs": None, "below": True}),
    (Verdict.OVERDREW, {"below": True}),
    (Verdict.OVERDREW, {"ours": 1_001, "theirs": 1_001}),
    (Verdict.OVERDREW, {"theirs": 1_001}),
    (Verdict.ONLY_THEIRS, {"ours": None, "funds": None}),
    (Verdict.OPEN, {"open": True, "ours": 0}),
    (Verdict.OPEN, {"open": True, "ours": 0, "theirs": None}),
    (Verdict.REFUSED, {"refused": True, "ours": 0}),
    (Verdict.REFUSED, {"refused": True, "ours": 0, "funds": 5}),
    (Verdict.AGREED, {"refused": True, "ours": 0, "theirs": None}),
    (Verdict.AGREED, {"refused": True, "ours": 0, "theirs": 0}),
]


@pytest.mark.parametrize(("expected", "change"), CASES)
def test_a_request_has_the_first_verdict_that_fits(expected: Verdict, change: dict[str, object]) -> None:
    assert verdict(replace(PLAIN, **change), readable=True) is expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("expected", "change"),
    [
        (Verdict.NOT_COMPARED, {}),
        (Verdict.OPEN, {"open": True}),
        (Verdict.REFUSED, {"refused": True, "ours": 0}),
    ],
)
def test_without_their_log_only_our_side_is_known(expected: Verdict, change: dict[str, object]) -> None:
    assert verdict(replace(PLAIN, theirs=None, **change), readable=False) is expected  # type: ignore[arg-type]


def test_every_verdict_has_words_of_its_own() -> None:
    assert len({each.words for each in Verdict}) == len(Verdict)
