"""One job from inputs to written results: what every task command of `dlcv-infer` runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from dlcv.runtime.errors import ImageError
from dlcv.runtime.images.sources import NamedImage
from dlcv.runtime.results import Record, Refused, Result
from dlcv.runtime.running.pipeline import ordered_map

if TYPE_CHECKING:
    from dlcv.runtime.images import Source
    from dlcv.runtime.results.writers import Writer

_LISTED_REFUSALS = 1000  # how many reasons a summary keeps; all of them are in errors.jsonl


@dataclass(kw_only=True)
class Summary:
    """What a job did: images answered, refused (with the first reasons), and passed over as done.

    noted: how many answered images had a note. note: of the first of them, with its name. ended_early: whether a refusal ended
    the job.
    """

    answered: int = 0
    refused: int = 0
    skipped: int = 0
    refusals: list[Refused] = field(default_factory=list)
    noted: int = 0
    note: str = ""
    ended_early: bool = False


class Answering(Protocol):
    """What answers images: a `Predictor`, or a `PrototypeClassifier`, which share no base.

    workers: threads for decoding and for writing. batch_size: images in one engine call at most.
    """

    @property
    def workers(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    def stream(self, sources: Iterable[Source | Refused]) -> Iterator[Result | Refused]:
        """Yield an answer for every source, in order."""
        ...

    def description(self) -> dict[str, Any]:
        """Return what runs, for `run.json`."""
        ...


def run_job(
    predictor: Answering,
    inputs: Iterable[NamedImage | Refused],
    writer: Writer,
    *,
    fail_fast: bool = False,
    on_progress: Callable[[], object] = lambda: None,
) -> Summary:
    """Decode, infer and write every input, in order, with bounded memory.

    fail_fast: end at the first image that is refused; what was written stays. on_progress: called once for each input.

    Raises:
        OutputError: results cannot be written; what was written before stays whole.
    """
    summary = Summary()
    names: dict[int, str] = {}  # of the images under way, by position
    pending = _not_done(
        inputs, Counter(writer.done), names=names, summary=summary, on_progress=on_progress
    )
    try:
        with ThreadPoolExecutor(predictor.workers, thread_name_prefix="dlcv-write") as pool:
            answers = enumerate(predictor.stream(pending))
            limit = 2 * predictor.batch_size + predictor.workers

            def prepare(answer: tuple[int, Result | Refused]) -> tuple[Result | Refused, Record]:
                position, result = answer
                return _prepared(writer, result, names.pop(position))

            prepared = (
                ordered_map(prepare, answers, pool=pool, limit=limit)
                if writer.makes_files
                else map(
                    prepare, answers
                )  # a line alone is made faster than it is given to a thread
            )
            for result, record in prepared:
                writer.commit(result, record)
                _count(result, summary)
                on_progress()
                if fail_fast and isinstance(result, Refused):
                    summary.ended_early = True
                    break
        writer.finish()
    finally:
        writer.close()
    return summary


def _prepared(
    writer: Writer, result: Result | Refused, name: str
) -> tuple[Result | Refused, Record]:
    try:
        return result, writer.prepare(result, name)
    except ImageError as e:  # it could be read for the graph, but not again for an overlay
        refused = Refused(source=result.source, reason=str(e))
        return refused, writer.prepare(refused, name)


def _not_done(
    inputs: Iterable[NamedImage | Refused],
    done: Counter[str],
    *,
    names: dict[int, str],
    summary: Summary,
    on_progress: Callable[[], object],
) -> Iterator[str | Refused]:
    """Yield what is to be run, pass over what is done, and note each one's name by its position."""
    position = 0
    for item in inputs:
        source = item.path if isinstance(item, NamedImage) else item.name
        if done[source] > 0:
            done[source] -= 1
            summary.skipped += 1
            on_progress()
            continue
        names[position] = item.name
        position += 1
        yield source if isinstance(item, NamedImage) else item


def _count(result: Result | Refused, summary: Summary) -> None:
    if not isinstance(result, Refused):
        summary.answered += 1
        if result.note is not None:
            summary.noted += 1
            summary.note = summary.note or f"{result.name}: {result.note}"
        return
    summary.refused += 1
    if len(summary.refusals) < _LISTED_REFUSALS:
        summary.refusals.append(result)
