"""Every library uncompresses what Python's gzip compressed, however the bytes are cut."""

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils.nsd.gzip_stream import DAMAGE, LIBRARIES, crc32, read_fully, uncompress

CONTENT = np.random.default_rng(0).integers(0, 9, 50_000).astype(np.uint8).tobytes()
PACKED = gzip.compress(CONTENT)

each_library = pytest.mark.parametrize("library", LIBRARIES)


def cut(packed: bytes, places: list[int]) -> list[bytes]:
    """Cut bytes at these places; equal places make empty pieces."""
    ends = sorted(min(place, len(packed)) for place in places)
    return [packed[a:b] for a, b in zip([0, *ends], [*ends, len(packed)], strict=True)]


def test_python_s_own_zlib_is_always_there_and_the_slowest():
    assert list(LIBRARIES)[-1] == "zlib"


@each_library
@settings(max_examples=30, deadline=None)
@given(places=st.lists(st.integers(0, len(PACKED)), max_size=20))
def test_pieces_of_any_size_give_the_same_bytes(library, places):
    assert uncompress(cut(PACKED, places), library).read() == CONTENT


@each_library
def test_pieces_may_be_of_any_kind_of_bytes(library):
    kinds = (bytes, bytearray, memoryview)
    pieces = [kinds[i % 3](PACKED[i : i + 1000]) for i in range(0, len(PACKED), 1000)]
    assert uncompress(pieces, library).read() == CONTENT


@each_library
def test_all_members_of_a_file_are_read(library):
    several = PACKED + gzip.compress(b"more") + gzip.compress(b"") + gzip.compress(b"end")
    assert uncompress([several], library).read() == CONTENT + b"moreend"


@each_library
def test_zeros_after_the_end_are_padding(library):
    assert uncompress([PACKED + bytes(512)], library).read() == CONTENT


@each_library
@pytest.mark.parametrize(
    "packed",
    [
        PACKED[:5],
        PACKED[: len(PACKED) // 2],
        PACKED[:-1],
        PACKED[:-8] + bytes(4) + PACKED[-4:],
        PACKED[:-4] + bytes(4),
        PACKED + b"something else entirely",
        PACKED + PACKED[:7],
        CONTENT,
    ],
    ids=["header", "half", "last byte", "checksum", "length", "tail", "2nd member", "plain"],
)
def test_damage_is_told_from_errors_of_the_source(library, packed):
    with pytest.raises(DAMAGE):
        uncompress(cut(packed, [10, 1000]), library).read()


@each_library
def test_an_error_of_the_source_comes_through(library):
    def broken():
        yield PACKED[:2000]
        raise ConnectionResetError("the other side hung up")

    with pytest.raises(ConnectionResetError, match="hung up"):
        uncompress(broken(), library).read()
    assert not issubclass(ConnectionResetError, DAMAGE)


@each_library
def test_a_buffer_is_filled_to_the_end_of_the_file_and_no_further(library):
    stream, buffer = uncompress(cut(PACKED, [100, 101]), library), bytearray(30_000)
    assert read_fully(stream, memoryview(buffer)) == 30_000 and buffer == CONTENT[:30_000]
    assert read_fully(stream, memoryview(buffer)) == 20_000
    assert buffer[:20_000] == CONTENT[30_000:] and read_fully(stream, memoryview(buffer)) == 0


def test_the_checksum_is_that_of_gzip():
    assert crc32(CONTENT) == int.from_bytes(PACKED[-8:-4], "little")
