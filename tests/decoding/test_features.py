"""Extraction of features: row order, one pass, resuming, and files that do not fit."""

import json
import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nbutils.decoding import features as module
from nbutils.decoding.encoders import FeatureOptions, encoder, generators
from nbutils.decoding.features import extract, open_features
from nbutils.networks.memory import PLANS

IDS = np.array([40, 7, 19, 3, 55, 21, 8])


class Interrupted(Exception):
    pass


class Network:
    """Stands for a network: features that tell which image or caption they came from."""

    def __init__(self, fail_at=None):
        self.calls, self.fail_at = 0, fail_at

    def _count(self):
        if self.calls == self.fail_at:
            raise Interrupted
        self.calls += 1

    def image_tokens(self, images):
        self._count()
        return torch.from_numpy(images[:, :2, 0, :].astype(np.float32))

    def encode(self, images):
        self._count()
        return torch.from_numpy(images[:, 3, 3, :1].astype(np.float32))

    def caption_tokens(self, captions):
        self._count()
        return torch.tensor([[float(len(row)), float(len(row[0]))] for row in captions])


class Stimuli:
    """Images in memory that remember what was asked of them, and in which thread."""

    def __init__(self, fail_at=None):
        self.images = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3), dtype=np.uint8)
        self.asked, self.threads, self.fail_at = [], set(), fail_at

    def __getitem__(self, ids):
        if len(self.asked) == self.fail_at:
            raise Interrupted
        self.asked.append(list(ids))
        self.threads.add(threading.current_thread())
        return self.images[ids]


IMAGES = Stimuli().images
CAPTIONS = [["a" * (i % 9 + 1)] * (i % 3 + 1) for i in IDS]


def gather(**parts):
    """Networks that are all in memory, without limits."""
    return SimpleNamespace(plan=PLANS[-1], attempt=lambda work: work(PLANS[-1]), **parts)


def run(folder, clip=None, ids=IDS, names=("clip_image",), stimuli=None, **changes):
    networks = gather(clip=clip or Network(), autokl=Network())
    arguments = {"batch_size": 2, "progress": False, **changes}
    captions = CAPTIONS[: len(ids)]
    return extract(names, networks, stimuli or Stimuli(), captions, ids, folder, **arguments)


def test_rows_are_the_features_of_their_images(tmp_path):
    features = run(tmp_path)["clip_image"]
    assert features.array.dtype == np.float16
    np.testing.assert_array_equal(features.nsd_id, IDS)
    np.testing.assert_array_equal(features.take([19, 40]), IMAGES[[19, 40], :2, 0])
    again = open_features(tmp_path / "clip_image.npy")
    np.testing.assert_array_equal(again.array, features.array)


def test_images_are_read_once_for_all_networks_and_ahead_of_them(tmp_path):
    stimuli = Stimuli()
    found = run(tmp_path, names=("clip_image", "clip_text", "autokl"), stimuli=stimuli)
    assert stimuli.asked == [[40, 7], [19, 3], [55, 21], [8]]
    assert threading.main_thread() not in stimuli.threads and len(stimuli.threads) == 1
    assert not any(thread.is_alive() for thread in stimuli.threads)
    np.testing.assert_array_equal(found["clip_image"].array, IMAGES[IDS, :2, 0])
    np.testing.assert_array_equal(found["autokl"].array, IMAGES[IDS, 3, 3, :1])
    lengths = [[len(row), len(row[0])] for row in CAPTIONS]
    np.testing.assert_array_equal(found["clip_text"].array, lengths)


def test_features_of_captions_and_finished_features_read_no_image(tmp_path):
    run(tmp_path)
    stimuli = Stimuli(fail_at=0)
    run(tmp_path, names=("clip_image", "clip_text"), stimuli=stimuli)
    assert stimuli.asked == []


def test_a_later_feature_reads_only_the_batches_it_lacks(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path, stimuli=Stimuli(fail_at=2))
    stimuli = Stimuli()
    run(tmp_path, names=("clip_image", "clip_text"), stimuli=stimuli)
    assert stimuli.asked == [[55, 21], [8]]


def test_interrupted_extraction_continues_where_it_stopped(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path, Network(fail_at=2))
    assert not (tmp_path / "clip_image.npy").exists()
    second = Network()
    features = run(tmp_path, second)["clip_image"]
    assert second.calls == 2  # 4 of 7 images were done; 3 are left in batches of 2
    np.testing.assert_array_equal(features.array, IMAGES[IDS, :2, 0])
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "clip_image.features.json",
        "clip_image.npy",
    ]


def test_another_batch_size_continues_too(tmp_path):
    names = ("clip_image", "autokl")
    with pytest.raises(Interrupted):
        run(tmp_path, Network(fail_at=1), names=names)
    found = run(tmp_path, names=names[::-1], batch_size=3)
    np.testing.assert_array_equal(found["clip_image"].array, IMAGES[IDS, :2, 0])
    np.testing.assert_array_equal(found["autokl"].array, IMAGES[IDS, 3, 3, :1])


def test_an_unreadable_image_ends_the_run_and_its_reading_thread(tmp_path):
    stimuli = Stimuli(fail_at=2)
    with pytest.raises(Interrupted):
        run(tmp_path, stimuli=stimuli)
    assert not any(thread.is_alive() for thread in stimuli.threads)
    failing = Stimuli()
    with pytest.raises(Interrupted):
        run(tmp_path, Network(fail_at=0), stimuli=failing, replace=True)
    assert not any(thread.is_alive() for thread in failing.threads)


@pytest.mark.parametrize("damage", ["cut", "header", "marker", "no marker"])
def test_damaged_partial_files_are_written_anew(tmp_path, damage):
    with pytest.raises(Interrupted):
        run(tmp_path, Network(fail_at=2))
    part, marker = tmp_path / "clip_image.npy.part", tmp_path / "clip_image.npy.part.json"
    if damage == "cut":
        os.truncate(part, part.stat().st_size - 1)
    elif damage == "header":
        part.write_bytes(b"\x00" * part.stat().st_size)
    elif damage == "marker":
        marker.write_text("")
    else:
        marker.unlink()
    second = Network()
    features = run(tmp_path, second)["clip_image"]
    assert second.calls == 4
    np.testing.assert_array_equal(features.array, IMAGES[IDS, :2, 0])


def test_marker_never_promises_rows_that_are_not_synced(tmp_path, monkeypatch):
    sync, move, safe, promised = os.fsync, os.replace, {}, []

    def remember_sync(descriptor):
        sync(descriptor)
        state = os.fstat(descriptor)
        safe[state.st_ino] = state.st_size

    def remember_move(source, target):
        if str(target).endswith(".part.json"):
            part = (tmp_path / "clip_image.npy.part").stat()
            rows = (safe.get(part.st_ino, 0) - 128) // 12  # 128 bytes of header, 2 x 3 float16
            promised.append((json.loads(source.read_text())["done"], rows))
            assert safe[source.stat().st_ino] == source.stat().st_size
        move(source, target)

    monkeypatch.setattr(os, "fsync", remember_sync)
    monkeypatch.setattr(os, "replace", remember_move)
    run(tmp_path)
    assert promised == [(2, 2), (4, 4), (6, 6), (7, 7)]


def test_partial_file_of_other_images_is_not_continued(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path, Network(fail_at=2))
    features = run(tmp_path, ids=IDS[::-1])["clip_image"]
    np.testing.assert_array_equal(features.array, IMAGES[IDS[::-1], :2, 0])


def test_finished_file_is_reused_and_a_foreign_one_refused(tmp_path):
    run(tmp_path)
    unused = Network()
    run(tmp_path, unused)
    assert unused.calls == 0
    with pytest.raises(ValueError, match="holds other features"):
        run(tmp_path, ids=IDS[:3])
    features = run(tmp_path, ids=IDS[:3], replace=True)["clip_image"]
    np.testing.assert_array_equal(features.take(IDS[:3]), IMAGES[IDS[:3], :2, 0])


def test_features_of_earlier_weights_are_not_reused(tmp_path):
    weights = tmp_path / "clip.safetensors"
    used = Network()
    networks = gather(clip=used, directory=tmp_path)

    def extract_again(**changes):
        return extract(["clip_image"], networks, Stimuli(), None, IDS, tmp_path, progress=False,
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


def test_only_what_a_feature_depends_on_makes_it_stale(tmp_path):
    names, used = ("clip_image", "clip_text"), Network()
    run(tmp_path, names=names)
    run(tmp_path, used, names=names, options=FeatureOptions(vdvae_layers=3, seed=4))
    assert used.calls == 0
    with pytest.raises(ValueError, match="clip_text.npy holds other"):
        run(tmp_path, names=names, options=FeatureOptions(captions="first"))
    origin = Stimuli()
    origin.source = "coco"  # re-cropped photographs are near the shown ones, not the same
    with pytest.raises(ValueError, match="clip_image.npy holds other"):
        run(tmp_path, names=names, stimuli=origin)


def test_seed_matters_only_where_something_is_drawn():
    options = FeatureOptions(seed=3, autokl_latent="sample")
    assert options.of("autokl") == {"autokl_latent": "sample", "seed": 3}
    assert options.of("vdvae") == {"vdvae_layers": None, "vdvae_latents": "mean"}
    assert options.of("clip_image") == {}


def test_values_beyond_float16_are_refused_and_nothing_is_left_under_the_final_name(tmp_path):
    clip = SimpleNamespace(image_tokens=lambda images: torch.full((len(images), 3), 1e6))
    with pytest.raises(ValueError, match="float16"):
        run(tmp_path, clip)
    assert not (tmp_path / "clip_image.npy").exists()


def test_full_disk_is_noticed_on_the_first_batch(tmp_path, monkeypatch):
    usage = SimpleNamespace(free=10)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage)
    clip = Network()
    with pytest.raises(OSError, match="make room or choose another folder"):
        run(tmp_path, clip)
    assert clip.calls == 1


def test_full_disk_is_noticed_where_a_feature_goes_on_past_the_first_batch(tmp_path, monkeypatch):
    with pytest.raises(Interrupted):
        run(tmp_path, Network(fail_at=2))  # 4 of 7 rows of 12 bytes: 36 are missing
    usage, names = SimpleNamespace(free=40), ("clip_image", "clip_text")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match="make room"):  # and 5 rows of 4 bytes of the other feature
        run(tmp_path, names=names)
    usage.free = 56
    assert set(run(tmp_path, names=names)) == set(names)


def test_more_vdvae_layers_than_the_network_has_are_refused_before_an_image_is_read(tmp_path):
    def count_features(n_layers):
        raise ValueError(f"n_layers={n_layers}: this VDVAE has 1 to 14 latent maps")

    networks = gather(vdvae=SimpleNamespace(count_features=count_features))
    stimuli, options = Stimuli(), FeatureOptions(vdvae_layers=31)
    with pytest.raises(ValueError, match="1 to 14"):
        extract(["vdvae"], networks, stimuli, None, IDS, tmp_path, options=options)
    assert stimuli.asked == []


def test_captions_names_and_images_must_fit(tmp_path):
    def extract_from(names, captions, ids=IDS):
        extract(names, gather(clip=None, optimus=None), None, captions, ids, tmp_path)

    for captions, message in [(None, "got none"), ([["a dog"]], "got 1")]:
        with pytest.raises(ValueError, match=message):
            extract_from(["clip_text"], captions)
    with pytest.raises(ValueError, match="no caption"):
        extract_from(["optimus"], [["a dog"]] * 6 + [[""]])
    with pytest.raises(ValueError, match="choose one of clip_image"):
        extract_from(["clip_audio"], None)
    with pytest.raises(ValueError, match="give a list of names"):
        extract_from("clip_image", None)
    with pytest.raises(ValueError, match="twice"):
        extract_from(["clip_image"], None, [3, 3])
    with pytest.raises(ValueError, match="empty"):
        extract_from(["clip_image"], None, [])


def test_text_latent_of_an_image_is_the_mean_over_its_own_captions():
    table = {"a": [1.0, 0.0], "b": [3.0, 0.0], "c": [0.0, 5.0]}
    optimus = SimpleNamespace(encode=lambda texts: torch.tensor([table[text] for text in texts]))
    networks = gather(optimus=optimus)
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
