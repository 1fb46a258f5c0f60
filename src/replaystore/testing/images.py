"""File systems in an image, whose power can be cut: ext4 and XFS on a loop device, shut down by their own
ioctl.

What the shutdown leaves in the image is what the file system had written to its disk by then: nothing of what
is only in memory gets there any more. Mounting again replays the journal, as after a power cut. For this a
process has to be root, on Linux, and have loop devices and mkfs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

__all__ = ["SYSTEMS", "Image", "available", "mounted"]

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN: _IOR('X', 125, u32)
NO_LOG_FLUSH = 2  # not even the journal in memory is written
SYSTEMS = {"ext4": (64 << 20, ["mkfs.ext4", "-q", "-F"]), "xfs": (300 << 20, ["mkfs.xfs", "-q", "-f"])}
"""By name, the size of an image (sparse; XFS wants this much) and what makes it."""


class Image:
    """An image in a folder, mounted in it."""

    def __init__(self, system: str, folder: str) -> None:
        self.system = system
        self.place = os.path.join(folder, f"{system}.mount")
        self._image = os.path.join(folder, f"{system}.img")
        os.makedirs(self.place, exist_ok=True)
        size, command = SYSTEMS[system]
        with open(self._image, "wb") as file:
            file.truncate(size)
        _call([*command, self._image])
        self._device = _call(["losetup", "--find", "--show", self._image]).strip()
        self._mounted = False

    def mount(self) -> None:
        """Make the files there; after a cut, the journal is replayed."""
        _call(["mount", "-t", self.system, self._device, self.place])
        self._mounted = True

    def cut(self) -> None:
        """Cut the power. What is done from now on fails."""
        import fcntl

        descriptor = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(descriptor)

    def unmount(self) -> None:
        """Take the files away, as soon as nobody uses them."""
        if not self._mounted:
            return
        for attempt in range(100):
            try:
                _call(["umount", self.place])
                break
            except OSError:
                if attempt == 99:
                    raise
                time.sleep(0.02)
        self._mounted = False

    def again(self) -> None:
        """What the machine does when the power is back."""
        self.unmount()
        self.mount()

    def close(self) -> None:
        """Remove all of it."""
        self.unmount()
        _call(["losetup", "--detach", self._device])
        os.unlink(self._image)


def _call(command: list[str]) -> str:
    """What a command prints. OSError: it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # the system's own tools
    if done.returncode:
        raise OSError(f"{command[0]}: {done.stderr.strip() or done.returncode}")
    return done.stdout


@contextlib.contextmanager
def mounted(system: str, folder: str) -> Iterator[Image]:
    """An image, mounted; nothing is left of it in the end."""
    image = Image(system, folder)
    try:
        image.mount()
        yield image
    finally:
        image.close()


def available(system: str) -> str:
    """Why there is no such file system here; empty if there is one."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "mounting an image takes root on Linux"
    missing = [
        tool for tool in (SYSTEMS[system][1][0], "losetup", "mount", "umount") if shutil.which(tool) is None
    ]
    if missing:
        return f"there is no {missing[0]} (apt-get install e2fsprogs xfsprogs)"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with mounted(system, folder) as image:
                image.cut()
        except OSError as error:
            return str(error)
    return ""
