"""The keys are those of the public bucket; whoever does not exist is refused in one sentence."""

import numpy as np
import pytest

from nbutils.nsd.layout import Layout


def test_paths_are_the_keys_of_the_public_bucket():
    layout = Layout("root")
    betas = "nsddata_betas/ppdata/subj05/func1pt8mm/betas_fithrf_GLMdenoise_RR"
    expected = {
        layout.betas(5, 7): f"{betas}/betas_session07.nii.gz",
        layout.betas(5, 37, "hdf5"): f"{betas}/betas_session37.hdf5",
        layout.ncsnr(5): f"{betas}/ncsnr.nii.gz",
        layout.expdesign(): "nsddata/experiments/nsd/nsd_expdesign.mat",
        layout.stim_info(): "nsddata/experiments/nsd/nsd_stim_info_merged.csv",
        layout.stimuli(): "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5",
        layout.behaviour(1): "nsddata/ppdata/subj01/behav/responses.tsv",
        layout.roi(1, "floc-faces"): "nsddata/ppdata/subj01/func1pt8mm/roi/floc-faces.nii.gz",
        layout.roi(1, "streams", "rh"): "nsddata/ppdata/subj01/func1pt8mm/roi/rh.streams.nii.gz",
        layout.labels(1, "streams"): "nsddata/freesurfer/subj01/label/streams.mgz.ctab",
        layout.volume(8, "brainmask"): "nsddata/ppdata/subj08/func1pt8mm/brainmask.nii.gz",
    }
    assert {path.as_posix() for path in expected} == {f"root/{key}" for key in expected.values()}
    assert all(path.as_posix() == f"root/{key}" for path, key in expected.items())


def test_label_table_falls_back_to_fsaverage(tmp_path):
    layout = Layout(tmp_path)
    shared = tmp_path / "nsddata/freesurfer/fsaverage/label/streams.mgz.ctab"
    shared.parent.mkdir(parents=True)
    shared.write_text("0 Unknown\n")
    assert layout.labels(3, "streams") == shared


def test_subject_nine_is_refused():
    with pytest.raises(ValueError, match="subject=9: NSD has subjects 1 to 8"):
        Layout("root").ncsnr(9)


@pytest.mark.parametrize("subject", ["1", 1.0, True, 0, -1, None])
def test_a_subject_is_a_whole_number_from_one(subject):
    with pytest.raises(ValueError, match="subject"):
        Layout("root").ncsnr(subject)


def test_numpy_numbers_are_whole_numbers():
    assert Layout("root").ncsnr(np.int64(2)) == Layout("root").ncsnr(2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda one: one.betas(1, 1, "mat"), "nii.gz, hdf5"),
        (lambda one: one.roi(1, "streams", "left"), "lh, rh"),
        (lambda one: one.captions("test2017"), "train2017, val2017"),
        (lambda one: one.betas(1, 0), "session=0"),
    ],
)
def test_unknown_choices_name_the_known_ones(call, words):
    with pytest.raises(ValueError, match=words):
        call(Layout("root"))


def test_sessions_lists_what_is_on_disk_without_partial_downloads(tmp_path):
    layout = Layout(tmp_path)
    folder = layout.betas_folder(2)
    folder.mkdir(parents=True)
    for name in (
        "betas_session10.nii.gz",
        "betas_session02.hdf5",
        "betas_session02.nii.gz",
        "betas_session03.nii.gz.part",
        "R2.nii.gz",
    ):
        (folder / name).touch()
    assert layout.sessions(2) == [2, 10]
    assert layout.sessions(2, "hdf5") == [2]


def test_no_session_on_disk_says_where_it_looked(tmp_path):
    with pytest.raises(FileNotFoundError, match="no betas_session file of subject 4 in .*subj04"):
        Layout(tmp_path).sessions(4)
