"""Both betas formats give the same columns, and damaged files are refused."""

import gzip
import tracemalloc
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nibabel.testing import data_path

from nbutils.nsd import gzip_stream
from nbutils.nsd.session_files import read_hdf5, read_nifti, read_session, stream_nifti

SHAPE, TRIALS = (5, 6, 4), 9


@pytest.fixture
def betas() -> np.ndarray:
    """Betas (x, y, z, trials) in which every number is different."""
    return (
        np.random.default_rng(0)
        .permutation(np.arange(5 * 6 * 4 * 9))
        .astype(np.int16)
        .reshape(*SHAPE, TRIALS)
    )


@pytest.fixture
def voxels() -> np.ndarray:
    """Some voxels of an irregular region, ascending."""
    return np.flatnonzero(np.random.default_rng(1).random(SHAPE) < 0.3)


def save_nifti(path: Path, betas: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(betas, np.eye(4)), path)
    return path


def save_hdf5(path: Path, betas: np.ndarray, **options) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("betas", data=betas.T, **options)
    return path


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
def test_streamed_nifti_equals_nibabel(tmp_path, betas, voxels, name):
    path = save_nifti(tmp_path / name, betas)
    expected = np.asanyarray(nibabel.load(path).dataobj).reshape(-1, TRIALS)[voxels].T
    np.testing.assert_array_equal(read_session(path, voxels, SHAPE), expected)


def test_big_endian_nifti_is_read_in_native_order(tmp_path, betas, voxels):
    head = nibabel.Nifti1Header(endianness=">")
    head.set_data_dtype(np.int16)
    image = nibabel.Nifti1Image(betas, np.eye(4), head)
    nibabel.save(image, tmp_path / "a.nii.gz")
    assert nibabel.load(tmp_path / "a.nii.gz").dataobj.dtype == np.dtype(">i2")
    got = read_session(tmp_path / "a.nii.gz", voxels, SHAPE)
    assert got.dtype == np.int16 and got.dtype.isnative
    np.testing.assert_array_equal(got, betas.reshape(-1, TRIALS)[voxels].T)


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (TRIALS, 1, 1, 1)},
        {"chunks": (TRIALS, 1, 1, 1), "compression": "gzip"},
        {"chunks": (3, 2, 3, 5)},
        {},
    ],
    ids=["as NSD", "compressed", "other chunks", "contiguous"],
)
def test_hdf5_gives_the_columns_that_nifti_gives(tmp_path, betas, voxels, options):
    stored = read_session(save_hdf5(tmp_path / "a.hdf5", betas, **options), voxels, SHAPE)
    streamed = read_session(save_nifti(tmp_path / "a.nii.gz", betas), voxels, SHAPE)
    np.testing.assert_array_equal(stored, streamed)
    # The two files read naively disagree, which is the trap.
    naive = betas.T[:, np.isin(np.arange(120), voxels).reshape(SHAPE).T]
    assert not np.array_equal(naive, streamed)


@pytest.mark.parametrize("suffix", ["nii.gz", "hdf5"])
def test_columns_follow_the_order_asked_for(tmp_path, betas, voxels, suffix):
    path = tmp_path / f"a.{suffix}"
    (save_nifti if suffix == "nii.gz" else save_hdf5)(path, betas)
    shuffled = np.random.default_rng(2).permutation(voxels)
    np.testing.assert_array_equal(
        read_session(path, shuffled, SHAPE), betas.reshape(-1, TRIALS)[shuffled].T
    )


def test_a_chunk_never_written_reads_as_zeros(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        stored = file.create_dataset("betas", (TRIALS, 4, 6, 5), np.int16, chunks=(TRIALS, 1, 1, 1))
        stored[:, 1, 2, 3] = np.arange(TRIALS)
    one = np.ravel_multi_index((3, 2, 1), SHAPE)
    got = read_session(tmp_path / "a.hdf5", np.array([0, one]), SHAPE)
    assert not got[:, 0].any() and got[:, 1].tolist() == list(range(TRIALS))


def test_the_small_worlds_two_formats_are_equal(small):
    shape = nibabel.load(small.volume(1, "mean")).shape
    everything = np.arange(np.prod(shape))
    one, two = (
        read_session(small.betas(1, 2, suffix), everything, shape) for suffix in ("nii.gz", "hdf5")
    )
    np.testing.assert_array_equal(one, two)
    image = nibabel.load(small.betas(1, 2))
    np.testing.assert_array_equal(np.asanyarray(image.dataobj).reshape(-1, 750).T, one)


@pytest.mark.parametrize("name", ["example4d.nii.gz", "functional.nii"])
def test_nibabels_real_scans_stream_as_nibabel_reads_them(name):
    """One is plain int16 with a header extension, the other has a scale factor."""
    path = Path(data_path) / name
    image = nibabel.load(path)
    voxels = np.flatnonzero(np.random.default_rng(3).random(image.shape[:3]) < 0.05)
    expected = np.asanyarray(image.dataobj).reshape(-1, image.shape[3])[voxels].T
    got = read_nifti(path, voxels, image.shape[:3])
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert got.std() > 0


def test_another_subjects_file_is_refused(tmp_path, betas):
    for path in (save_nifti(tmp_path / "a.nii.gz", betas), save_hdf5(tmp_path / "a.hdf5", betas)):
        with pytest.raises(ValueError, match="another subject or another space"):
            read_session(path, np.arange(3), (6, 5, 4))


def test_a_file_in_xyz_order_where_hdf5_has_zyx_is_refused(tmp_path, betas):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["betas"] = np.moveaxis(betas, 3, 0)
    with pytest.raises(ValueError, match="has shape"):
        read_session(tmp_path / "a.hdf5", np.arange(3), SHAPE)


def test_a_single_volume_is_no_session(tmp_path, betas):
    path = save_nifti(tmp_path / "a.nii.gz", betas[..., 0])
    with pytest.raises(ValueError, match="has shape"):
        read_session(path, np.arange(3), SHAPE)


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.97])
def test_a_cut_off_nifti_is_refused(tmp_path, voxels, keep):
    noise = np.random.default_rng(4).integers(-999, 999, (*SHAPE, 300)).astype(np.int16)
    path = save_nifti(tmp_path / "a.nii.gz", noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match="half downloaded"):
        read_session(path, voxels, SHAPE)


def test_a_flipped_byte_in_a_compressed_nifti_is_refused(tmp_path, voxels):
    noise = np.random.default_rng(4).integers(-999, 999, (*SHAPE, 300)).astype(np.int16)
    plain = save_nifti(tmp_path / "a.nii", noise).read_bytes()
    content = bytearray(gzip.compress(plain, 1))
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(ValueError, match="half downloaded"):
        read_session(tmp_path / "a.nii.gz", voxels, SHAPE)


def test_a_cut_off_hdf5_is_refused(tmp_path, betas, voxels):
    path = save_hdf5(tmp_path / "a.hdf5", betas, chunks=(TRIALS, 1, 1, 1))
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(ValueError, match="half downloaded"):
        read_session(path, voxels, SHAPE)


def test_floats_are_no_betas_of_volume_space(tmp_path, betas, voxels):
    path = save_nifti(tmp_path / "a.nii.gz", betas.astype(np.float32))
    with pytest.raises(ValueError, match="float32, not int16"):
        read_session(path, voxels, SHAPE)


def test_a_scale_factor_in_the_header_is_refused(tmp_path, betas, voxels):
    image = nibabel.Nifti1Image(betas / 300, np.eye(4))
    image.header.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match="float32, not int16"):
        read_session(tmp_path / "a.nii.gz", voxels, SHAPE)


def test_a_missing_file_and_a_foreign_hdf5_are_named(tmp_path, voxels):
    with pytest.raises(FileNotFoundError, match="betas_session01.hdf5"):
        read_session(tmp_path / "betas_session01.hdf5", voxels, SHAPE)
    with h5py.File(tmp_path / "b.hdf5", "w") as file:
        file["imgBrick"] = np.zeros(3)
    with pytest.raises(ValueError, match="no dataset /betas"):
        read_session(tmp_path / "b.hdf5", voxels, SHAPE)


RAW = nibabel.Nifti1Image(
    np.random.default_rng(5).integers(-999, 999, (*SHAPE, TRIALS)).astype(np.int16), np.eye(4)
).to_bytes()
SOME = np.array([7, 0, 99, 31])
TRUTH = np.asanyarray(nibabel.Nifti1Image.from_bytes(RAW).dataobj).reshape(-1, TRIALS)[SOME].T
PACKED = gzip.compress(RAW)


@settings(max_examples=60, deadline=None)
@given(
    places=st.lists(st.integers(0, len(PACKED)), max_size=12),
    split=st.integers(0, len(RAW)),
)
def test_pieces_of_any_size_stream_as_nibabel_reads_the_whole(places, split):
    for packed in (PACKED, gzip.compress(RAW[:split]) + gzip.compress(RAW[split:])):
        ends = sorted(places)
        pieces = [packed[a:b] for a, b in zip([0, *ends], [*ends, None], strict=True)]
        np.testing.assert_array_equal(stream_nifti(pieces, SOME, SHAPE, "a"), TRUTH)


@pytest.mark.parametrize("library", gzip_stream.LIBRARIES)
@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_every_library_gives_the_same_betas_and_sees_the_same_damage(library, place, monkeypatch):
    only = {library: gzip_stream.LIBRARIES[library]}
    monkeypatch.setattr(gzip_stream, "LIBRARIES", only)
    np.testing.assert_array_equal(stream_nifti([PACKED], SOME, SHAPE, "a"), TRUTH)
    for bad in (PACKED[: int(place * len(PACKED))], PACKED[:-8] + bytes(8), PACKED + b"xy" * 9):
        with pytest.raises(ValueError, match="^session 3 .*fetch or make it again"):
            stream_nifti([bad], SOME, SHAPE, "session 3")


def test_a_stream_is_read_to_its_last_byte():
    """A download that stops early would otherwise pass unseen."""
    left = iter([PACKED[:300], PACKED[300:], b"", bytes(20), bytes(1)])
    stream_nifti(left, SOME, SHAPE, "a")
    assert list(left) == []


def test_an_error_of_the_connection_comes_through_as_it_is():
    def broken():
        yield PACKED[:900]
        raise ConnectionResetError("the other side hung up")

    with pytest.raises(ConnectionResetError, match="hung up"):
        stream_nifti(broken(), SOME, SHAPE, "a")


def test_damage_is_reported_with_its_trial():
    noise = np.random.default_rng(6).integers(-999, 999, (30, 30, 30, 100)).astype(np.int16)
    packed = gzip.compress(nibabel.Nifti1Image(noise, np.eye(4)).to_bytes(), 1)
    with pytest.raises(ValueError, match=r"damaged at trial (38|57) of 100"):
        stream_nifti([packed[: int(0.65 * len(packed))]], SOME, (30, 30, 30), "a")


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, len(PACKED) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_or_without_effect(place, bit):
    bad = bytearray(PACKED)
    bad[place] ^= 1 << bit
    try:
        got = stream_nifti([bad], SOME, SHAPE, "a")
    except ValueError as error:
        assert "again" in str(error)
    else:
        np.testing.assert_array_equal(got, TRUTH)
        assert place < 10 or place > len(PACKED) - 12  # gzip's own name and date, or padding


@settings(max_examples=300, deadline=None)
@example(place=49, value=128)  # a negative number of trials
@given(place=st.integers(0, 351), value=st.integers(0, 255))
def test_a_wrong_byte_in_the_header_is_refused_or_without_effect(place, value):
    """Here gzip's checksum is right: the file was written wrong."""
    bad = bytearray(RAW)
    bad[place] = value
    try:
        got = stream_nifti([gzip.compress(bad, 1)], SOME, SHAPE, "a")
    except ValueError as error:
        assert str(error).startswith("a ")
    else:
        np.testing.assert_array_equal(got, TRUTH)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw + b"x", "goes on after the 9 trials"),
        (lambda raw: raw + raw[352:], "goes on after the 9 trials"),
        (lambda raw: raw[:-1], "ends after 8 of 9 trials"),
        (lambda raw: raw[:352], "ends after 0 of 9 trials"),
        (lambda raw: raw[:351], "no readable NIfTI file"),
        (lambda raw: raw[:108] + b"\0\0\x80\x7f" + raw[112:], "no readable NIfTI file"),
        (lambda raw: b"", "no readable NIfTI file"),
        (lambda raw: bytes(2000), "no readable NIfTI file"),
        (lambda raw: b"<html>" * 200, "no readable NIfTI file"),
    ],
)
def test_a_file_of_another_length_or_kind_is_refused(tmp_path, name, change, message):
    path, content = tmp_path / name, change(RAW)
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(ValueError, match=f"{name} {message}|{name} is {message}"):
        read_session(path, SOME, SHAPE)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, np.int8])
def test_other_number_types_are_refused_before_the_data_are_read(dtype):
    noise = np.random.default_rng(7).integers(0, 99, (30, 30, 30, 99)).astype(dtype)
    packed = gzip.compress(nibabel.Nifti1Image(noise, np.eye(4)).to_bytes(), 1)
    pieces = iter([packed[i : i + 1000] for i in range(0, len(packed), 1000)])
    with pytest.raises(ValueError, match=f"holds {np.dtype(dtype)}, not int16"):
        stream_nifti(pieces, SOME, (30, 30, 30), "a")
    assert len(list(pieces)) > len(packed) / 1000 / 2


def test_a_nan_voxel_is_named_with_its_place(tmp_path, betas):
    values = betas.astype(np.float32)
    values[1, 2, 3, 4] = values[4, 5, 3, 0] = np.nan
    voxels = np.array([np.ravel_multi_index(place, SHAPE) for place in [(0, 0, 0), (1, 2, 3)]])
    for path, read in (
        (save_nifti(tmp_path / "a.nii.gz", values), read_nifti),
        (save_hdf5(tmp_path / "a.hdf5", values, chunks=(TRIALS, 1, 1, 1)), read_hdf5),
    ):
        with pytest.raises(ValueError, match=r"a\.\w+.* NaN in 1 of 2 voxels.*\(1, 2, 3\).*mask"):
            read(path, voxels, SHAPE)
        got = read(path, voxels[:1], SHAPE)
        np.testing.assert_array_equal(got[:, 0], values[0, 0, 0])


def test_a_big_endian_hdf5_is_read_in_native_order(tmp_path, betas, voxels):
    path = save_hdf5(tmp_path / "a.hdf5", betas.astype(">i2"), chunks=(TRIALS, 1, 1, 1))
    got = read_session(path, voxels, SHAPE)
    assert got.dtype.isnative
    np.testing.assert_array_equal(got, betas.reshape(-1, TRIALS)[voxels].T)


def test_no_voxels_give_no_columns(tmp_path, betas):
    for path in (save_nifti(tmp_path / "a.nii.gz", betas), save_hdf5(tmp_path / "a.hdf5", betas)):
        assert read_session(path, np.array([], np.int64), SHAPE).shape == (TRIALS, 0)


def test_streaming_holds_some_volumes_where_nibabel_holds_the_session(tmp_path):
    shape, n_trials = (50, 50, 50), 150
    betas = np.zeros((*shape, n_trials), np.int16, order="F")
    betas[20:30, 20:30, 20:30] = np.arange(n_trials)
    path, voxels = save_nifti(tmp_path / "a.nii.gz", betas), np.arange(0, 125_000, 500)
    expected = betas.reshape(-1, n_trials)[voxels].T.copy()

    def peak(read) -> int:
        tracemalloc.start()
        try:
            np.testing.assert_array_equal(read(), expected)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    whole = peak(lambda: nibabel.load(path).get_fdata().reshape(-1, n_trials)[voxels].T)
    assert peak(lambda: read_session(path, voxels, shape)) < whole / 50
