"""Times several subjects fairly on a noisy machine, by interleaving them in changing order.

Other load then slows all of them alike. Ratios of two subjects are computed within each round.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from dlcv.runtime.engines.base import DeviceTimer, Engine

WARM_UPS = 2  # warm-up calls
_TURN_SECONDS = (0.02, 0.5)  # the shortest and the longest turn of short calls
_TURNS = 20  # into which the time of each is cut
_MOST_REPEATS = 10_000
_MOST_ROUNDS = 10_000
_SETTLE_SECONDS = 0.06  # for so long the threads of whatever ran before may go on spinning, on somebody else's core

Key = TypeVar("Key")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something to time.

    turn: runs it the given number of times and returns the seconds of each run. estimate: expected seconds of
    one run.
    """

    turn: Callable[[int], list[float]]
    estimate: float

    def within(self, call: Callable[[Callable[[], list[float]]], list[float]]) -> Subject:
        """Return this with its turns run by `call`, such as on an engine's own thread; a turn is one call."""
        return replace(self, turn=lambda repeats: call(partial(self.turn, repeats)))


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Measured seconds, by round."""

    rounds: tuple[tuple[float, ...], ...]

    @property
    def calls(self) -> int:
        """The number of timed calls."""
        return sum(map(len, self.rounds))

    @property
    def median(self) -> float:
        """Median seconds of a call."""
        return self.quantile(0.5)

    def quantile(self, share: float) -> float:
        """Return the seconds that a share (0..1) of the calls did not exceed."""
        return float(np.quantile([s for each in self.rounds for s in each], share))

    def speed_over(self, other: Timing) -> float:
        """Return how many times as fast as `other` this was: the median of the ratios of the rounds."""
        return median(self.ratios(other))

    def ratios(self, other: Timing) -> list[float]:
        """Return how many times as fast as `other` this was, in each round."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return [median(theirs) / median(own) for own, theirs in pairs]


def subject_from_call(call: Callable[[], object]) -> Subject:
    """Warm up a callable and return it as a subject, timed by the clock."""
    seconds = [_seconds(call) for _ in range(WARM_UPS)]
    return Subject(turn=partial(_timed, call), estimate=seconds[-1])


def subject_from_engine(engine: Engine, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Subject:
    """Warm up an engine and return a batch as a subject, with as many in flight as the engine takes, timed by the clock.

    Where copies overlap with computing, a batch takes less than one alone.
    """
    if engine.batches_in_flight == 1:
        return subject_from_call(partial(engine.infer, feeds))
    turn = partial(_in_flight, engine, feeds)
    turn(WARM_UPS * engine.batches_in_flight)
    return Subject(turn=turn, estimate=turn(WARM_UPS)[-1])


def subject_from_timer(timer: DeviceTimer, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Subject:
    """Warm up an engine and return its device time alone as a subject."""
    seconds = timer.device_seconds(feeds, repeats=WARM_UPS)
    return Subject(
        turn=lambda repeats: timer.device_seconds(feeds, repeats=repeats), estimate=seconds[-1]
    )


def interleaved(
    subjects: Mapping[Key, Subject],
    *,
    seconds: float,
    least_rounds: int = 3,
    on_round: Callable[[float], object] = lambda _: None,
) -> dict[Key, Timing]:
    """Time every subject once per round until `seconds` have passed.

    Short calls are repeated within a turn, so that caches are warm, threads are awake, and all get a like share of the time,
    however fast they are. Each round has another order, so that each subject follows each other subject; the sequence of
    orders is fixed. least_rounds: the minimum number of rounds. on_round: called with the share done, 0..1.
    """
    names, shuffle = list(subjects), Random(0).shuffle
    shortest, longest = _TURN_SECONDS
    turn = min(longest, max(shortest, seconds / _TURNS / max(1, len(names))))
    estimates = {name: subject.estimate for name, subject in subjects.items()}
    measured: dict[Key, list[tuple[float, ...]]] = {name: [] for name in names}
    start = time.perf_counter()
    for number in range(_MOST_ROUNDS):
        elapsed = time.perf_counter() - start
        if number >= least_rounds and elapsed >= seconds:
            break
        on_round(min(1.0, elapsed / seconds))
        shuffle(names)
        for name in names:
            time.sleep(_SETTLE_SECONDS)
            taken = subjects[name].turn(_repeats(estimates[name], turn))
            measured[name].append(tuple(taken))
            estimates[name] = median(taken)  # warm-ups may be much slower
    return {name: Timing(rounds=tuple(rounds)) for name, rounds in measured.items()}


def _repeats(estimate: float, turn: float) -> int:
    return min(_MOST_REPEATS, max(1, int(turn / max(estimate, 1e-9))))


def _timed(call: Callable[[], object], repeats: int) -> list[float]:
    if repeats > 1:
        call()  # other subjects ran before: caches are cold
    return [_seconds(call) for _ in range(repeats)]


def _in_flight(
    engine: Engine, feeds: Mapping[str, np.ndarray[Any, Any]], repeats: int
) -> list[float]:
    """Return the seconds from one finished batch to the next; those that fill the pipe before are not counted."""
    started = deque(engine.start(feeds) for _ in range(engine.batches_in_flight))
    started.popleft()()
    seconds, before = [], time.perf_counter()
    for _ in range(repeats):
        started.append(engine.start(feeds))
        started.popleft()()
        seconds.append(time.perf_counter() - before)
        before += seconds[-1]
    while started:
        started.popleft()()
    return seconds


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
