"""Group commit: everything that waits is written and synced as one job of the directory's thread.

As measured, one thread per directory that writes and syncs in one job beats a
sync alone in an executor and beats several threads.

At most one job runs; what arrives meanwhile is the next one. A job is a list of rounds: a round of
appends is written log by log, then every touched log in fsync mode is synced; other work (the start
of an epoch, retention, a flush) stands between rounds, so that it sees everything submitted before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from millstream_server.runtime.ports import Executor, T
from millstream_server.storage.appends import AppendDone, StagedAppend
from millstream_server.storage.config import FlushMode
from millstream_server.storage.directory import LogDirectory
from millstream_server.storage.errors import (
    MalformedAppendError,
    StorageError,
    WriterOverloadedError,
)
from millstream_server.storage.log import Log

WorkDone = Callable[[object, StorageError | None], None]


@dataclass(slots=True)
class _Append:
    staged: StagedAppend
    done: AppendDone


@dataclass(slots=True)
class _Work:
    log: Log
    action: Callable[[], object]
    done: WorkDone
    result: object = None
    error: StorageError | None = None


@dataclass(slots=True)
class _LogRound:
    """The appends of one log in one round, and what became of them."""

    log: Log
    appends: list[_Append] = field(default_factory=list)
    # Those that no truncation has made void; of them, how many were written.
    current: list[_Append] = field(default_factory=list)
    written: int = 0
    # Why the rest was not written; or, after a failed sync, why none of them counts.
    error: StorageError | None = None


_Step = dict[int, _LogRound] | _Work


class DirectoryWriter:
    """The one way to the disk of a log directory. All methods belong to the event loop."""

    def __init__(
        self,
        directory: LogDirectory,
        executor: Executor,
        *,
        timer: Callable[[], float] = time.perf_counter,
        observe_flush: Callable[[float], None] | None = None,
    ) -> None:
        """``executor`` must have one thread and serve nothing else. ``observe_flush`` is told the
        seconds that each round of syncs took, on the event loop."""
        self._directory = directory
        self._config = directory.config
        self._executor = executor
        self._timer = timer
        self._observe_flush = observe_flush
        self._waiting: list[_Append | _Work] = []
        self._running = False
        self._waiting_bytes = 0
        self._idle_callbacks: list[Callable[[], None]] = []
        # When the recovery point of a log was last seen behind its end, monotonic.
        self._behind_since_ms: dict[Log, int] = {}
        self._flush_seconds: list[float] = []
        # Who wants to hear of writes before they are synced.
        self._listeners: dict[Log, Callable[[int], None]] = {}
        # Jobs given to ``run`` that are not done, by log.
        self._jobs: dict[Log, int] = {}

    @property
    def waiting_bytes(self) -> int:
        """Bytes staged and not yet completed."""
        return self._waiting_bytes

    def admit(self, size_bytes: int) -> None:
        """Ask before staging. Raises WriterOverloadedError when too much waits for the disk, and
        DirectoryOfflineError."""
        self._directory.health.check()
        waiting = self._waiting_bytes
        if waiting and waiting + size_bytes > self._config.waiting_bytes_max:
            raise WriterOverloadedError(f"{waiting} bytes wait for the disk already")

    def submit(self, log: Log, staged: StagedAppend, done: AppendDone) -> None:
        """Write (and in fsync mode sync) an append together with everything else that waits, then
        call ``done(synced_end_offset, error)``, never from within this call."""
        if staged.log is not log:
            raise ValueError("the append was staged by another log")
        self._waiting_bytes += staged.size_bytes
        self._waiting.append(_Append(staged, done))
        self._start()

    def write_now(self, log: Log, staged: StagedAppend) -> None:
        """``log.write_now``, allowed while ``log.can_write_now``. Raises as that does."""
        log.write_now(staged)

    def run(
        self,
        log: Log,
        job: Callable[[], T],
        done: Callable[[T | None, StorageError | None], None],
    ) -> None:
        """Run a job that touches the log's files (retain, delete_before, flush, truncate_to) after
        everything submitted so far. ``done`` is never called from within this call."""
        self._waiting.append(_Work(log, job, done))  # type: ignore[arg-type]
        self._jobs[log] = self._jobs.get(log, 0) + 1
        self._start()

    def has_jobs(self, log: Log) -> bool:
        """True until everything that ``run`` was given for a log is done: its end may be about to
        change, also to a lower one."""
        return log in self._jobs

    def begin_epoch(
        self,
        log: Log,
        epoch: int,
        done: Callable[[int | None, StorageError | None], None],
        *,
        at_offset: int | None = None,
    ) -> None:
        """``log.begin_epoch`` after everything submitted so far; nothing can be staged until it is
        done. Gives the offset that the epoch begins at. With ``at_offset`` it must be this one,
        else MalformedAppendError: what was to stand before it was not written."""
        log.epoch_pending = True

        def begin() -> int:
            end = log.written_end_offset
            if at_offset is not None and end != at_offset:
                raise MalformedAppendError(
                    f"epoch {epoch} begins at {at_offset}, but the log ends at {end}"
                )
            return log.begin_epoch(epoch)

        def begun(start_offset: int | None, error: StorageError | None) -> None:
            log.epoch_pending = False
            done(start_offset, error)

        self.run(log, begin, begun)

    def maintain(self, now_ms: int) -> None:
        """To be called about once a second with monotonic time: starts background syncs of
        page-cache logs and moves recovery points up."""
        if self._directory.health.failure is not None:
            return
        behind: dict[Log, int] = {}
        for log in list(self._directory.logs.values()):
            if log.failure is not None or log.written_end_offset == log.recovery_point:
                continue
            since = self._behind_since_ms.get(log, now_ms)
            if now_ms - since < self._patience_ms(log):
                behind[log] = since
            else:
                self.run(log, log.flush, _ignore)
        self._behind_since_ms = behind

    def _patience_ms(self, log: Log) -> int:
        if log.config.flush_mode is FlushMode.FSYNC:
            return self._config.recovery_point_interval_ms
        if log.unflushed_bytes >= self._config.recovery_point_bytes:
            return 0
        return self._config.background_flush_interval_ms

    def listen(self, log: Log, listener: Callable[[int], None] | None) -> None:
        """Tell ``listener`` the written end of a log after a write and before the sync that
        follows, on the event loop; None: nobody any more. Writes of ``write_now`` are not told."""
        if listener is None:
            self._listeners.pop(log, None)
        else:
            self._listeners[log] = listener

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Call back once nothing waits or runs; at once if that is so now."""
        if self._running or self._waiting:
            self._idle_callbacks.append(callback)
        else:
            callback()

    # -- jobs ------------------------------------------------------------------------------------
    def _start(self) -> None:
        if self._running or not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        steps: list[_Step] = []
        for item in waiting:
            if isinstance(item, _Work):
                steps.append(item)
                continue
            log = item.staged.log
            if not steps or isinstance(steps[-1], _Work):
                steps.append({})
            rounds = steps[-1]
            assert isinstance(rounds, dict)
            rounds.setdefault(id(log), _LogRound(log)).appends.append(item)
        self._running = True
        self._directory.health.begin_operation()
        self._executor.submit(
            lambda: self._execute(steps), lambda _, error: self._finish(steps, error)
        )

    def _execute(self, steps: list[_Step]) -> None:
        """The job, on the directory's thread. Errors of storage are kept in the steps."""
        # A log that failed an append writes no more in this job: what is staged behind it has
        # offsets that do not follow on, until the loop took it all back (invariant 20).
        failed: dict[Log, StorageError] = {}
        for step in steps:
            if isinstance(step, _Work):
                self._directory.health.begin_operation()
                try:
                    step.log.check()
                    step.result = step.action()
                except StorageError as error:
                    step.error = error
            else:
                self._execute_round(list(step.values()), failed)
        self._directory.health.begin_operation()
        try:
            self._directory.save_points()
        except StorageError:
            pass  # the appends are safe without it; the directory is offline for what follows

    def _execute_round(self, rounds: list[_LogRound], failed: dict[Log, StorageError]) -> None:
        for part in rounds:
            log = part.log
            part.error = failed.get(log)
            if part.error is not None:
                continue
            generation = log.generation
            part.current = [one for one in part.appends if one.staged.generation == generation]
            self._directory.health.begin_operation()
            try:
                part.written, part.error = log.write([one.staged for one in part.current])
            except StorageError as error:
                part.error = error
        self._tell_written(rounds)
        began = self._timer()
        synced = False
        for part in rounds:
            if part.written and part.log.config.flush_mode is FlushMode.FSYNC:
                self._directory.health.begin_operation()
                try:
                    part.log.sync()
                    synced = True
                except StorageError as error:
                    part.written, part.error = 0, error
        failed.update((part.log, part.error) for part in rounds if part.error is not None)
        if synced:
            self._flush_seconds.append(self._timer() - began)

    def _tell_written(self, rounds: list[_LogRound]) -> None:
        """Let the loop know what stands in the files before it is synced: a leader pushes it to
        its followers meanwhile (invariant 13)."""
        news = [
            (part.log, part.log.generation, part.log.written_end_offset)
            for part in rounds
            if part.written and part.log in self._listeners
        ]
        if news:
            self._executor.post(lambda: self._call_listeners(news))

    def _call_listeners(self, news: list[tuple[Log, int, int]]) -> None:
        for log, generation, written_end in news:
            listener = self._listeners.get(log)
            if listener is not None and log.generation == generation:  # else it was cut since
                listener(written_end)

    def _finish(self, steps: list[_Step], error: BaseException | None) -> None:
        """Back on the loop: settle the logs, tell everybody, start the next job."""
        self._running = False
        self._directory.health.end_operations()
        if error is not None:  # a defect of ours: nobody may be told that all went well
            _fail_all(steps, self._directory.health.fail("writing", error))
        calls: list[Callable[[], None]] = []
        for step in steps:
            if isinstance(step, _Work):
                self._job_done(step.log)
                calls.append(_call_work(step))
            else:
                for part in step.values():
                    calls.extend(self._settle(part))
        self._report_flushes()
        self._start()
        for call in calls:
            call()
        if not self._running and not self._waiting:
            callbacks, self._idle_callbacks = self._idle_callbacks, []
            for callback in callbacks:
                callback()

    def _job_done(self, log: Log) -> None:
        left = self._jobs[log] - 1
        if left:
            self._jobs[log] = left
        else:
            del self._jobs[log]

    def _settle(self, part: _LogRound) -> list[Callable[[], None]]:
        log, error = part.log, part.error
        done = part.current[: part.written]
        if part.current:
            log.settle(len(done), error)
        reason = error or StorageError("the log was truncated before the append was written")
        fine = {id(append) for append in done}
        calls = [
            self._call_append(append, None if id(append) in fine else reason)
            for append in part.appends
        ]
        if error is not None:
            calls += [self._call_append(append, error) for append in self._withdraw(log)]
        return calls

    def _withdraw(self, log: Log) -> list[_Append]:
        """Take the appends of a log that were staged behind a failed one out of the queue."""
        gone = [
            item for item in self._waiting if isinstance(item, _Append) and item.staged.log is log
        ]
        taken = {id(item) for item in gone}
        self._waiting = [item for item in self._waiting if id(item) not in taken]
        return gone

    def _call_append(self, append: _Append, error: StorageError | None) -> Callable[[], None]:
        staged = append.staged
        self._waiting_bytes -= staged.size_bytes
        synced_end = staged.log.synced_end_offset
        return lambda: append.done(synced_end, error)

    def _report_flushes(self) -> None:
        seconds, self._flush_seconds = self._flush_seconds, []
        if self._observe_flush is not None:
            for one in seconds:
                self._observe_flush(one)


def _fail_all(steps: list[_Step], failure: StorageError) -> None:
    for step in steps:
        if isinstance(step, _Work):
            step.result, step.error = None, failure
        else:
            for part in step.values():
                part.written, part.error, part.current = 0, failure, part.appends


def _call_work(work: _Work) -> Callable[[], None]:
    return lambda: work.done(work.result, work.error)


def _ignore(_: object, error: StorageError | None) -> None:
    """A flush that failed has taken its log or directory offline; that is where it is seen."""
