"""Small disks of our own: an ext4 file system in a file each, whose power can be cut.

Cutting is ``EXT4_IOC_SHUTDOWN`` without a flush, as the file system tests of Linux do it: what was
not synced is gone after the next mount. Everything is mounted in a mount namespace of this process
and its children, so nothing stays behind, however they end.
"""

import ctypes
import errno
import fcntl
import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_SHUTDOWN = 0x8004587D
_NO_FLUSH = 2
_UNMOUNT_S = 20.0
_FILL_STEP_BYTES = 16 * 1024
_TRIED_MEGABYTES = 4
# Not on everybody's path.
_SYSTEM_PROGRAMS = ("/usr/sbin", "/sbin")


class DisksForbidden(RuntimeError):
    """This machine lets us mount nothing; the message says why."""


def enter_own_namespace(folder: Path) -> None:
    """Let mounts be seen by this thread and whatever it starts, only; and try a disk, in this
    folder. To be called first of all, before there are other threads. Raises DisksForbidden."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(_CLONE_NEWNS) != 0:
        raise DisksForbidden(f"unshare: {os.strerror(ctypes.get_errno())}")
    _run("mount", "--make-rprivate", "/")
    image = folder / "tried.disk"
    Disk(image, folder / "tried", _TRIED_MEGABYTES).unmount()
    image.unlink()


class Disk:
    """One disk, made and mounted on construction."""

    def __init__(self, image: Path, folder: Path, megabytes: int) -> None:
        """``folder`` is where it is mounted. Raises DisksForbidden."""
        self.folder = folder
        self._image = image
        self._ballast = folder / "ballast"
        self._is_filled = False
        with open(image, "wb") as file:
            file.truncate(megabytes << 20)
        folder.mkdir(parents=True, exist_ok=True)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
        self.mount()

    def mount(self) -> None:
        """Mount it (again). Raises DisksForbidden."""
        _run("mount", "-o", "loop", str(self._image), str(self.folder))
        if not self._is_filled:  # its removal may be among what was lost
            self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Take it away; nobody may use it any more. Raises DisksForbidden if somebody does for
        long."""
        deadline_s = time.monotonic() + _UNMOUNT_S
        while True:
            try:
                _run("umount", str(self.folder))
            except DisksForbidden:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.05)
            else:
                return

    def cut_power(self) -> None:
        """Lose everything that was not synced; no operation on the disk succeeds until it was
        unmounted and mounted."""
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, _SHUTDOWN, struct.pack("I", _NO_FLUSH))
        finally:
            os.close(folder)

    def make_read_only(self) -> None:
        """Turn it read-only, as ext4 itself does when it meets an error; unmount and mount to
        mend."""
        _run("mount", "-o", "remount,abort", str(self.folder))

    def fill(self, leave_bytes: int) -> None:
        """Take all room but so much."""
        self._is_filled = True
        status = os.statvfs(self.folder)
        size = max(0, status.f_bavail * status.f_frsize - leave_bytes)
        with open(self._ballast, "wb") as ballast:
            while size > 0:
                try:
                    os.posix_fallocate(ballast.fileno(), 0, size)
                except OSError as error:
                    # Others write meanwhile, and the ballast itself needs room for its extents.
                    if error.errno != errno.ENOSPC:
                        raise
                    size -= _FILL_STEP_BYTES
                else:
                    return

    def empty(self) -> None:
        """Give the room back."""
        self._is_filled = False
        self._ballast.unlink(missing_ok=True)


def _run(*command: str) -> None:
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_PROGRAMS))
    program = shutil.which(command[0], path=path) or command[0]
    try:
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    except OSError as error:
        raise DisksForbidden(str(error)) from None
    if done.returncode:
        raise DisksForbidden(f"{' '.join(command)}: {done.stderr.strip()}")
