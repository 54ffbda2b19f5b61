"""MindDiffuser: which numbers are decoded, from which voxels, and what is painted from them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import Ridge

from nbutils.decoding.ridge import RidgeOperator
from nbutils.decoding.store import Features
from nbutils.decoding.voxels import SelectedVoxels
from nbutils.networks.checkpoints import write_state
from nbutils.networks.loading import build, load
from nbutils.systems import minddiffuser
from nbutils.systems.minddiffuser_readings import find_reading
from nbutils.systems.settings_minddiffuser import MindDiffuserSettings

IDS = np.array([31, 4, 15])
STABLE = {
    "unet": {
        "latent_channels": 4, "latent_size": 8, "channels": (8, 16), "layers_per_block": 1,
        "attention": (False, True), "heads": 2, "context_dim": 12, "norm_groups": 4,
    },
    "text": {
        "vocab_size": 22, "hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 8, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0,
    },
    "autokl": {
        "sample_size": 16, "latent_channels": 4, "block_out_channels": (8, 8),
        "layers_per_block": 1, "norm_num_groups": 4, "scaling_factor": 0.5,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    },
}  # fmt: skip
CONTROL = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 8, "projection_dim": 6,
}  # fmt: skip


@pytest.fixture(scope="module")
def painters(networks, tmp_path_factory):
    """A networks directory with a tiny Stable Diffusion and a tiny control network."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("stable")
    config = replace(networks.config, stable=STABLE, control=CONTROL)
    config.to_json(folder / "networks.json")
    for name in ("stable_unet", "stable_text", "stable_autokl", "control"):
        write_state(build(name, config).state_dict(), folder / f"{name}.safetensors")
    networks.tokenizer("clip").save_pretrained(folder / "tokenizers" / "clip")
    return load(folder)


@pytest.fixture(scope="module")
def world():
    """Responses of 90 images; features that are linear in them, with more or less noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 30)).astype(np.float32)
    ids = 500 + np.arange(90)

    def follow(shape, noise):
        y = x @ rng.normal(size=(30, int(np.prod(shape)))) / 5
        y = y + noise * rng.normal(size=y.shape)
        return y.reshape(90, *shape)

    text = follow((8, 12), 0.3)
    text[:, 0] = 0.25  # begin-of-text
    values = {
        "stable_latent": follow((4, 8, 8), 0.3),
        "stable_text": text,
        "control": follow((2, 5, 16), 0.2),
        "control_embedding": follow((6,), 0.3),
    }
    features = {name: Features(v.astype(np.float32), ids) for name, v in values.items()}
    return x, ids, features


@pytest.fixture(scope="module", params=["entries", "components"])
def decoded(world, request):
    """A reading of the control layers, and everything decoded with it."""
    x, ids, features = world
    chosen, rows = settings(control_numbers=request.param), slice(80)
    operator, ridge = (make(x[rows], ids[rows]) for make in (RidgeOperator, SelectedVoxels))
    reading = find_reading(operator, ridge, features["control"], 1.0, chosen)
    return reading, minddiffuser.decode(ridge, features, x[80:83], chosen, reading, progress=False)


def settings(**changes):
    usual = {"steps": 4, "guidance_scale": 2.0, "iterations": 2, "tokens": 6}
    return MindDiffuserSettings.careful(**{**usual, **changes})


def test_each_number_is_decoded_from_its_own_voxels(world, decoded):
    x, ids, features = world
    predicted = decoded[1]["stable_text"]
    for name, count in (("stable_latent", 30), ("stable_text", 4), ("control", 8)):
        # 80 images for 8,000: a hundredth of 3,000 (all there are), of 450 and of 850 voxels.
        assert min(30, settings().count_voxels(name, 80)) in (count, count + 1)
    y = features["stable_text"].array[:80, 3, 7]
    r = [abs(np.corrcoef(voxel, y)[0, 1]) for voxel in x[:80].T]
    voxels = np.argsort(r)[::-1][: settings().count_voxels("stable_text", 80)]
    expected = Ridge(alpha=0.15).fit(x[:80, voxels], y).predict(x[80:83, voxels])
    np.testing.assert_allclose(predicted[:, 3, 7], expected, atol=1e-4)


def test_begin_of_text_is_pasted_and_the_rest_is_decoded(world, decoded):
    features, predicted = world[2], decoded[1]
    assert predicted["stable_text"].shape == (3, 6, 12)
    np.testing.assert_array_equal(predicted["stable_text"][:, 0], np.float32(0.25))
    assert predicted["control"].shape == (3, sum(decoded[0].sizes))
    truth = features["stable_text"].array[80:83, 1:6]
    assert (
        np.corrcoef(truth.ravel(), predicted["stable_text"][:, 1:].ravel())[0, 1] > 0.4
    )  # chance 0


def test_stage_one_is_where_stage_two_begins(painters, decoded):
    chosen, (reading, predicted) = settings(), decoded
    first = minddiffuser.paint_first(painters, predicted, chosen, IDS, progress=False)
    found = minddiffuser.reconstruct(
        painters, predicted, chosen, IDS, reading, frame_every=1, progress=False
    )
    assert first.shape == (3, 16, 16, 3) and found.frames.shape == (3, 3, 16, 16, 3)
    # The one rounds [-1, 1] to levels, the other [0, 1].
    assert np.abs(first.astype(int) - found.frames[0]).max() <= 1
    assert (found.losses[2] < found.losses[0]).all()


def test_batches_change_nothing(painters, decoded):
    reading, predicted = decoded
    one = minddiffuser.reconstruct(painters, predicted, settings(), IDS, reading, progress=False)
    two = minddiffuser.reconstruct(
        painters, predicted, settings(), IDS, reading, batch_size=2, progress=False
    )
    np.testing.assert_allclose(one.losses, two.losses, rtol=1e-3)
    assert np.abs(one.images.astype(int) - two.images).max() <= 1


def test_every_iteration_can_be_watched(painters, decoded):
    reading, predicted = decoded
    seen = []
    found = minddiffuser.reconstruct(
        painters, predicted, settings(iterations=4), IDS, reading, frame_every=2, progress=False,
        watch=lambda iteration, images, losses: seen.append((iteration, images, losses)),
    )  # fmt: skip
    assert [iteration for iteration, _, _ in seen] == [0, 2, 4]
    np.testing.assert_array_equal(seen[1][1], found.frames[1])
    np.testing.assert_array_equal(seen[2][2], found.losses[4])


def test_a_plan_that_keeps_one_network_refuses_stage_two_and_paints_stage_one(painters, decoded):
    reading, predicted = decoded
    small = load(painters.directory, memory="4GB")
    first = minddiffuser.paint_first(small, predicted, settings(), IDS, progress=False)
    assert first.shape == (3, 16, 16, 3)
    with pytest.raises(MemoryError, match="take a larger one"):
        minddiffuser.reconstruct(small, predicted, settings(), IDS, reading, progress=False)


def test_missing_targets_or_those_of_another_reading_are_refused(painters, decoded):
    reading, predicted = decoded
    short = {**predicted, "control": predicted["control"][:, 1:]}
    with pytest.raises(ValueError, match="decode with the same reading"):
        minddiffuser.reconstruct(painters, short, settings(), IDS, reading)
    without = {name: v for name, v in predicted.items() if name != "control"}
    with pytest.raises(ValueError, match="control is to be used but was not predicted"):
        minddiffuser.reconstruct(painters, without, settings(), IDS, reading)


def test_settings_hold_the_published_numbers_and_name_every_difference():
    both = MindDiffuserSettings.published(), MindDiffuserSettings.careful()
    for chosen in both:
        assert (chosen.steps, chosen.strength, chosen.guidance_scale) == (50, 0.75, 5.0)
        assert (chosen.iterations, chosen.learning_rate, chosen.decay) == (300, 0.01, 0.999)
        assert chosen.find_rate("latent") == 0.01
        assert (chosen.alpha, chosen.tokens, chosen.kept) == (0.15, 15, 0.25)
        assert chosen.weigh_layers(8) == [1.5, 1.2, 1, 1, 1, 1, 1, 1]
    table = MindDiffuserSettings.table()
    different = table.index[table["published"] != table["careful"]]
    assert set(different) == set(MindDiffuserSettings.differences)
    for name in different:
        assert "published: " in table.loc[name, "meaning"]
        assert "careful: " in table.loc[name, "meaning"]


def test_both_readings_of_the_number_of_voxels_are_there():
    names = ("stable_latent", "stable_text", "control", "control_embedding")
    training, reconstruction = MindDiffuserSettings(), MindDiffuserSettings.published()
    assert [training.count_voxels(name, 8859) for name in names] == [3000, 450, 850, 850]
    assert [reconstruction.count_voxels(name, 8859) for name in names] == [4000, 125, 350, 450]
    parts = [reconstruction.count_voxels("control", 8859, layer / 6) for layer in range(6)]
    assert parts == [350, 350, 350, 250, 250, 250]


def test_a_stopping_rule_that_sees_nothing_is_refused():
    with pytest.raises(ValidationError, match="leaves nothing for the stopping rule to see"):
        MindDiffuserSettings(held_out=0)
    assert MindDiffuserSettings(held_out=0, stopping="none").held_out == 0
