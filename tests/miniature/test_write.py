"""The files are NSD's, the numbers agree with each other, and making is atomic."""

import gzip
import json
import shutil

import h5py
import nibabel
import numpy as np
import pytest
from scipy.io import loadmat, whosmat

from nbutils.miniature import write
from nbutils.miniature.experiment import plan
from nbutils.miniature.write import make
from nbutils.nsd.betas import load_responses, noise_free
from nbutils.nsd.layout import Layout
from nbutils.nsd.noise import noise_ceiling, read_ncsnr, repeat_reliability, zscore_sessions
from nbutils.nsd.rois import mask, roi
from nbutils.nsd.session_files import read_session
from nbutils.nsd.stimuli import Stimuli
from nbutils.nsd.trials import trials
from nbutils.nsd.volumes import grid

SMALL = {"n_shared": 100, "n_private": 900, "voxel_scale": 0.1, "progress": False, "workers": 1}
TINY = {"n_shared": 30, "n_private": 220, "voxel_scale": 0.03, "progress": False, "workers": 1}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Layout:
    """Four sessions of subject 1."""
    return make(tmp_path_factory.mktemp("worlds") / "four", **SMALL)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Layout:
    """One session of subject 1 with about 130 voxels."""
    return make(tmp_path_factory.mktemp("original") / "tiny", **TINY)


@pytest.fixture
def tiny(original, tmp_path) -> Layout:
    """A copy of it to play with."""
    return Layout(shutil.copytree(original.root, tmp_path / "tiny"))


def betas_of(layout: Layout) -> np.ndarray:
    """Read all single trials in percent signal change."""
    shape, voxels = grid(layout, 1)[0], mask(layout, 1)
    return (
        np.concatenate(
            [
                read_session(layout.betas(1, session, "hdf5"), voxels, shape)
                for session in layout.sessions(1)
            ]
        )
        / 300
    )


def test_header_is_nsds(world):
    with gzip.open(world.betas(1, 1)) as file:
        raw = file.read(352)
    head = nibabel.Nifti1Header(raw[:348], check=False)
    n = np.array(head["dim"][1:4])
    assert head["dim"].tolist() == [4, *n, 750, 1, 1, 1]
    np.testing.assert_allclose(head["pixdim"], [0, 1.8, 1.8, 1.8, 1.3333334, 1, 1, 1], rtol=1e-6)
    assert head["datatype"] == 4 and head["vox_offset"] == 352
    assert head["qform_code"] == 0 and head["sform_code"] == 1
    affine = nibabel.load(world.betas(1, 1)).affine
    np.testing.assert_allclose(affine[:3, :3], 1.8 * np.eye(3), rtol=1e-6)
    np.testing.assert_allclose(affine[:3, 3], -(n - 1) / 2 * 1.8, rtol=1e-6)
    assert (head["scl_slope"], head["scl_inter"]) == (0, 0)
    assert nibabel.load(world.betas(1, 1)).header.get_slope_inter() == (None, None)


def test_single_volumes_have_nsds_dimensions_and_the_same_grid(world):
    shape = grid(world, 1)[0]
    for path in (world.volume(1, "mean"), world.roi(1, "streams", "lh"), world.ncsnr(1)):
        with gzip.open(path) as file:
            head = nibabel.Nifti1Header(file.read(348), check=False)
        assert head["dim"].tolist() == [3, *shape, 1, 1, 1, 1]
        np.testing.assert_allclose(head["pixdim"][:5], [0, 1.8, 1.8, 1.8, 1.3333334], rtol=1e-6)
        np.testing.assert_array_equal(nibabel.load(path).affine, grid(world, 1)[1])


def test_the_files_of_a_subject_are_those_that_nsd_has(world):
    names = {path.name.split(".nii")[0] for path in world.ppdata(1).glob("*.nii.gz")}
    maps = ("angle", "eccentricity", "exponent", "gain", "meanvol", "R2", "size")
    valid = {f"valid_session{k:02d}" for k in range(1, 5)}
    assert names == valid | {"brainmask", "mean", "R2", "T1_to_func1pt8mm"} | {
        f"prf_{name}" for name in maps
    }
    there = {path.name for path in world.betas_folder(1).iterdir()}
    assert {"ncsnr.nii.gz", "meanbeta.nii.gz", "R2.nii.gz"} < there
    brain = nibabel.load(world.volume(1, "brainmask")).get_fdata() > 0
    for path in (world.volume(1, "R2"), world.betas_folder(1) / "R2.nii.gz"):
        explained = nibabel.load(path).get_fdata()
        assert explained.min() == 0 and 0 < explained[brain].mean() < 100
    angle, gain = (nibabel.load(world.volume(1, f"prf_{n}")).get_fdata() for n in ("angle", "gain"))
    assert np.nanmin(angle) >= 0 and np.nanmax(angle) <= 360 and np.nanmin(gain) > 0
    np.testing.assert_array_equal(np.isnan(angle), np.isnan(gain))


def test_label_tables_start_with_unknown_and_end_lines_in_tabs_and_blanks(world):
    lines = world.labels(1, "prf-visualrois").read_text().split("\n")
    assert lines[:2] == ["0 Unknown\t    ", "1 V1v\t    "] and lines[-1] == ""


def test_tables_have_nsds_columns_in_nsds_order(world):
    head = world.stim_info().read_text().partition("\n")[0].split(",")
    subjects = [f"subject{s}" for s in range(1, 9)]
    assert head == [
        *",cocoId,cocoSplit,cropBox,loss,nsdId,flagged,BOLD5000,shared1000".split(","),
        *subjects,
        *(f"{subject}_rep{k}" for subject in subjects for k in range(3)),
    ]
    head = world.behaviour(1).read_text().partition("\n")[0]
    assert head == (
        "SUBJECT\tSESSION\tRUN\tTRIAL\t73KID\t10KID\tTIME\tISOLD\tISCORRECT\tRT\tCHANGEMIND\t"
        "MEMORYRECENT\tMEMORYFIRST\tISOLDCURRENT\tISCORRECTCURRENT\tTOTAL1\tTOTAL2\tBUTTON\t"
        "MISSINGDATA"
    )


def test_hdf5_has_nsds_axes_and_chunks(world):
    shape = grid(world, 1)[0]
    with h5py.File(world.betas(1, 3, "hdf5")) as file:
        assert file["betas"].shape == (750, *shape[::-1])
        assert file["betas"].chunks == (750, 1, 1, 1) and file["betas"].compression is None
        assert file["betas"].dtype == np.int16
    with h5py.File(world.stimuli()) as file:
        assert file["imgBrick"].shape == (100 + 4 * 900, 64, 64, 3)


def test_design_file_holds_matlab_doubles_counted_from_one(world):
    described = {name: (shape, kind) for name, shape, kind in whosmat(world.expdesign())}
    assert described == {
        "masterordering": ((1, 3000), "double"),
        "subjectim": ((4, 1000), "double"),
        "sharedix": ((1, 100), "double"),
        "basiccnt": ((3, 4), "double"),
        "stimpattern": ((4, 12, 75), "double"),
    }
    fields = loadmat(world.expdesign())
    assert fields["masterordering"].min() == 1 and fields["masterordering"].max() == 1000
    assert fields["subjectim"].min() == 1 and fields["subjectim"].max() == 3700
    assert (fields["subjectim"][:, :100] == fields["sharedix"]).all()
    assert fields["stimpattern"].sum(axis=2)[0].tolist() == [63, 62] * 6
    table = trials(world, 1, [1])
    counts = np.bincount(table["nsd_id"].value_counts(), minlength=4)[1:4]
    assert fields["basiccnt"][:, 0].tolist() == counts.tolist()


def test_volumes_code_outside_cortex_and_label_as_nsd(world):
    brain = nibabel.load(world.volume(1, "brainmask")).get_fdata() > 0
    for atlas in ("nsdgeneral", "prf-visualrois", "floc-faces", "floc-food", "streams"):
        both = nibabel.load(world.roi(1, atlas)).get_fdata()
        assert both.min() == -1 and (both[~brain] == -1).all()
        left, right = (nibabel.load(world.roi(1, atlas, side)).get_fdata() for side in ("lh", "rh"))
        np.testing.assert_array_equal(np.maximum(left, right), both)
        # Index 0 runs from left to right.
        assert np.argwhere(left > 0)[:, 0].max() < np.argwhere(right > 0)[:, 0].min()
    ncsnr = nibabel.load(world.ncsnr(1)).get_fdata()
    np.testing.assert_array_equal(np.isnan(ncsnr), ~brain)
    betas = np.asanyarray(nibabel.load(world.betas(1, 2)).dataobj)
    assert not betas[~brain].any()


def test_a_few_voxels_at_the_edge_are_lost_for_a_session_and_marked(world):
    lost = 0
    for session in world.sessions(1):
        valid = nibabel.load(world.volume(1, f"valid_session{session:02d}")).get_fdata()
        brain = nibabel.load(world.volume(1, "brainmask")).get_fdata()
        gone = (valid == 0) & (brain > 0)
        assert not np.asanyarray(nibabel.load(world.betas(1, session)).dataobj)[gone].any()
        lost += gone.sum()
    assert lost == 6


def test_split_halves_reach_the_noise_ceiling_of_the_ncsnr_file(world):
    """First against second showing: the correlation is the single-trial noise ceiling."""
    table, betas = trials(world, 1), betas_of(world)
    scores = zscore_sessions(betas, table["session"])
    reliability = repeat_reliability(scores, table["nsd_id"].to_numpy())
    ceiling = noise_ceiling(read_ncsnr(world, 1, mask(world, 1)), 1) / 100
    assert np.median(reliability) == pytest.approx(np.median(ceiling), abs=0.015)
    assert np.corrcoef(reliability, ceiling)[0, 1] > 0.9


def test_truth_correlates_with_averages_as_the_ceiling_allows(world):
    got = load_responses(world, 1)
    truth = noise_free(world, 1, got.train_id)
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(truth.T, got.train.T, strict=True)]
    ceiling = np.sqrt(noise_ceiling(read_ncsnr(world, 1, mask(world, 1)), 3) / 100)
    assert np.median(r) == pytest.approx(np.median(ceiling), abs=0.03)


def test_ncsnr_is_near_the_planted_one_and_near_nsds_level(world):
    planted = np.load(world.truth(1) / "tuning.npz")["ncsnr"]
    found = read_ncsnr(world, 1, mask(world, 1))
    assert np.corrcoef(planted, found)[0, 1] > 0.9
    ceiling = noise_ceiling(found, 1)
    assert 10 < np.median(ceiling) < 20
    v1 = roi(world, 1, "prf-visualrois", "V1")
    late = roi(world, 1, "floc-faces") | roi(world, 1, "floc-places")
    assert np.median(ceiling[v1]) > np.median(ceiling[late])


def test_noise_is_shared_by_neighbours_and_partly_another_scenes_response(world):
    got = load_responses(world, 1)
    trial_truth = got.standardise(noise_free(world, 1, got.test_trial_id))
    noise = got.test_trials - trial_truth
    noise = (noise - noise.mean(0)) / noise.std(0)
    correlation = noise.T @ noise / len(noise)
    shape = grid(world, 1)[0]
    where = np.stack(np.unravel_index(mask(world, 1), shape), axis=1)
    distance = np.linalg.norm(where[:, None] - where, axis=-1)
    near, far = (distance > 0) & (distance < 1.5), distance > 6
    assert correlation[near].mean() > correlation[far].mean() + 0.08
    # More of the noise lies on the few leading directions of the signal than by chance.
    signal = noise_free(world, 1)
    axes = np.linalg.svd(signal - signal.mean(0), full_matrices=False)[2][:10]
    share = ((noise @ axes.T) ** 2).sum() / (noise**2).sum()
    assert share > 1.8 * 10 / noise.shape[1]


def test_a_second_call_changes_nothing(tiny):
    before = {path: path.stat().st_mtime_ns for path in tiny.root.rglob("*")}
    make(tiny.root, **TINY)
    assert {path: path.stat().st_mtime_ns for path in tiny.root.rglob("*")} == before


def test_the_same_parameters_give_the_same_bytes_on_one_process_or_two(tiny, tmp_path):
    again = make(tmp_path / "again", **(TINY | {"workers": 2}))
    for path in (p for p in tiny.root.rglob("*") if p.suffix in (".gz", ".npy", ".csv", ".json")):
        assert path.read_bytes() == (again.root / path.relative_to(tiny.root)).read_bytes(), path


def test_a_subject_is_added_without_touching_the_first(tiny):
    before = {path: path.stat().st_mtime_ns for path in tiny.root.rglob("*subj01*/**/*")}
    make(tiny.root, (1, 2), **TINY)
    assert {path: path.stat().st_mtime_ns for path in tiny.root.rglob("*subj01*/**/*")} == before
    first, second = (set(trials(tiny, subject)["nsd_id"]) for subject in (1, 2))
    assert len(first & second) == 30
    assert Stimuli(tiny)[sorted(first | second)].shape[0] == 30 + 2 * 220
    assert load_responses(tiny, 2).test_id.size == 30


def test_half_made_subjects_are_made_again(tmp_path, monkeypatch):
    """Killed in the middle: no marker, nothing in place, and the next call completes it."""

    def fail(*_):
        raise KeyboardInterrupt

    root = tmp_path / "world"
    with monkeypatch.context() as patch:
        patch.setattr(write, "write_subject_volumes", fail)
        with pytest.raises(KeyboardInterrupt):
            make(root, **TINY)
    assert not write.finished(root, 1) and not Layout(root).betas_folder(1).exists()
    (root / ".making_subj01_dead").mkdir()
    # As if it had died between two renames.
    Layout(root).betas_folder(1).mkdir(parents=True)
    (Layout(root).betas_folder(1) / "betas_session09.hdf5").touch()
    layout = make(root, **TINY)
    assert write.finished(root, 1) and layout.sessions(1) == [1]
    assert not list(root.glob(".making_*"))


def test_an_older_version_is_made_again(tiny):
    marker = tiny.root / ".miniature/subj01.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"version": 0}))
    tiny.ncsnr(1).unlink()
    make(tiny.root, **TINY)
    assert tiny.ncsnr(1).is_file()


def test_foreign_folders_and_other_worlds_are_not_overwritten(tiny, tmp_path):
    foreign = tmp_path / "nsd"
    foreign.mkdir()
    (foreign / "nsddata").mkdir()
    with pytest.raises(ValueError, match="no miniature world"):
        make(foreign, **TINY)
    with pytest.raises(ValueError, match="made with snr=1.0, not 2.0"):
        make(tiny.root, snr=2.0, **TINY)
    assert sorted(path.name for path in foreign.iterdir()) == ["nsddata"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"subjects": (5,)}, "subjects 1 to 4"),
        ({"snr": -1.0}, "snr must be at least 0"),
        ({"snr": np.nan}, "snr must be at least 0"),
        ({"repeats": 0}, "at least 1 repeat"),
        ({"recorded": 0}, "recorded=0: this plan has sessions 1 to 16"),
        ({"recorded": 17}, "recorded=17: this plan has sessions 1 to 16"),
    ],
)
def test_impossible_parameters_write_nothing(tmp_path, arguments, words):
    with pytest.raises(ValueError, match=words):
        make(tmp_path / "world", **arguments, progress=False)
    assert not (tmp_path / "world").exists()


def test_snr_zero_is_a_brain_without_signal(tmp_path):
    layout = make(tmp_path / "silent", snr=0.0, **TINY)
    assert np.ptp(noise_free(layout, 1), axis=0).max() == 0
    assert np.median(noise_ceiling(read_ncsnr(layout, 1, mask(layout, 1)), 1)) < 4


def test_fewer_recorded_sessions_are_the_same_sessions_in_the_same_plan(tmp_path):
    """NSD's subjects 3, 4, 6 and 8: the tables plan on, the files and the behaviour end."""
    size = TINY | {"n_private": 470}
    whole, part = make(tmp_path / "2", **size), make(tmp_path / "1", recorded=1, **size)
    assert (whole.sessions(1), part.sessions(1)) == ([1, 2], [1])
    for path in (whole.expdesign(), whole.stim_info(), whole.betas(1, 1)):
        same = part.root / path.relative_to(whole.root)
        if path.suffix == ".mat":
            fields = [loadmat(one)["masterordering"] for one in (path, same)]
            np.testing.assert_array_equal(*fields)
        else:
            assert path.read_bytes() == same.read_bytes()
    rows = [one.behaviour(1).read_text().splitlines() for one in (whole, part)]
    assert rows[1] == rows[0][:751] and len(rows[0]) == 1501
    assert not part.volume(1, "valid_session02").exists()
    with pytest.raises(ValueError, match="made with recorded=1, not None"):
        make(part.root, **size)


def test_more_repeats_are_more_sessions(tmp_path):
    assert plan(400, 3600, 3).n_sessions == 16
    assert plan(400, 3600, 1).n_sessions == 6
    layout = make(tmp_path / "six", repeats=6, **TINY)
    assert layout.sessions(1) == [1, 2]
    assert (load_responses(layout, 1).n_repeats_test == 6).all()
