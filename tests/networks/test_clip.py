"""CLIP contexts against the original's numbers, transformers' own embeddings, and PIL."""

import numpy as np
import pytest
import torch
from golden_parts import golden_network, photographs, read_golden, word_tokenizer
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from nbutils.networks.clip import ClipEncoder

CALL = {"atol": 1e-5, "rtol": 0}
WORDS = "a dog cat on the beach red boat"


@pytest.fixture(scope="module")
def net() -> ClipEncoder:
    return golden_network("clip")


@pytest.fixture(scope="module")
def reader() -> ClipEncoder:
    """The golden network with a tokenizer of a few words."""
    config = read_golden("clip_tiny").json
    ids = {"[UNK]": 0, "<start>": 97, "<end>": 98}
    encoder = ClipEncoder(config, word_tokenizer(WORDS, "<start>", "<end>", ids))
    encoder.load_state_dict(golden_network("clip").state_dict())
    return encoder.eval()


def test_tokens_equal_the_original(net):
    golden = read_golden("clip_tiny")
    text = net.project_ids(golden.inputs["input_ids"])
    image = net.project_pixels(golden.inputs["pixel_values"])
    torch.testing.assert_close(text, golden.outputs["text_tokens_vd"], **CALL)
    torch.testing.assert_close(image, golden.outputs["image_tokens_vd"], **CALL)


def test_pooled_embeddings_equal_transformers_clip(reader):
    golden = read_golden("clip_tiny")
    shared = {"projection_dim": golden.json["projection_dim"]}
    parts = {k: golden.json[k] for k in ("text_config", "vision_config")}
    theirs = CLIPModel(CLIPConfig(**parts, **shared)).eval()
    theirs.load_state_dict(golden.state)
    images, captions = np.stack([p[:256, :256] for p in photographs()]), ["a red boat", "the dog"]
    with torch.no_grad():
        result = theirs(
            input_ids=reader.token_ids(captions), pixel_values=reader.preprocess(images)
        )
    torch.testing.assert_close(reader.image_embedding(images), result.image_embeds, **CALL)
    torch.testing.assert_close(reader.text_embedding(captions), result.text_embeds, **CALL)


@pytest.mark.parametrize("photograph", photographs(), ids=["512x512", "400x600", "300x451"])
def test_preprocessing_is_pil_bicubic_centre_crop_and_openai_statistics(net, photograph):
    height, width = photograph.shape[:2]
    scale = 28 / min(height, width)
    size = (
        28 if width <= height else int(width * scale),
        28 if height <= width else int(height * scale),
    )
    resized = Image.fromarray(photograph).resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - 28) // 2, (size[1] - 28) // 2
    crop = np.asarray(resized.crop((left, top, left + 28, top + 28)), np.float64) / 255
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    expected = torch.from_numpy(((crop - mean) / std).transpose(2, 0, 1)).float()
    ours = net.preprocess(photograph[None])[0]
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def test_statistics_come_from_the_configuration():
    config = {**read_golden("clip_tiny").json, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    image = np.arange(28 * 28 * 3, dtype=np.uint8).reshape(1, 28, 28, 3)
    expected = torch.from_numpy(image).permute(0, 3, 1, 2) / 127.5 - 1
    torch.testing.assert_close(ClipEncoder(config).preprocess(image), expected, atol=1e-6, rtol=0)


def test_photographs_give_finite_repeatable_and_different_tokens(net):
    tokens = torch.cat([net.image_tokens(p[None]) for p in photographs()])
    assert tokens.shape == (3, *net.image_shape) == (3, 17, 24)
    assert torch.isfinite(tokens).all()
    assert torch.equal(tokens[:1], net.image_tokens(photographs()[0][None]))
    torch.testing.assert_close(tokens[:, 0].norm(dim=-1), torch.ones(3), **CALL)
    assert torch.cdist(tokens.flatten(1), tokens.flatten(1))[0, 1:].min() > 0.01


def test_float_images_are_refused(net):
    with pytest.raises(TypeError, match="float64: pass uint8"):
        net.image_tokens(photographs()[0][None] / 255)
    with pytest.raises(ValueError, match="expected \\(n, height, width, 3\\)"):
        net.image_tokens(photographs()[0])


def test_captions_are_cut_padded_and_closed_with_the_end_token(reader):
    ids = reader.token_ids(["a dog", "a dog " * 20])
    assert ids[0].tolist() == [97, 3, 4] + [98] * 13
    assert ids.shape == (2, 16) and ids[1, -1] == 98 and ids[1, :-1].ne(98).all()


def test_caption_context_is_the_mean_over_captions(reader):
    first, second = reader.text_tokens(["a red boat"]), reader.text_tokens(["the dog"])
    both = reader.caption_tokens([["a red boat", " ", "the dog"], ["the dog"]])
    torch.testing.assert_close(both[:1], (first + second) / 2, **CALL)
    torch.testing.assert_close(both[1:], second, **CALL)
    with pytest.raises(ValueError, match=r"Images \[1\] have no caption"):
        reader.caption_tokens([["a dog"], [""]])


def test_end_token_2_pools_the_end_and_not_the_highest_id():
    # transformers treats eos_token_id=2 as a known mistake and pools the highest id instead
    config = read_golden("clip_tiny").json
    text = {**config["text_config"], "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    encoder = ClipEncoder({**config, "text_config": text}).eval()
    ids = torch.tensor([[1, 50, 90, 2, 0, 0]])
    norms = encoder.project_ids(ids).norm(dim=-1)[0]
    torch.testing.assert_close(norms[3], torch.tensor(1.0), **CALL)
    assert (norms[2] - 1).abs() > 1e-3


def test_tokenizer_that_disagrees_with_the_configuration_is_refused():
    config = read_golden("clip_tiny").json
    text = {**config["text_config"], "eos_token_id": 2}
    words = word_tokenizer(WORDS, "<start>", "<end>", {"[UNK]": 0, "<start>": 97, "<end>": 98})
    encoder = ClipEncoder({**config, "text_config": text}, words)
    with pytest.raises(ValueError, match="no end token 2"):
        encoder.text_tokens(["dog"])


def test_unconditional_contexts(reader):
    size = (1, 28, 28, 3)
    grey, black, zeros = (reader.unconditional(kind) for kind in ("grey", "black", "zeros"))
    assert torch.equal(grey["image"], reader.image_tokens(np.full(size, 127, np.uint8)))
    assert torch.equal(black["image"], reader.image_tokens(np.zeros(size, np.uint8)))
    assert zeros["image"].shape == (1, *reader.image_shape) and not zeros["image"].any()
    assert torch.equal(grey["text"], reader.text_tokens([""]))
    assert grey["text"].shape == (1, *reader.text_shape)
    # grey is near the mean of photographs; scaling it twice by mistake would make it black
    assert reader.preprocess(np.full(size, 127, np.uint8)).mean().item() == pytest.approx(
        0.18, abs=0.02
    )
    with pytest.raises(ValueError, match="grey, black, zeros"):
        reader.unconditional("white")


def test_text_without_tokenizer_is_explained(net):
    with pytest.raises(ValueError, match="without a tokenizer"):
        net.text_tokens(["a dog"])
    with pytest.raises(ValueError, match="pass a list"):
        net.text_tokens("a dog")
