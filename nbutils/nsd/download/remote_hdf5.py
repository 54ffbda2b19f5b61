"""Look into an HDF5 file on a server without fetching it."""

from __future__ import annotations

import io
from collections import OrderedDict
from dataclasses import dataclass

import h5py
import numpy as np

from nbutils.transfer.progress import Meter
from nbutils.transfer.transport import Entry, FetchError, Remote

DATASET = "imgBrick"


class RemoteFile(io.RawIOBase):
    """A file on a server, for reading, a block at a time.

    Parameters
    ----------
    remote, entry : the server and the file
    meter : counts the bytes
    block : bytes asked for at once
    blocks : how many are kept
    """

    def __init__(
        self, remote: Remote, entry: Entry, meter: Meter, block: int = 2**18, blocks: int = 64
    ) -> None:
        self._remote, self._entry, self._meter = remote, entry, meter
        self._block, self._blocks, self._at = block, blocks, 0
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self.failure: BaseException | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to another byte."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._entry.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        """Return the present byte."""
        return self._at

    def readinto(self, buffer: memoryview) -> int:
        """Read what is asked for; what goes wrong is kept in `failure` and ends all reading."""
        if self.failure is None:
            try:
                return self._fill(buffer)
            except BaseException as error:
                self.failure = error
        # HDF5 would hide the failure behind an error of its own. That one may hold HDF5's open
        # lists of properties, which must be gone before Python ends, so it must not know this one.
        raise OSError(f"{self._entry.key} cannot be read on")

    def _fill(self, buffer: memoryview) -> int:
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view) and self._at < self._entry.size:
            number, start = divmod(self._at, self._block)
            part = self._get(number)[start : start + len(view) - done]
            view[done : done + len(part)] = part
            done, self._at = done + len(part), self._at + len(part)
        return done

    def take_failure(self) -> BaseException:
        """Return what went wrong, and forget it: a failure that knows this file is a circle."""
        try:
            return self.failure
        finally:
            self.failure = None

    def _get(self, number: int) -> bytes:
        if number in self._kept:
            self._kept.move_to_end(number)
            return self._kept[number]
        start = number * self._block
        stop = min(start + self._block, self._entry.size)
        content = self._remote.read(self._entry, self._meter, start, stop)
        self._kept[number] = content
        if len(self._kept) > self._blocks:
            self._kept.popitem(last=False)
        return content


@dataclass(frozen=True)
class Brick:
    """The images inside NSD's stimulus file.

    Attributes
    ----------
    shape : (n_images, height, width, 3)
    offset : byte of the first image where they lie in one stretch, else None
    """

    shape: tuple[int, int, int, int]
    offset: int | None

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return int(np.prod(self.shape[1:]))


def open_brick(remote: Remote, entry: Entry, meter: Meter) -> Brick:
    """Find the images in the stimulus file.

    Raises
    ------
    FetchError
        If it is not NSD's stimulus file.
    """
    with RemoteHDF5(remote, entry, meter) as file:
        brick = file.get(DATASET)
        found = (brick.shape, brick.dtype) if isinstance(brick, h5py.Dataset) else None
        if found is None or len(found[0]) != 4 or found[0][3] != 3 or found[1] != np.uint8:
            raise FetchError(
                f"{entry.key} on {remote.address} has no /{DATASET} of shape (images, height, "
                f"width, 3) in uint8 (found {found}): it is not NSD's stimulus file"
            )
        offset = brick.id.get_offset() if brick.chunks is None else None
        result = Brick(tuple(int(n) for n in brick.shape), offset)
    if offset is not None and offset + result.shape[0] * result.image_bytes > entry.size:
        raise FetchError(
            f"{entry.key} on {remote.address} ends before its last image: it is cut off there"
        )
    return result


class RemoteHDF5:
    """Open an HDF5 file on a server; errors of the server come through as they are.

    Parameters
    ----------
    remote, entry, meter : as of `RemoteFile`
    """

    def __init__(self, remote: Remote, entry: Entry, meter: Meter) -> None:
        self._raw, self._entry = RemoteFile(remote, entry, meter), entry
        self._file: h5py.File | None = None

    def __enter__(self) -> h5py.File:
        try:
            self._file = h5py.File(self._raw, "r")
        except OSError as error:
            self._explain(error)
        return self._file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._file is not None:
            self._file.close()
        if error is not None:
            self._explain(error)

    def _explain(self, error: BaseException) -> None:
        """Raise what stands behind an error, whatever type it has."""
        if self._raw.failure is not None:
            raise self._raw.take_failure() from None
        if isinstance(error, OSError):
            raise FetchError(f"{self._entry.key} is no readable HDF5 file ({error})") from error
