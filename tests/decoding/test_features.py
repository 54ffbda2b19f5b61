"""The feature store: row order, resuming, and files that do not fit."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils.decoding.encoders import FeatureOptions, encoder, generators
from nbutils.decoding.features import Features, extract, open_features

IDS = np.array([40, 7, 19, 3, 55, 21, 8])


class Interrupted(Exception):
    pass


class Encoder:
    """Stands for a network: features that tell which image they came from."""

    def __init__(self, fail_at=None):
        self.calls, self.fail_at = 0, fail_at

    def image_tokens(self, images):
        if self.calls == self.fail_at:
            raise Interrupted
        self.calls += 1
        return torch.from_numpy(images[:, :2, 0, :].astype(np.float32))


def make_stimuli():
    return np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3), dtype=np.uint8)


def run(path, clip=None, ids=IDS, **changes):
    networks = SimpleNamespace(clip=clip or Encoder())
    arguments = {"batch_size": 2, "progress": False, **changes}
    return extract("clip_image", networks, make_stimuli(), None, ids, path, **arguments)


def test_rows_are_the_features_of_their_images(tmp_path):
    features = run(tmp_path / "clip_image.npy")
    assert features.array.dtype == np.float16
    np.testing.assert_array_equal(features.nsd_id, IDS)
    np.testing.assert_array_equal(features.take([19, 40]), make_stimuli()[[19, 40], :2, 0])
    again = open_features(tmp_path / "clip_image.npy")
    np.testing.assert_array_equal(again.array, features.array)


def test_interrupted_extraction_continues_where_it_stopped(tmp_path):
    path = tmp_path / "clip_image.npy"
    with pytest.raises(Interrupted):
        run(path, Encoder(fail_at=2))
    assert not path.exists()
    second = Encoder()
    features = run(path, second)
    assert second.calls == 2  # 4 of 7 images were done; 3 are left in batches of 2
    np.testing.assert_array_equal(features.array, make_stimuli()[IDS, :2, 0])
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "clip_image.features.json",
        "clip_image.npy",
    ]


def test_partial_file_of_other_images_is_not_continued(tmp_path):
    path = tmp_path / "clip_image.npy"
    with pytest.raises(Interrupted):
        run(path, Encoder(fail_at=2))
    features = run(path, ids=IDS[::-1])
    np.testing.assert_array_equal(features.array, make_stimuli()[IDS[::-1], :2, 0])


def test_finished_file_is_reused_and_a_foreign_one_refused(tmp_path):
    path = tmp_path / "clip_image.npy"
    run(path)
    unused = Encoder()
    run(path, unused)
    assert unused.calls == 0
    with pytest.raises(ValueError, match="holds other features"):
        run(path, ids=IDS[:3])
    features = run(path, ids=IDS[:3], replace=True)
    np.testing.assert_array_equal(features.take(IDS[:3]), make_stimuli()[IDS[:3], :2, 0])


def test_features_of_earlier_weights_are_not_reused(tmp_path):
    weights = tmp_path / "clip.safetensors"
    path, used = tmp_path / "clip_image.npy", Encoder()
    networks = SimpleNamespace(clip=used, directory=tmp_path)

    def extract_again(**changes):
        return extract("clip_image", networks, make_stimuli(), None, IDS, path, progress=False,
                       **changes)  # fmt: skip

    weights.write_bytes(b"first")
    extract_again()
    extract_again()
    assert used.calls == 1
    weights.write_bytes(b"later")
    with pytest.raises(ValueError, match="other images, network or options"):
        extract_again()
    extract_again(replace=True)
    assert used.calls == 2


def test_missing_or_cut_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="extract the features first"):
        open_features(tmp_path / "vdvae.npy")
    path = tmp_path / "clip_image.npy"
    run(path)
    sidecar = tmp_path / "clip_image.features.json"
    record = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**record, "nsd_id": record["nsd_id"][:-1]}))
    with pytest.raises(ValueError, match="do not belong together"):
        open_features(path)


def test_values_beyond_float16_are_refused_and_nothing_is_left_under_the_final_name(tmp_path):
    clip = SimpleNamespace(image_tokens=lambda images: torch.full((len(images), 3), 1e6))
    with pytest.raises(ValueError, match="float16"):
        run(tmp_path / "clip_image.npy", clip)
    assert not (tmp_path / "clip_image.npy").exists()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_rows_find_any_images_in_any_order(data):
    ids = data.draw(st.lists(st.integers(0, 72_999), min_size=1, max_size=30, unique=True))
    asked = data.draw(st.lists(st.sampled_from(ids), max_size=40))
    features = Features(np.arange(len(ids))[:, None], np.array(ids))
    rows = features.rows(np.array(asked, dtype=int))
    assert [ids[row] for row in rows] == asked


def test_unknown_images_and_repeated_rows_are_refused():
    features = Features(np.zeros((3, 2)), np.array([5, 1, 9]))
    with pytest.raises(ValueError, match="nsd_id 4 is the first"):
        features.rows([1, 4, 12])
    with pytest.raises(ValueError, match="twice"):
        Features(np.zeros((2, 2)), np.array([5, 5]))


def test_captions_must_fit_the_images(tmp_path):
    networks = SimpleNamespace(clip=None, optimus=None)
    for captions, message in [(None, "got none"), ([["a dog"]], "got 1")]:
        with pytest.raises(ValueError, match=message):
            extract("clip_text", networks, None, captions, IDS, tmp_path / "x.npy")
    with pytest.raises(ValueError, match="no caption"):
        extract("optimus", networks, None, [["a dog"]] * 6 + [[""]], IDS, tmp_path / "x.npy")
    with pytest.raises(ValueError, match="choose one of clip_image"):
        extract("clip_audio", networks, None, None, IDS, tmp_path / "x.npy")


def test_text_latent_of_an_image_is_the_mean_over_its_own_captions():
    table = {"a": [1.0, 0.0], "b": [3.0, 0.0], "c": [0.0, 5.0]}
    optimus = SimpleNamespace(encode=lambda texts: torch.tensor([table[text] for text in texts]))
    networks = SimpleNamespace(optimus=optimus)
    captions = [["a", "b", ""], ["c"]]
    mean = encoder("optimus", networks, FeatureOptions())(None, captions, IDS[:2])
    np.testing.assert_array_equal(mean, [[2, 0], [0, 5]])
    first = encoder("optimus", networks, FeatureOptions(captions="first"))(None, captions, IDS[:2])
    np.testing.assert_array_equal(first, [[1, 0], [0, 5]])


def test_draws_of_an_image_depend_on_seed_image_and_purpose_only():
    def draw(seed, ids, purpose):
        return [torch.rand(3, generator=g).tolist() for g in generators(seed, ids, purpose)]

    together = draw(0, [4, 9, 2], "prior")
    assert draw(0, [9], "prior") == together[1:2]
    others = [draw(1, [9], "prior"), draw(0, [9], "words"), draw(0, [2], "prior")]
    assert together[1:2] not in others
