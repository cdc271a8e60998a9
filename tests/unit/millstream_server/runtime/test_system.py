"""The real ports keep the contracts that ``ports.py`` states."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from millstream_server.runtime.system import SystemClock, SystemFiles, ThreadExecutor


@pytest.fixture
def files() -> SystemFiles:
    return SystemFiles()


def test_written_buffers_are_read_back(files: SystemFiles, tmp_path: Path) -> None:
    file = files.open(str(tmp_path / "a"), create=True)
    file.write(0, [b"one", memoryview(b"two"), b"", b"three"])
    file.write(3, [b"TWO"])
    assert file.read(0, 100) == b"oneTWOthree"
    assert file.size() == 11
    file.close()
    file.close()


def test_more_buffers_than_one_system_call_takes(files: SystemFiles, tmp_path: Path) -> None:
    file = files.open(str(tmp_path / "a"), create=True)
    buffers = [bytes([index % 256]) for index in range(5000)]
    file.write(0, buffers)
    assert file.read(0, 6000) == b"".join(buffers)
    file.close()


def test_allocation_keeps_the_size(files: SystemFiles, tmp_path: Path) -> None:
    file = files.open(str(tmp_path / "a"), create=True)
    file.write(0, [b"x"])
    file.allocate(0, 1 << 20)
    file.sync()
    file.drop_cache()
    assert file.size() == 1
    assert file.read(0, 10) == b"x"
    file.truncate(0)
    assert file.size() == 0
    file.close()


def test_a_missing_file_is_not_made_unless_asked(files: SystemFiles, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.open(str(tmp_path / "a"))


def test_names_renames_and_removals(files: SystemFiles, tmp_path: Path) -> None:
    folder = str(tmp_path / "deep" / "er")
    files.make_directory(folder)
    files.open(f"{folder}/b", create=True).close()
    files.open(f"{folder}/a", create=True).close()
    assert files.list_directory(folder) == ["a", "b"]
    files.rename(f"{folder}/a", f"{folder}/b")
    files.sync_directory(folder)
    assert files.list_directory(folder) == ["b"]
    files.remove(f"{folder}/b")
    files.remove_tree(str(tmp_path / "deep"))
    assert not files.exists(folder)
    total, free = files.disk_usage(str(tmp_path))
    assert 0 < free <= total


def test_a_directory_has_one_holder(files: SystemFiles, tmp_path: Path) -> None:
    held = files.lock_directory(str(tmp_path))
    with pytest.raises(BlockingIOError):
        files.lock_directory(str(tmp_path))
    held.release()
    files.lock_directory(str(tmp_path)).release()


def test_monotonic_time_does_not_go_back() -> None:
    clock = SystemClock()
    times = [clock.monotonic_ms() for _ in range(100)]
    assert times == sorted(times)


async def test_jobs_run_in_order_and_report_on_the_loop() -> None:
    loop = asyncio.get_running_loop()
    executor = ThreadExecutor("test", loop)
    seen: list[tuple[object, object]] = []
    finished = asyncio.Event()

    def fail() -> int:
        raise OSError("disk")

    def done(result: object, error: BaseException | None) -> None:
        assert asyncio.get_running_loop() is loop
        seen.append((result, type(error) if error else None))
        if len(seen) == 3:
            finished.set()

    executor.submit(lambda: 1, done)
    executor.submit(fail, done)
    executor.submit(lambda: 3, done)
    assert executor.pending() == 3
    await finished.wait()
    assert seen == [(1, None), (None, OSError), (3, None)]
    assert executor.pending() == 0
    executor.close()


async def test_what_a_job_posts_comes_to_the_loop_while_the_job_still_runs() -> None:
    loop = asyncio.get_running_loop()
    executor = ThreadExecutor("test", loop)
    posted, finished = asyncio.Event(), asyncio.Event()
    go_on = threading.Event()

    def job() -> bool:
        executor.post(posted.set)
        return go_on.wait(10)

    def done(result: bool | None, _: BaseException | None) -> None:
        assert result
        finished.set()

    executor.submit(job, done)
    await posted.wait()
    assert not finished.is_set()
    go_on.set()
    await finished.wait()
    executor.close()


def test_time_in_which_the_machine_was_suspended_counts() -> None:
    """In a namespace whose time since boot is a day ahead of its monotonic clock, as it is on a
    machine that was suspended for a day."""
    program = (
        "import time; from millstream_server.runtime.system import SystemClock;"
        "print(SystemClock().monotonic_ms() - time.monotonic_ns() // 1_000_000)"
    )
    suspended = [
        "unshare",
        "--time",
        "--boottime",
        "86400",
        "--fork",
        sys.executable,
        "-c",
        program,
    ]
    ran = subprocess.run(suspended, capture_output=True, text=True, check=False)
    if ran.returncode and "unshare" in ran.stderr:
        pytest.skip(f"no time namespaces here: {ran.stderr.strip()}")
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) >= 86_400_000
