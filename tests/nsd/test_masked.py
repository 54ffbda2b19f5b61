"""What is written of a session comes back in any order, and only if it is whole."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils.nsd.layout import Layout
from nbutils.nsd.masked import check_masked, read_masked, record_path, write_masked
from nbutils.nsd.session_files import read_session

SHAPE, TRIALS = (5, 6, 4), 9


def session(voxels: np.ndarray) -> np.ndarray:
    """Betas in which a number says its trial and its voxel."""
    return (1000 * np.arange(TRIALS)[:, None] + voxels).astype(np.int16)


@pytest.fixture
def voxels() -> np.ndarray:
    return np.flatnonzero(np.random.default_rng(1).random(SHAPE) < 0.3)


@pytest.fixture
def layout(tmp_path, voxels) -> Layout:
    """Subject 1 with sessions 1 and 2 masked."""
    layout = Layout(tmp_path)
    for number in (1, 2):
        write_masked(layout, 1, number, session(voxels), voxels, SHAPE, etag="abc", bytes_read=77)
    return layout


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(0, 120))
def test_any_voxels_in_any_order_are_written_and_read(tmp_path_factory, seed, n):
    layout, rng = Layout(tmp_path_factory.mktemp("masked")), np.random.default_rng(seed)
    held = rng.permutation(120)[: max(n, 1)]
    path = write_masked(layout, 3, 5, session(held), held, SHAPE)
    wanted = rng.permutation(held)[: rng.integers(0, len(held) + 1)]
    np.testing.assert_array_equal(read_masked(path, wanted, SHAPE), session(wanted))
    assert check_masked(layout, 3, 5)


def test_files_are_plain_numpy_with_ascending_columns(layout, voxels):
    np.testing.assert_array_equal(np.load(layout.masked_voxels(1)), voxels)
    stored = np.load(layout.betas(1, 1, "masked"))
    assert stored.dtype == np.int16
    np.testing.assert_array_equal(stored, session(voxels))
    assert layout.sessions(1, "masked") == [1, 2]


def test_the_record_says_where_the_session_came_from(layout, voxels):
    record = json.loads(record_path(layout.betas(1, 2, "masked")).read_text())
    assert record["source"] == {"etag": "abc", "bytes_read": 77}
    assert record["grid"] == list(SHAPE) and record["shape"] == [TRIALS, len(voxels)]
    assert record["bytes"] == layout.betas(1, 2, "masked").stat().st_size
    assert (record["subject"], record["session"]) == (1, 2)


def test_read_session_reads_it_as_any_other_format(layout, voxels):
    some = voxels[[7, 2, 11]]
    got = read_session(layout.betas(1, 1, "masked"), some, SHAPE)
    np.testing.assert_array_equal(got, session(some))


def test_voxels_that_were_not_fetched_are_refused_with_the_remedy(layout, voxels):
    foreign = np.setdiff1d(np.arange(120), voxels)[:2]
    with pytest.raises(ValueError, match=rf"without 2 of the 3 .*first: {foreign[0]}.*--atlases"):
        read_masked(layout.betas(1, 1, "masked"), np.r_[voxels[:1], foreign], SHAPE)


def test_another_mask_cannot_join_the_sessions_of_the_first(layout, voxels):
    with pytest.raises(ValueError, match="same --atlases as before"):
        write_masked(layout, 1, 3, session(voxels[1:]), voxels[1:], SHAPE)
    assert layout.sessions(1, "masked") == [1, 2]
    # Another order is no other mask.
    write_masked(layout, 1, 3, session(voxels[::-1]), voxels[::-1], SHAPE)
    assert check_masked(layout, 1, 3)


def test_a_changed_list_of_voxels_makes_the_sessions_stale(layout, voxels):
    np.save(layout.masked_voxels(1), voxels + 1)
    assert not check_masked(layout, 1, 1)
    with pytest.raises(ValueError, match="written for other voxels"):
        read_masked(layout.betas(1, 1, "masked"), voxels, SHAPE)


def damage(path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(content[:-10])
    elif how == "longer":
        path.write_bytes(content + b"x")
    elif how == "flipped":
        content[-5] ^= 64
        path.write_bytes(content)
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize("how", ["cut", "longer", "flipped", "empty"])
def test_a_damaged_session_is_neither_whole_nor_read(layout, voxels, how):
    path = layout.betas(1, 1, "masked")
    damage(path, how)
    assert not check_masked(layout, 1, 1) and check_masked(layout, 1, 2)
    with pytest.raises(ValueError, match=r"betas_session01.npy .*fetch it again"):
        read_masked(path, voxels, SHAPE)


@pytest.mark.parametrize("how", ["cut", "flipped", "empty"])
def test_a_damaged_list_of_voxels_is_refused(layout, voxels, how):
    damage(layout.masked_voxels(1), how)
    assert not check_masked(layout, 1, 1)
    with pytest.raises(ValueError, match="again"):
        read_masked(layout.betas(1, 1, "masked"), voxels, SHAPE)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"bytes": 1', '"grid"'])
def test_a_session_with_a_broken_record_is_refused(layout, voxels, text):
    path = layout.betas(1, 1, "masked")
    record_path(path).write_text(text)
    assert not check_masked(layout, 1, 1)
    with pytest.raises(ValueError, match="no record of a masked session"):
        read_masked(path, voxels, SHAPE)


def test_a_session_without_record_or_list_is_not_whole(layout, voxels):
    path = layout.betas(1, 1, "masked")
    record_path(path).unlink()
    with pytest.raises(FileNotFoundError, match="record of betas_session01.npy"):
        read_masked(path, voxels, SHAPE)
    assert not check_masked(layout, 1, 1) and not check_masked(layout, 1, 40)
    layout.masked_voxels(1).unlink()
    with pytest.raises(FileNotFoundError, match="list of masked voxels"):
        read_masked(layout.betas(1, 2, "masked"), voxels, SHAPE)


def test_a_session_copied_over_another_is_noticed(layout):
    one, two = (layout.betas(1, number, "masked") for number in (1, 2))
    two.write_bytes(one.read_bytes())
    record_path(two).write_text(record_path(one).read_text())
    assert not check_masked(layout, 1, 2)


def test_another_grid_is_refused(layout, voxels):
    with pytest.raises(ValueError, match="another subject or another space"):
        read_masked(layout.betas(1, 1, "masked"), voxels, (6, 5, 4))


def test_only_stored_integers_of_matching_shape_are_written(layout, voxels):
    betas = session(voxels)
    for wrong in (betas / 300, betas[:, 1:], betas[0], betas.astype(np.int32)):
        with pytest.raises(ValueError, match="int16 as stored"):
            write_masked(layout, 1, 3, wrong, voxels, SHAPE)
    with pytest.raises(ValueError, match="every voxel of the mask once"):
        write_masked(layout, 2, 1, betas, np.r_[voxels[:-1], voxels[0]], SHAPE)


def test_a_write_that_fails_leaves_what_was_there(layout, voxels, monkeypatch):
    def full(*_):
        raise OSError("no space left on device")

    before = sorted(path.name for path in layout.masked_voxels(1).parent.iterdir())
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_masked(layout, 1, 3, session(voxels), voxels, SHAPE)
    assert sorted(path.name for path in layout.masked_voxels(1).parent.iterdir()) == before
    assert check_masked(layout, 1, 1)
