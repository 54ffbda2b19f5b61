"""Both betas formats give the same columns, and damaged files are refused."""

import gzip
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from nibabel.testing import data_path

from nbutils.nsd.session_files import read_nifti, read_session

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
