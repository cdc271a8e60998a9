"""Why a metadata folder is refused.

RaftDirectoryError
├── NotFormatted      empty, or never finished ``format``
├── AlreadyFormatted  ``format`` on a folder that is in use
├── PeerHasLog        ``format`` while another voter already has a log
├── ForeignDirectory  made for another cluster, node or set of voters
├── NewerFormat       written by a later version of the software
└── DirectoryDamaged  a file does not hold what was durably written to it
"""

#: What to do about a voter's disk that is lost or damaged.
REPLACE_DISK = (
    "run 'millstream format --replace-lost-disk' on an empty folder while all other metadata nodes "
    "are up (deploy/OPERATIONS.md)"
)


class RaftDirectoryError(Exception):
    """The folder must not be used; the message says what to do."""


class NotFormatted(RaftDirectoryError):
    """The folder is empty. It could be a lost disk, whose node would then vote for leaders that
    lack what it had acknowledged (invariant 37)."""


class AlreadyFormatted(RaftDirectoryError):
    """The folder belongs to a node already."""


class PeerHasLog(RaftDirectoryError):
    """Another voter of this cluster has a log already, so this folder is not a new cluster's but
    a lost disk (invariant 37)."""


class ForeignDirectory(RaftDirectoryError):
    """The folder belongs to another cluster, another node or another set of voters."""


class NewerFormat(RaftDirectoryError):
    """The folder was written by a later version."""


class DirectoryDamaged(RaftDirectoryError):
    """Something that was durably written is gone or changed."""

    def __str__(self) -> str:
        return (
            f"{super().__str__()}. Acknowledged entries may be gone, so this node must not take "
            f"part. Move the folder away and {REPLACE_DISK}"
        )
