"""Bad input gets one sentence: which file, what is wrong with it, and what to do."""

import gzip
import os
import re
import shutil
from collections.abc import Callable

import h5py
import nibabel
import numpy as np
import pytest

from nbutils.artifacts import ArtifactError
from nbutils.miniature.recording import write_nifti
from nbutils.nsd.betas import load_responses
from nbutils.nsd.layout import Layout
from nbutils.nsd.masked import check_masked, write_masked
from nbutils.nsd.noise import noise_ceiling, read_ncsnr, repeat_reliability
from nbutils.nsd.rois import mask, roi
from nbutils.nsd.session_files import read_session
from nbutils.nsd.volumes import fortran_indices, grid, read_volume
from nbutils.study import Study

FORMATS = ("nii.gz", "hdf5", "masked")
REMEDIES = r"\b(fetch|make|made|download|delete|give|name|choose|check|load|take|run|use|leave)\b"


@pytest.fixture
def own(small, tmp_path) -> Layout:
    """A copy of the small world, its second session also with the voxels of the mask only."""
    for name in ("nsddata", "nsddata_betas"):
        shutil.copytree(small.root / name, tmp_path / "own" / name)
    return Layout(tmp_path / "own")


def keep_masked(layout: Layout, sessions: tuple[int, ...] = (1, 2)) -> None:
    """Write sessions as a download would leave them."""
    voxels, shape = mask(layout, 1), grid(layout, 1)[0]
    for session in sessions:
        betas = read_session(layout.betas(1, session, "hdf5"), voxels, shape)
        write_masked(layout, 1, session, betas, voxels, shape)


def told(call: Callable[[], object], *words: str, kind: type[Exception] = ValueError) -> str:
    """Call, and return the error's sentence after looking at its form."""
    with pytest.raises(kind) as caught:
        call()
    sentence = caught.value.args[0]
    assert "\n" not in sentence and not re.search(r"[a-z]\. [A-Z]", sentence), sentence
    assert len(sentence) < 600, sentence
    for word in words:
        assert word in sentence, sentence
    assert re.search(REMEDIES, sentence), f"no remedy: {sentence}"
    return sentence


@pytest.mark.parametrize("file_format", ["auto", *FORMATS])
def test_a_missing_session(own, file_format):
    keep_masked(own)
    wanted = FORMATS if file_format == "auto" else [file_format]
    for suffix in wanted:
        own.betas(1, 1, suffix).unlink()
    told(
        lambda: load_responses(own, 1, file_format=file_format),
        "session 1 of subject 1",
        "betas_session01",
        "sessions=",
        kind=FileNotFoundError,
    )


@pytest.mark.parametrize("file_format", ["nii.gz", "hdf5"])
@pytest.mark.parametrize("order", [(2, 1, 0), (0, 2, 1)])
def test_a_session_of_another_grid(own, file_format, order):
    shape = [grid(own, 1)[0][axis] for axis in order]
    path = own.betas(1, 1, file_format)
    if file_format == "hdf5":
        with h5py.File(path, "w") as file:
            file["betas"] = np.zeros((750, *shape[::-1]), np.int16)
    else:
        write_nifti(path, np.zeros((750, *shape[::-1]), np.int16))
    told(
        lambda: load_responses(own, 1, file_format=file_format),
        str(path),
        "another subject or another space",
    )


@pytest.mark.parametrize("file_format", ["nii.gz", "hdf5", "masked"])
@pytest.mark.parametrize("n_trials", [700, 751])
def test_a_session_with_too_few_or_too_many_trials(own, file_format, n_trials):
    shape, path = grid(own, 1)[0], own.betas(1, 1, file_format)
    volumes = np.ones((n_trials, *shape[::-1]), np.int16)
    if file_format == "hdf5":
        with h5py.File(path, "w") as file:
            file["betas"] = volumes
    elif file_format == "nii.gz":
        write_nifti(path, volumes)
    else:
        voxels = mask(own, 1)
        write_masked(own, 1, 1, np.ones((n_trials, len(voxels)), np.int16), voxels, shape)
    told(
        lambda: load_responses(own, 1, [1], file_format=file_format),
        "betas_session01",
        str(n_trials),
        "750",
    )


@pytest.mark.parametrize("keep", [0, 10, 200, 0.3, 0.999, -1])
def test_a_truncated_gzip_file(own, keep):
    path = own.betas(1, 2)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else keep])
    told(
        lambda: load_responses(own, 1, file_format="nii.gz"),
        str(path),
        "half downloaded",
        "fetch",
    )


def test_a_flipped_byte_in_a_gzip_file(own):
    path = own.betas(1, 2)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    told(lambda: load_responses(own, 1, file_format="nii.gz"), str(path), "fetch")


@pytest.mark.parametrize("keep", [0, 100, 0.5])
@pytest.mark.parametrize("file_format", ["hdf5", "masked"])
def test_a_truncated_file_of_another_format(own, file_format, keep):
    keep_masked(own)
    path = own.betas(1, 2, file_format)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else keep])
    told(lambda: load_responses(own, 1, file_format=file_format), str(path), "fetch")
    assert file_format == "hdf5" or not check_masked(own, 1, 2)


@pytest.mark.parametrize("name", ["brainmask", "roi/nsdgeneral", "roi/prf-visualrois"])
@pytest.mark.parametrize("keep", [0, 40, 0.7])
def test_a_truncated_volume(own, name, keep):
    path = own.volume(1, name)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else keep])
    told(lambda: read_volume(path), str(path), "fetch")
    if name != "brainmask":
        told(lambda: roi(own, 1, "prf-visualrois", "V1"), str(path), "fetch")
    elif not keep:
        told(lambda: load_responses(own, 1), str(path), "fetch")


@pytest.mark.parametrize("kind", ["f4", "u2", "i4", "f8"])
@pytest.mark.parametrize("file_format", ["nii.gz", "hdf5"])
def test_a_wrong_number_type(own, file_format, kind):
    """Betas of NSD's surfaces are float32 in percent already; 300 would be divided out twice."""
    path = own.betas(1, 1, file_format)
    volumes = np.ones((750, *grid(own, 1)[0][::-1]), kind)
    if file_format == "hdf5":
        with h5py.File(path, "w") as file:
            file["betas"] = volumes
    else:
        write_nifti(path, volumes)
    found = {"f4": "float32", "u2": "uint16", "i4": "int32", "f8": "float64"}[kind]
    told(lambda: load_responses(own, 1, file_format=file_format), str(path), found, "not int16")


def test_a_masked_session_of_a_wrong_number_type(own):
    voxels, shape = mask(own, 1), grid(own, 1)[0]
    betas = np.ones((750, len(voxels)), np.float32)
    told(lambda: write_masked(own, 1, 1, betas, voxels, shape), "float32", "int16")
    keep_masked(own)
    np.save(own.betas(1, 1, "masked"), betas)
    told(
        lambda: load_responses(own, 1, file_format="masked"),
        str(own.betas(1, 1, "masked")),
        "fetch",
    )


@pytest.mark.parametrize("file_format", ["nii.gz", "hdf5"])
def test_a_nan_voxel(own, file_format):
    """NSD's volume betas cannot be NaN, its surface betas can."""
    path = own.betas(1, 1, file_format)
    volumes = np.ones((750, *grid(own, 1)[0][::-1]), np.float32)
    volumes.reshape(750, -1)[:, fortran_indices(mask(own, 1)[3:4], grid(own, 1)[0])] = np.nan
    if file_format == "hdf5":
        with h5py.File(path, "w") as file:
            file["betas"] = volumes
    else:
        write_nifti(path, volumes)
    sentence = told(lambda: load_responses(own, 1, file_format=file_format), str(path))
    assert "NaN in 1 of" in sentence or "not int16" in sentence


def test_nan_in_maps_stays_nan_and_selects_nothing(own):
    """NaN is how NSD says "outside the brain", so it is no error in a map."""
    outside = np.flatnonzero(read_volume(own.volume(1, "brainmask")) == 0)[:5]
    assert np.isnan(noise_ceiling(read_ncsnr(own, 1, outside), 3)).all()
    betas = np.random.default_rng(0).standard_normal((20, 2))
    betas[4, 1] = np.nan
    reliability = repeat_reliability(betas, np.tile(np.arange(10), 2))
    assert np.isfinite(reliability).tolist() == [True, False]


def test_a_subject_without_that_region(own):
    # The table has the label, this subject has no such voxel: normal, and no error.
    assert not roi(own, 1, "floc-faces", "mTL-faces").any()
    told(
        lambda: roi(own, 1, "floc-faces", "FFA-9"),
        "no label 'FFA-9' in floc-faces: choose from OFA, FFA-1, FFA-2, mTL-faces, aTL-faces",
    )
    told(
        lambda: roi(own, 1, "thalamus", "LGN"),
        "atlas 'thalamus'",
        str(own.roi(1, "thalamus")),
        "floc-words, nsdgeneral",
        kind=FileNotFoundError,
    )
    own.labels(1, "floc-faces").unlink()
    told(
        lambda: roi(own, 1, "floc-faces", "OFA"),
        "label table of atlas 'floc-faces'",
        kind=FileNotFoundError,
    )


def test_a_subject_who_is_not_on_disk(own):
    told(lambda: load_responses(own, 2), "subj02", kind=FileNotFoundError)
    told(lambda: mask(own, 2), "subj02", kind=FileNotFoundError)


def test_sessions_in_mixed_formats(own):
    """One session as NIfTI, the other as HDF5: nothing is guessed."""
    own.betas(1, 1, "hdf5").unlink()
    own.betas(1, 2, "nii.gz").unlink()
    told(lambda: load_responses(own, 1), "subject 1", "hdf5: 2", "nii.gz: 1", "sessions=")
    # Asked for one by one, the two formats give columns in the same order.
    voxels = mask(own, 1)[::-1]
    one = load_responses(own, 1, [1], voxels=voxels, file_format="nii.gz")
    np.testing.assert_array_equal(one.voxels, voxels)


def test_masked_sessions_of_other_voxels_are_stale(own):
    keep_masked(own)
    voxels, shape = mask(own, 1), grid(own, 1)[0]
    np.save(own.masked_voxels(1), voxels[:-1])
    path = own.betas(1, 1, "masked")
    told(lambda: read_session(path, voxels[:-1], shape), str(path), "other voxels", "fetch")
    assert not check_masked(own, 1, 1)


def test_a_session_for_another_mask_is_not_put_beside_the_old_ones(own):
    keep_masked(own, (1,))
    voxels, shape = mask(own, 1)[:-7], grid(own, 1)[0]
    betas = np.zeros((750, len(voxels)), np.int16)
    told(
        lambda: write_masked(own, 1, 2, betas, voxels, shape),
        str(own.masked_voxels(1)),
        "--atlases",
    )
    assert check_masked(own, 1, 1) and not check_masked(own, 1, 2)


def test_voxels_that_were_not_kept(own):
    keep_masked(own)
    brain = np.flatnonzero(read_volume(own.volume(1, "brainmask")))
    told(
        lambda: load_responses(own, 1, voxels=brain),
        "masked",
        "--atlases",
    )


def test_masked_bytes_that_changed_later(own):
    keep_masked(own)
    path = own.betas(1, 2, "masked")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    told(lambda: load_responses(own, 1), str(path), "fetch")
    assert not check_masked(own, 1, 2)


@pytest.mark.parametrize("what", ["record", "voxels"])
def test_masked_sessions_without_what_explains_them(own, what):
    keep_masked(own)
    path = own.betas(1, 1, "masked")
    gone = path.with_suffix(".json") if what == "record" else own.masked_voxels(1)
    gone.unlink()
    told(lambda: load_responses(own, 1), str(gone), "fetch", kind=FileNotFoundError)


def test_results_of_other_parameters_are_stale(tmp_path):
    places = {"device": "cpu", "results": tmp_path / "results", "data": tmp_path / "data"}
    old = Study(**places, sessions=2)
    old.save("responses", "train.npy", np.zeros((2, 3), np.float32), nsd_id=[1, 2])
    told(
        lambda: Study(**places, sessions=1).load("responses", "train.npy"),
        "responses/train.npy",
        "sessions=2",
        "sessions=1",
        kind=ArtifactError,
    )


def test_a_file_that_is_no_gzip_at_all(own):
    own.betas(1, 1).write_bytes(b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>")
    told(lambda: load_responses(own, 1, file_format="nii.gz"), str(own.betas(1, 1)), "fetch")
    own.betas(1, 1).write_bytes(gzip.compress(os.urandom(4000)))
    told(lambda: load_responses(own, 1, file_format="nii.gz"), str(own.betas(1, 1)), "fetch")
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4)), own.volume(1, "brainmask"))
    told(lambda: mask(own, 1), "nsdgeneral.nii.gz", "(2, 2, 2)", "another subject")
