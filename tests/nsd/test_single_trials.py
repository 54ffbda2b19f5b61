"""Single trials against the plainest reading of the same files."""

import nibabel
import numpy as np
import pytest

from nbutils.nsd.rois import mask, roi
from nbutils.nsd.single_trials import load_trials
from nbutils.nsd.trials import trials


@pytest.mark.parametrize("file_format", ["hdf5", "nii.gz"])
def test_trials_are_those_of_the_files_in_order(small, file_format):
    table = trials(small, 1)
    voxels = mask(small, 1, "streams")
    inside = nibabel.load(small.roi(1, "streams")).get_fdata() > 0
    plain = [nibabel.load(small.betas(1, session)).get_fdata()[inside].T for session in (1, 2)]
    expected = np.concatenate(plain) / 300
    got = load_trials(small, 1, voxels=voxels, file_format=file_format)
    early = roi(small, 1, "streams", "early", voxels=voxels)
    shared = table["shared"].to_numpy()
    train, train_id = got.train(early)
    np.testing.assert_allclose(train, expected[~shared][:, early], atol=1e-4)
    np.testing.assert_array_equal(train_id, table["nsd_id"][~shared])
    test, test_id = got.test(early)
    one = table["nsd_id"].to_numpy() == test_id[3]
    np.testing.assert_allclose(test[3], expected[one][:, early].mean(0), atol=1e-4)
    assert got.betas.dtype == np.int16
