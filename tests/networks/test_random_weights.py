"""Random weights: no file needed, the same each time, finite in 16 bits, and always marked."""

import dataclasses

import numpy as np
import pytest
import torch

from nbutils import caveats
from nbutils.networks.checkpoints import FULL_NETWORKS
from nbutils.networks.loading import load
from nbutils.networks.random_weights import draw_tensor, make_tokenizer
from nbutils.systems import brain_diffuser, unibrain
from nbutils.systems.settings import Settings
from nbutils.world import WORLDS

MINIATURE = WORLDS["miniature"].networks
CPU = torch.device("cpu")
SENTENCE = "A red DOG, on the beach – très joli."


@pytest.fixture(autouse=True)
def fresh():
    """Leave no sentence behind for other tests."""
    yield
    caveats.forget()


@pytest.fixture
def bare(tmp_path):
    """A networks directory that holds sizes and nothing else."""
    (tmp_path / "networks.json").write_bytes((MINIATURE / "networks.json").read_bytes())
    return tmp_path


def test_a_tensor_depends_on_its_key_only():
    shape = torch.Size((64, 32))
    first, again = (draw_tensor("a/one.weight", shape, CPU) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, draw_tensor("a/two.weight", shape, CPU))
    assert first.std() == pytest.approx(0.5 / 32**0.5, rel=0.1)
    assert draw_tensor("a/norm.weight", torch.Size((7,)), CPU).eq(1).all()
    assert draw_tensor("a/norm.bias", torch.Size((7,)), CPU).eq(0).all()


def test_without_any_file_the_networks_have_the_published_sizes(tmp_path):
    networks = load(tmp_path / "none", dtype="bfloat16", weights="random", memory="4GB")
    assert networks.config == FULL_NETWORKS
    assert networks.autokl.encoder.conv_in.weight.shape == (128, 3, 3, 3)
    assert caveats.said() == (caveats.MEANINGLESS,)
    with pytest.raises(FileNotFoundError, match="missing"):
        load(tmp_path / "none")


def test_refilled_networks_are_the_same(bare):
    networks = load(bare, weights="random")
    before = networks.clip.text_projection.weight.clone()
    networks.release()
    assert torch.equal(networks.clip.text_projection.weight, before)
    assert torch.equal(load(bare, weights="random").clip.text_projection.weight, before)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_everything_runs_and_stays_finite(bare, dtype):
    networks = load(bare, dtype=dtype, weights="random")
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    predicted = {
        "autokl": networks.autokl.encode(images),
        "clip_image": networks.clip.image_tokens(images),
        "clip_text": networks.clip.caption_tokens([[SENTENCE], ["a cat", "two cats"]]),
        "optimus": networks.optimus.encode([SENTENCE, "a cat"]),
        "vdvae": networks.vdvae.latents(images, 3),
    }
    predicted = {name: values.float().numpy() for name, values in predicted.items()}
    assert all(np.isfinite(values).all() for values in predicted.values())
    settings = Settings.careful(steps=2)
    pictures = brain_diffuser.reconstruct(networks, predicted, settings, [0, 1], progress=False)
    for found in pictures.values():
        assert found.std() > 0 and found.dtype == np.uint8
    captions = unibrain.caption(networks, predicted, settings, [0, 1], progress=False)
    assert all(isinstance(caption, str) for caption in captions)


@pytest.mark.parametrize("size", ["published", "miniature"])
@pytest.mark.parametrize("name", ["clip", "bert", "gpt2"])
def test_any_caption_is_encoded_and_any_ids_are_read(name, size, bare):
    config = FULL_NETWORKS if size == "published" else load(bare, weights="random").config
    tokenizer = make_tokenizer(name, config)
    vocabulary = {
        "clip": config.clip["text_config"]["vocab_size"],
        "bert": config.optimus["bert"]["vocab_size"],
        "gpt2": config.optimus["gpt2"]["vocab_size"],
    }[name]
    ids = tokenizer(SENTENCE)["input_ids"]
    assert len(ids) > 20 and max(ids) < vocabulary and len(tokenizer) == vocabulary
    text = tokenizer.decode(list(range(vocabulary)))
    assert len(text.split()) >= vocabulary - 10


def test_special_tokens_are_those_of_the_published_vocabularies():
    ids = {name: make_tokenizer(name, FULL_NETWORKS)("a")["input_ids"] for name in ("clip", "bert")}
    assert (ids["clip"][0], ids["clip"][-1]) == (49406, 49407)
    assert (ids["bert"][0], ids["bert"][-1]) == (101, 102)


def test_stored_tokenizers_are_used_where_they_lie(bare):
    made_up = load(bare, weights="random").tokenizer("clip")
    stored = load(MINIATURE, weights="random").tokenizer("clip")
    assert stored.get_vocab() == load(MINIATURE).tokenizer("clip").get_vocab()
    assert made_up.get_vocab() != stored.get_vocab()


def test_a_configuration_without_stable_diffusion_says_so(bare):
    whole = load(bare, weights="random").config
    dataclasses.replace(whole, stable={}).to_json(bare / "networks.json")
    with pytest.raises(ValueError, match="no 'stable_unet': this world does not have that network"):
        _ = load(bare, weights="random").stable_unet
