"""Proves that each engine that is available here works: it loads a bundle, gives PyTorch's golden answers, and is timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import msgspec

from dlcv.runtime.bundle import Bundle
from dlcv.runtime.bundle.schema import Precision
from dlcv.runtime.engines import engine_entry, engine_names, load_engine, why_unavailable
from dlcv.runtime.engines.base import Engine, EngineOptions
from dlcv.runtime.errors import DlcvError
from dlcv.runtime.measure.parity import replay_golden
from dlcv.runtime.measure.timing import Subject, interleaved, subject_from_engine
from dlcv.runtime.measure.workload import feeds_of

_SECONDS = 3.0  # of timing, for each that works
_CPU_BATCH, _GPU_BATCH = 8, 64


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one engine in one precision.

    precision: of the bundle's graph; "" where the engine is not available. ran: engine, version, device and the realised
    precision. failure: a sentence; "" where it works. images_per_second: in batches of `batch`, in turns with the others.
    """

    engine: str
    precision: str
    is_available: bool
    ran: str = ""
    failure: str = ""
    batch: int = 0
    images_per_second: float = 0.0

    @property
    def works(self) -> bool:
        """Whether it gave the golden answers."""
        return self.is_available and not self.failure


def prove(
    bundle: Bundle,
    *,
    engines: Sequence[str] = (),
    tell: Callable[[str], object] = lambda _: None,
) -> list[Proof]:
    """Load, check and time a bundle on each engine, in each precision that it takes.

    engines: names; none: all that dlcv and other packages have. tell: called with what is done now. An engine that fails does
    not end the others.
    """
    found: list[Proof] = []
    subjects: dict[int, Subject] = {}
    with ExitStack() as stack:
        for name in engines or engine_names():
            if reason := why_unavailable(name):
                found.append(Proof(engine=name, precision="", is_available=False, failure=reason))
                continue
            for precision in _precisions(bundle, name):
                tell(f"proving {name} in {precision}")
                proof, subject = _proved(bundle, name, precision, stack)
                if subject is not None:
                    subjects[len(found)] = subject
                found.append(proof)
        if subjects:
            tell(f"timing {len(subjects)}")
            for number, rate in _rates(subjects, found).items():
                found[number] = msgspec.structs.replace(found[number], images_per_second=rate)
    return found


def _rates(subjects: Mapping[int, Subject], proofs: Sequence[Proof]) -> dict[int, float]:
    """Return images a second, by number; nothing where one fails: what was proved counts all the same."""
    try:
        timings = interleaved(subjects, seconds=_SECONDS * len(subjects))
    except Exception:  # noqa: BLE001  # whatever a driver or a library raises
        return {}
    return {number: proofs[number].batch / timing.median for number, timing in timings.items()}


def _precisions(bundle: Bundle, engine: str) -> list[Precision]:
    """Return the precisions of a bundle that an engine takes: those with a graph that is made for it."""
    target = engine_entry(engine).target
    taken: list[Precision] = []
    for precision in bundle.graph().precisions:
        try:
            bundle.variant_name(precision, target=target)
        except DlcvError:
            continue
        if (engine, precision) not in (("ort", "bf16"), ("cuda", "int8")):  # no such kernels
            taken.append(precision)
    return taken


def _proved(
    bundle: Bundle, engine: str, precision: Precision, stack: ExitStack
) -> tuple[Proof, Subject | None]:
    """Check one engine; return what to time, if it works. It stays open until the stack is closed."""
    batch = _GPU_BATCH if engine_entry(engine).needs_gpu else _CPU_BATCH
    proof = Proof(engine=engine, precision=precision, is_available=True, batch=batch)
    replace = msgspec.structs.replace
    try:
        loaded: Engine = stack.enter_context(
            load_engine(
                bundle, engine, precision=precision, options=EngineOptions(batch_size=batch)
            )
        )
        proof = replace(proof, ran=str(loaded.info))
        if failures := replay_golden(bundle, loaded).failures:
            return replace(proof, failure="; ".join(failures)), None
        preprocessing = bundle.manifest.preprocessing
        feeds = feeds_of(batch, preprocessing.size, channels=preprocessing.channels)
        return proof, subject_from_engine(loaded, feeds)
    except DlcvError as e:
        return replace(proof, failure=str(e)), None
    except Exception as e:  # noqa: BLE001  # whatever a driver or a library raises: the others must be proved
        words = " ".join(str(e).split())
        return replace(proof, failure=f"{type(e).__name__}: {words}"), None


def proof_lines(proofs: Sequence[Proof]) -> list[tuple[str, ...]]:
    """Return the rows of a table: head, then an engine and a precision each."""
    head = ("engine", "precision", "works", "images/s", "ran, or why not")
    return [head, *(_line(proof) for proof in proofs)]


def _line(proof: Proof) -> tuple[str, ...]:
    state = "yes" if proof.works else "no" if proof.is_available else "-"
    rate = f"{proof.images_per_second:.0f}" if proof.images_per_second else ""
    return (proof.engine, proof.precision, state, rate, proof.failure or proof.ran)
