"""Times and sizes of the metadata quorum."""

from dataclasses import dataclass

from millstream_raft.consensus import ENTRY_BYTES_MAX


@dataclass(frozen=True, slots=True)
class RaftConfig:
    """All times in milliseconds, all sizes in bytes. The same on every voter."""

    #: How often a leader shows that it lives. Each costs every voter a message and its answer, so
    #: this sets the cost of an idle quorum; at most a third of the smallest election time-out, or
    #: one late message starts an election.
    heartbeat_interval_ms: int = 80
    #: A voter that hears no leader for a random time between these two stands for election. Long
    #: enough for a busy process that holds the interpreter lock, short enough for fail-over in
    #: under a second.
    election_timeout_min_ms: int = 300
    election_timeout_max_ms: int = 600
    #: A leader that has no answer from a majority for this long steps down, so that a cut-off
    #: leader does not keep callers waiting.
    leader_fallback_ms: int = 1_000
    #: Snapshot and trim the journal after this many entries or bytes; bounds memory (the whole
    #: journal is held in it) and the time to start.
    snapshot_entries: int = 5_000
    snapshot_journal_bytes: int = 64 << 20
    #: Largest snapshot accepted from a leader; bounds what a receiver and a sender hold.
    snapshot_bytes_max: int = 512 << 20
    #: Part of a snapshot in one message.
    snapshot_part_bytes: int = 256 << 10
    #: Entries in one message to a follower, which closes when it passes this size. With one entry
    #: more it must stay below gRPC's default limit of 4 MiB, and a single entry must stay below
    #: it, or the library would send that entry as a pickle.
    append_bytes_max: int = 3 << 19
    #: Proposals that share a log entry.
    batch_bytes_max: int = ENTRY_BYTES_MAX
    batch_entries_max: int = 1_000
    #: Proposals that may wait; beyond, ``propose`` refuses at once (invariant 40).
    waiting_entries_max: int = 10_000
    waiting_bytes_max: int = 64 << 20
    #: Messages that may wait for one voter's connection; beyond, new ones are dropped, which Raft
    #: repairs. Parts of a snapshot are bounded by ``snapshot_bytes_max`` instead.
    queue_messages_max: int = 10_000
    queue_bytes_max: int = 32 << 20
    #: Pause before a broken connection to a voter is opened again.
    reconnect_pause_ms: int = 100

    def validate(self) -> None:
        """Raise ValueError when the values do not fit together."""
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")
        if self.heartbeat_interval_ms * 3 >= self.election_timeout_min_ms:
            raise ValueError("heartbeat_interval_ms must be below election_timeout_min_ms / 3")
        if self.election_timeout_min_ms >= self.election_timeout_max_ms:
            raise ValueError("election_timeout_max_ms must be above election_timeout_min_ms")
        if self.leader_fallback_ms <= self.heartbeat_interval_ms:
            raise ValueError("leader_fallback_ms must be above heartbeat_interval_ms")
        if self.batch_bytes_max < ENTRY_BYTES_MAX:
            raise ValueError(f"batch_bytes_max must be at least {ENTRY_BYTES_MAX}")
        if self.append_bytes_max < self.batch_bytes_max * 5 // 4:
            raise ValueError("append_bytes_max must be above batch_bytes_max by a quarter")
        if self.append_bytes_max + self.batch_bytes_max * 5 // 4 > 4_000_000:
            raise ValueError("append_bytes_max and batch_bytes_max together pass gRPC's limit")
        if self.snapshot_entries < 2:
            raise ValueError("snapshot_entries must be at least 2")
