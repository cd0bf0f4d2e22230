"""The cache gives back what was stored for exactly these fields, or says why not; processes do not disturb each other."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dlcv.runtime.errors import OutputError
from dlcv.runtime.machine.cache import CacheKey, cache_folder, locked, lookup, store

SUBJECT = "ab" * 32

# Takes the lock, looks, "builds" slowly if nothing is there, and says what it did.
RACER = """
import sys, time
from dlcv.runtime.machine.cache import CacheKey, locked, lookup, store
key = CacheKey(kind="engines", subject=sys.argv[1], fields={"device": "toy"})
print("up", flush=True)
sys.stdin.readline()
with locked(key):
    found = lookup(key).data
    if found is None:
        time.sleep(0.3)
        store(key, sys.argv[2].encode() * 100_000)
    print("built" if found is None else "found " + found[:1].decode(), flush=True)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DLCV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def key(subject: str = SUBJECT, **fields: str) -> CacheKey:
    return CacheKey(kind="engines", subject=subject, fields={"device": "toy"} | fields)


@pytest.mark.parametrize("data", [b"", b"plan", b"\n\n{}\n", bytes(range(256)) * 1000])
def test_what_was_stored_comes_back_whole(data: bytes) -> None:
    store(key(), b"older")
    store(key(), data)
    found = lookup(key())
    assert (found.data, found.reason, found.damaged) == (data, "", False)


def test_an_empty_cache_has_nothing_and_is_not_made_by_looking(folder: Path) -> None:
    found = lookup(key())
    assert (found.data, found.reason, found.damaged) == (None, "none is cached", False)
    assert not folder.exists()


def test_the_reason_names_the_fields_in_which_the_nearest_entry_differs() -> None:
    store(key(version="1", device="a", profile="1,8"), b"far")
    store(key(version="1", profile="1,4"), b"near")
    found = lookup(key(version="2", profile="1,4"))
    assert found.data is None
    assert found.reason == "the cached one has version 1, not 2"
    assert "flags unset, not x" in lookup(key(version="1", profile="1,4", flags="x")).reason


def test_entries_of_another_subject_are_no_neighbours() -> None:
    store(key("cd" * 32), b"other graph")
    assert lookup(key()).reason == "none is cached"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda raw: b"", "is not a cache entry"),
        (lambda raw: b"junk", "is not a cache entry"),
        (lambda raw: b"[1]\nplan", "is not a cache entry"),
        (lambda raw: b"{" + b" " * 70_000 + b"}\nplan", "is not a cache entry"),
        (lambda raw: raw[:-1], "is damaged (its SHA-256 is another)"),
        (lambda raw: raw[:-1] + b"X", "is damaged (its SHA-256 is another)"),
        (lambda raw: raw.replace(b"toy", b"h100"), "was made for something else"),
        (lambda raw: raw.replace(b"abab", b"cdcd", 1), "was made for something else"),
    ],
)
def test_a_damaged_or_foreign_file_is_deleted_and_said_to_be(
    damage: Callable[[bytes], bytes], reason: str
) -> None:
    store(key(), b"the plan")
    path = key().path
    path.write_bytes(damage(path.read_bytes()))
    found = lookup(key())
    assert found.data is None
    assert found.damaged
    assert found.reason == f"the cached file {path} {reason}, and was deleted"
    assert not path.exists()
    store(key(), b"new")
    assert lookup(key()).data == b"new"


def test_an_entry_is_one_line_of_json_and_the_bytes() -> None:
    store(key(version="1"), b"plan\nof lines")
    header, _, data = key(version="1").path.read_bytes().partition(b"\n")
    assert json.loads(header)["fields"] == {"device": "toy", "version": "1"}
    assert data == b"plan\nof lines"


def test_a_cache_that_cannot_be_written_is_an_output_error_with_the_fix(folder: Path) -> None:
    folder.touch()
    with pytest.raises(
        OutputError, match=r"cannot write to the cache .* set DLCV_CACHE to another"
    ):
        store(key(), b"plan")
    with locked(key()):  # and no reason not to run
        assert lookup(key()).data is None


def test_nothing_temporary_stays_behind(folder: Path) -> None:
    store(key(), b"plan")
    assert [path.suffix for path in folder.rglob("*") if path.is_file()] == [".bin"]


def test_of_two_processes_one_builds_and_the_other_finds() -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, SUBJECT, letter],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for letter in "AB"
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "up\n"
    said = sorted(racer.communicate("go\n")[0].strip() for racer in racers)
    built = lookup(key()).data
    assert built is not None
    assert len(built) == 100_000
    assert said == ["built", f"found {chr(built[0])}"]


def test_a_lock_dies_with_its_process() -> None:
    program = (
        "import os; from dlcv.runtime.machine.cache import CacheKey, locked\n"
        f"with locked(CacheKey(kind='engines', subject='{SUBJECT}', fields={{'device': 'toy'}})): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 9
    with locked(key()):
        store(key(), b"mine")


def test_the_folder_is_named_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLCV_CACHE", "here")
    assert cache_folder() == tmp_path / "here"
    if sys.platform == "linux":
        monkeypatch.delenv("DLCV_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
        assert cache_folder() == Path("/elsewhere/dlcv")


def test_two_keys_that_differ_anywhere_have_different_files() -> None:
    keys = [key(), key(a="1"), key(a="2"), key(b="1"), key("cd" * 32)]
    keys.append(CacheKey(kind="timing", subject=SUBJECT, fields={"device": "toy"}))
    assert len({str(k.path) for k in keys}) == len(keys)
    assert all(os.fspath(cache_folder()) in str(k.path) for k in keys)
