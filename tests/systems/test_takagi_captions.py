"""Captions from BLIP embeddings, against transformers' own way from image to caption."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BlipConfig, BlipForConditionalGeneration

from nbutils.systems.takagi_captions import PUBLISHED, BlipCaptioner

WORDS = ("[PAD]", "[CLS]", "[SEP]", "[DEC]", "[UNK]", "a", "picture", "of", "cat", "dog", "red")
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 2}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny BLIP with random weights, in the layout of the published one."""
    folder = tmp_path_factory.mktemp("blip")
    torch.manual_seed(0)
    text = {
        **SMALL, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "pad_token_id": 0,
        "bos_token_id": 3, "eos_token_id": 2, "sep_token_id": 2, "max_position_embeddings": 32,
    }  # fmt: skip
    vision = {**SMALL, "image_size": 32, "patch_size": 16}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_captions_of_true_embeddings_are_those_of_transformers(folder):
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    captioner = BlipCaptioner(folder, image_size=32)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    pixels = torch.tensor((images / 255 - mean) / std).float().permute(0, 3, 1, 2)
    model = BlipForConditionalGeneration.from_pretrained(folder).eval()
    # generate() drops the last token of the prompt, here [SEP].
    prompt = torch.tensor([[1, 5, 6, 7, 2]] * 3)
    ids = model.generate(pixel_values=pixels, input_ids=prompt, **PUBLISHED)
    expected = captioner.tokenizer.batch_decode(ids[:, 4:], skip_special_tokens=True)
    embeddings = captioner.encode(images)
    torch.testing.assert_close(embeddings, model.vision_model(pixels).last_hidden_state)
    assert captioner.describe(embeddings) == expected
    assert any(expected)


def test_other_embeddings_can_be_described(folder):
    captioner = BlipCaptioner(folder, image_size=32)
    decoded = np.random.default_rng(1).normal(size=(2, 5, 16))
    assert len(captioner.describe(decoded)) == 2


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        BlipCaptioner(tmp_path)
