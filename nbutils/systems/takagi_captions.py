"""Captions as in Takagi & Nishimoto's technical paper: BLIP's text decoder on decoded embeddings.

BLIP describes an image in two halves: an image tower gives embeddings, a text decoder reads them
and writes. The technical paper decodes the embeddings from the brain and lets the text decoder
speak. Both halves are transformers' own classes; no weights of them come with this project.

Source: Takagi & Nishimoto 2023 (arXiv 2306.11536) and their `decode_captions.py`; Li et al. 2022
(BLIP), `models/blip.py`, with the model capfilt-large and images of 240 pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from transformers import BlipForConditionalGeneration, PreTrainedTokenizerFast
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from nbutils.networks import pictures

PUBLISHED = {"num_beams": 3, "max_length": 20, "min_length": 5, "repetition_penalty": 1.5}
"""Beam search of the published code."""


class BlipCaptioner:
    """BLIP's image tower and text decoder, from a folder in the Hugging Face format.

    Parameters
    ----------
    folder : with config.json, model.safetensors and tokenizer.json, such as those of
        Salesforce/blip-image-captioning-base
    device : where it computes
    image_size : side of the images, pixels (published: 240, positions are interpolated)
    prompt : how every caption begins; it is cut off (the published code's "a picture of ")

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    """

    def __init__(
        self,
        folder: str | Path,
        device: str = "cpu",
        *,
        image_size: int = 240,
        prompt: str = "a picture of ",
    ) -> None:
        folder = Path(folder)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder / name} is missing: captions of this kind need BLIP's own files"
                )
        self.model = (
            BlipForConditionalGeneration.from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            )
            .to(device)
            .eval()
        )
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
        self.image_size = image_size
        words = self.tokenizer(prompt)["input_ids"]
        # The first token says "decode" instead of "start", and the caption goes on after the last.
        self._start = [self.model.config.text_config.bos_token_id, *words[1:-1]]

    @torch.inference_mode()
    def encode(self, images: NDArray[np.uint8]) -> Tensor:
        """Return the image embeddings, (n, T, d); (226, 768) each at the published size.

        Parameters
        ----------
        images : (n, H, W, 3) uint8
        """
        pixels = pictures.resize(images, self.image_size, "bicubic") / 255
        pixels = (pixels - OPENAI_CLIP_MEAN) / OPENAI_CLIP_STD
        pixels = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2)
        pixels = pixels.to(self.model.device)
        seen = self.model.vision_model(pixel_values=pixels, interpolate_pos_encoding=True)
        return seen.last_hidden_state

    @torch.inference_mode()
    def describe(self, embeddings: ArrayLike | Tensor) -> list[str]:
        """Write a caption from each image's embeddings (n, T, d), true or decoded."""
        tower = self.model.text_decoder
        given = torch.as_tensor(np.asarray(embeddings), dtype=tower.dtype, device=tower.device)
        config = self.model.config.text_config
        ids = tower.generate(
            input_ids=torch.tensor([self._start], device=tower.device).repeat(len(given), 1),
            encoder_hidden_states=given,
            encoder_attention_mask=torch.ones(given.shape[:2], device=tower.device),
            eos_token_id=config.sep_token_id,
            pad_token_id=config.pad_token_id,
            **PUBLISHED,
        )
        written = ids[:, len(self._start) :]
        return [
            " ".join(text.split())
            for text in self.tokenizer.batch_decode(written, skip_special_tokens=True)
        ]
