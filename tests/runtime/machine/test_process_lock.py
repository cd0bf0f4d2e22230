"""Of two who want a lock, one gets it, and a process that dies gives it back."""

import subprocess
import sys
from pathlib import Path

from dlcv.runtime.machine.process_lock import try_to_lock

HOLD_IT = """
import sys
from dlcv.runtime.machine.process_lock import try_to_lock
file = open(sys.argv[1], "ab")
print(try_to_lock(file), flush=True)
sys.stdin.read()
"""


def test_a_lock_is_held_by_one_and_dies_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD_IT, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    with path.open("ab") as file:
        assert not try_to_lock(file)
        other.kill()
        other.communicate()
        assert try_to_lock(file)


def test_closing_the_file_unlocks_it(tmp_path: Path) -> None:
    for _ in range(2):
        with (tmp_path / "lock").open("ab") as file, (tmp_path / "lock").open("ab") as second:
            assert try_to_lock(file)
            assert not try_to_lock(second)
