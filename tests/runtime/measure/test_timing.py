"""Turns, rounds, and ratios within rounds; no test asserts a time."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from dlcv.runtime.bundle import open_bundle
from dlcv.runtime.engines.base import Arrays, Engine
from dlcv.runtime.engines.fake import FakeEngine
from dlcv.runtime.measure import timing
from dlcv.runtime.measure.timing import (
    Subject,
    Timing,
    interleaved,
    subject_from_call,
    subject_from_engine,
)


def subject(name: str, log: list[str], *, estimate: float = 1.0) -> Subject:
    def turn(repeats: int) -> list[float]:
        log.extend([name] * repeats)
        return [estimate] * repeats

    return Subject(turn=turn, estimate=estimate)


def test_each_comes_once_a_round_and_after_each_other_in_the_long_run() -> None:
    log: list[str] = []
    interleaved({n: subject(n, log) for n in "abc"}, seconds=1e-9, least_rounds=12)
    rounds = ["".join(log[i : i + 3]) for i in range(0, len(log), 3)]
    assert {"".join(sorted(each)) for each in rounds} == {"abc"}
    assert len(set(rounds)) > 3
    assert {f"{first}{second}" for first, second in itertools.pairwise(log)} >= {
        "ab", "ba", "ac", "ca", "bc", "cb"
    }  # fmt: skip


def test_short_calls_are_repeated_within_a_turn_and_long_ones_not() -> None:
    log: list[str] = []
    subjects = {
        "short": subject("s", log, estimate=1e-6),
        "middle": subject("m", log, estimate=0.005),
        "long": subject("l", log, estimate=3.0),
    }
    timings = interleaved(subjects, seconds=1e-9, least_rounds=2)
    assert {name: timing.calls for name, timing in timings.items()} == {
        "short": 20_000,
        "middle": 8,
        "long": 2,
    }


class Clock:
    """Time that passes only by sleeping and by what subjects take."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def subject(self, seconds: float) -> Subject:
        def turn(repeats: int) -> list[float]:
            self.now += repeats * seconds
            return [seconds] * repeats

        return Subject(turn=turn, estimate=seconds)


def test_each_is_timed_for_its_share_of_the_seconds_at_any_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    speeds = {"gpu": 0.0005, "cpu": 0.08, "slow": 0.4}
    subjects = {name: clock.subject(seconds) for name, seconds in speeds.items()}
    timings = interleaved(subjects, seconds=60.0)
    assert 60 <= clock.now < 62
    taken = {name: timings[name].calls * seconds for name, seconds in speeds.items()}
    assert taken["gpu"] == pytest.approx(taken["cpu"], rel=0.1)
    assert timings["gpu"].calls > 30_000


def test_a_warm_up_that_was_slow_does_not_keep_the_turns_short() -> None:
    turns: list[int] = []

    def turn(repeats: int) -> list[float]:
        turns.append(repeats)
        return [0.001] * repeats

    interleaved({"a": Subject(turn=turn, estimate=5.0)}, seconds=1e-9)
    assert turns == [1, 20, 20]


def test_rounds_end_when_time_is_over() -> None:
    shares: list[float] = []
    timings = interleaved(
        {"a": subject_from_call(lambda: None)}, seconds=1e-9, on_round=shares.append
    )
    assert len(timings["a"].rounds) == 3
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)


def test_nothing_to_time_gives_nothing() -> None:
    assert interleaved({}, seconds=0.01) == {}


def test_a_call_is_warmed_up_before_it_counts() -> None:
    calls: list[int] = []
    made = subject_from_call(lambda: calls.append(1))
    assert len(calls) == 2
    assert len(made.turn(1)) == 1
    assert len(calls) == 3
    assert len(made.turn(4)) == 4
    assert len(calls) == 8, "of several, one goes before that does not count"


def test_a_ratio_is_taken_within_rounds_so_that_noise_cancels() -> None:
    quiet_then_busy = Timing(rounds=((1.0,), (10.0,), (1.0,)))
    twice_as_fast = Timing(rounds=((0.5,), (5.0,), (0.5,)))
    assert twice_as_fast.speed_over(quiet_then_busy) == pytest.approx(2.0)


def test_quantiles_are_over_all_calls() -> None:
    timing = Timing(rounds=((4.0, 1.0), (3.0, 2.0, 5.0)))
    assert (timing.calls, timing.median) == (5, 3.0)
    assert timing.quantile(0.25) == 2.0
    assert timing.quantile(1.0) == 5.0


def test_an_engine_on_a_device_is_timed_with_two_batches_in_flight(
    classify_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(timing, "time", clock)
    fake = FakeEngine(open_bundle(classify_bundle).graph())
    under_way: list[int] = []

    class Device:
        """Copies for 1 s, while it computes another batch for 2 s."""

        batches_in_flight = 2

        def start(self, feeds: Any) -> Callable[[], Arrays]:
            under_way.append(1)
            return self.finish

        def finish(self) -> Arrays:
            clock.now += 2.0 if len(under_way) == 2 else 3.0
            under_way.pop()
            return {}

    made = subject_from_engine(cast("Engine", Device()), {})
    assert made.turn(3) == [2.0, 2.0, 2.0]
    assert made.estimate == 2.0
    assert under_way == []
    feeds = {"image": np.zeros((2, 8, 8, 3), np.uint8)}
    assert len(subject_from_engine(fake, feeds).turn(3)) == 3
    assert len(fake.calls) == 2 + 1 + 3, "one batch at a time: call by call"
