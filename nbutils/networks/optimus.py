"""Optimus: a sentence autoencoder, BERT into one latent vector and GPT-2 out of it.

Versatile Diffusion generates captions in this latent space (Z_T). The encoder is BERT with one
linear layer; the decoder is GPT-2 which receives the latent twice: as one extra past position in
every layer ("memory") and added to every token embedding ("embedding").

Sources: Li et al. 2020 (Optimus), section 3.2; SHI-Labs/Versatile-Diffusion,
`lib/model_zoo/optimus.py` and `optimus_models/optimus_gpt2.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, DynamicCache, GPT2Config, GPT2Model

from nbutils.networks.randomness import Generators, draw_uniform

WORD_PIECES = 77  # Versatile Diffusion cuts captions here, before [CLS] and [SEP] are added


class Optimus(nn.Module):
    """Sentence encoder and decoder around one latent vector per caption.

    Parameters
    ----------
    config : dict
        `bert` (keywords of `transformers.BertConfig`), `gpt2` (of `GPT2Config`), `latent_size`
        (d_z), `max_length` (tokens of a decoded caption, the start token included) and the
        GPT-2 ids `bos`, `eos`, `pad`.
    tokenizers : mapping, optional
        `{"bert": tokenizer, "gpt2": tokenizer}`, `transformers.PreTrainedTokenizerFast`; needed
        only by the methods that take or return text.

    Notes
    -----
    The output layer of GPT-2 is tied to its token embedding, so it has no weight of its own and
    every tensor appears once in the state dict (`bert.*`, `encode_latent.weight`, `gpt2.*`,
    `memory.weight`, `embedding.weight`).
    """

    def __init__(self, config: Mapping, tokenizers: Mapping | None = None) -> None:
        super().__init__()
        self.config = dict(config)
        self.tokenizers = dict(tokenizers or {})
        self.bert = BertModel(BertConfig(**config["bert"]))
        special = {f"{name}_token_id": config[name] for name in ("bos", "eos", "pad")}
        self.gpt2 = GPT2Model(GPT2Config(**{**special, **config["gpt2"]}))
        latent, hidden = config["latent_size"], self.bert.config.hidden_size
        width, layers = self.gpt2.config.n_embd, self.gpt2.config.n_layer
        positions = self.gpt2.config.n_positions
        if positions <= config["max_length"]:
            raise ValueError(
                f"gpt2.n_positions={positions} is too small for max_length="
                f"{config['max_length']}: the latent takes one position, so use at least "
                f"{config['max_length'] + 1}."
            )
        self.encode_latent = nn.Linear(hidden, 2 * latent, bias=False)
        self.memory = nn.Linear(latent, layers * width, bias=False)
        self.embedding = nn.Linear(latent, width, bias=False)

    @property
    def latent_size(self) -> int:
        """Length of the latent vector, d_z."""
        return self.config["latent_size"]

    def encode_ids(self, ids: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode tokenised captions to the Gaussian posterior of the latent.

        Parameters
        ----------
        ids : (n, T) int64, BERT word pieces with [CLS] and [SEP], padded on the right
        mask : (n, T), 1 for a word piece and 0 for padding; default: `ids > 0`

        Returns
        -------
        mu, logvar : (n, d_z) each
        """
        mask = ids.gt(0) if mask is None else mask
        pooled = self.bert(input_ids=ids, attention_mask=mask.long()).pooler_output
        mu, logvar = self.encode_latent(pooled).chunk(2, dim=-1)
        return mu, logvar

    def decoder_logits(self, ids: Tensor, z: Tensor) -> Tensor:
        """Predict the next token at every position of given captions (teacher forcing).

        Right padding needs no mask: attention is causal, so padding cannot reach the words
        before it. Ignore the padded positions in the loss.

        Parameters
        ----------
        ids : (n, T) int64, GPT-2 tokens, starting with the start token
        z : (n, d_z) latent

        Returns
        -------
        logits : (n, T, vocabulary); `logits[:, t]` predicts `ids[:, t + 1]`
        """
        return self._continue(ids, z, self.remember(z))

    def remember(self, z: Tensor) -> DynamicCache:
        """Put the latent into a key-value cache as one past position per layer.

        Key and value are the same vector: `linear(z)` cut into layers and heads.

        Parameters
        ----------
        z : (n, d_z) latent

        Returns
        -------
        cache : transformers.DynamicCache holding one position
        """
        config = self.gpt2.config
        past = self.memory(z.to(self.memory.weight.dtype))
        past = past.view(len(z), config.n_layer, config.n_head, 1, -1)
        cache = DynamicCache()
        for layer in range(config.n_layer):
            cache.update(past[:, layer], past[:, layer], layer)
        return cache

    def _continue(self, ids: Tensor, z: Tensor, cache: DynamicCache) -> Tensor:
        """Return the logits of `ids` after what the cache already holds; extends the cache."""
        words = self.gpt2.wte(ids)
        words = words + self.embedding(z.to(self.embedding.weight.dtype))[:, None]
        start = cache.get_seq_length()
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)[None]
        hidden = self.gpt2(
            inputs_embeds=words, past_key_values=cache, position_ids=positions, use_cache=True
        ).last_hidden_state
        return F.linear(hidden, self.gpt2.wte.weight)

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> Tensor:
        """Encode captions to latents (the posterior mean, Z_T; nothing is drawn at random).

        Parameters
        ----------
        captions : n sentences

        Returns
        -------
        mu : (n, d_z)

        Raises
        ------
        ValueError
            If there are no captions, or no tokenizer was given.
        """
        return self.encode_ids(*self.encoder_ids(captions))[0]

    def encoder_ids(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokenise captions for BERT: lower case, at most 77 word pieces, [CLS] and [SEP].

        Lower-casing although the vocabulary is cased is what Versatile Diffusion was trained on.

        Parameters
        ----------
        captions : n sentences

        Returns
        -------
        ids, mask : (n, T) int64 each, padded on the right to the longest caption
        """
        if isinstance(captions, str) or len(captions) == 0:
            raise ValueError(f"captions={captions!r}: pass a list with at least one caption.")
        tokenizer = self._tokenizer("bert")
        limit = min(WORD_PIECES + 2, self.bert.config.max_position_embeddings)
        rows = [
            tokenizer(caption.lower(), truncation=True, max_length=limit)["input_ids"]
            for caption in captions
        ]
        return self._pad(rows, self.bert.config.pad_token_id or 0)

    def decoder_ids(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokenise captions for GPT-2: start token, words, end token.

        A space is put before each caption, as the tokenizer of the original code did.

        Parameters
        ----------
        captions : n sentences

        Returns
        -------
        ids, mask : (n, T) int64 each, padded on the right, T at most `max_length`
        """
        tokenizer, config = self._tokenizer("gpt2"), self.config
        rows = []
        for caption in captions:
            words = tokenizer(" " + caption.strip(), add_special_tokens=False)["input_ids"]
            words = words[: config["max_length"] - 2]
            rows.append([config["bos"], *words, config["eos"]])
        return self._pad(rows, config["pad"])

    def _pad(self, rows: Sequence[Sequence[int]], value: int) -> tuple[Tensor, Tensor]:
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), value, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        device = self.memory.weight.device
        return ids.to(device), mask.to(device)

    def _tokenizer(self, name: str):
        if name not in self.tokenizers:
            raise ValueError(
                f"Optimus was built without the {name} tokenizer: pass tokenizers="
                '{"bert": ..., "gpt2": ...} to work with text.'
            )
        return self.tokenizers[name]

    @torch.no_grad()
    def decode(
        self,
        z: Tensor,
        temperature: float = 0.0,
        generator: Generators = None,
        max_length: int | None = None,
        keep_last_word: bool = False,
    ) -> list[str]:
        """Decode latents to captions.

        Parameters
        ----------
        z : (n, d_z) latents
        temperature : 0 takes the most probable token; 1 draws as Versatile Diffusion does
        generator : random numbers for temperature > 0. One generator, or one per caption (then
            a caption does not depend on its neighbours in the batch).
        max_length : tokens of a caption, the start token included; default from the config (30)
        keep_last_word : what to do when the limit is reached without an end token. False, as
            published: the last token becomes the end token and its word is lost. True: keep it.

        Returns
        -------
        captions : n strings, without start and end token

        Raises
        ------
        ValueError
            If temperature > 0 comes without a generator.
        """
        length = self._checked_length(max_length)
        if temperature > 0 and generator is None:
            raise ValueError(f"temperature={temperature} draws at random: pass a seeded generator.")
        uniforms = draw_uniform((len(z), length), generator) if temperature > 0 else None
        ids = self.decode_ids(z, temperature, uniforms, length, keep_last_word)
        return [self.read_ids(row) for row in ids.tolist()]

    @torch.no_grad()
    def decode_ids(
        self,
        z: Tensor,
        temperature: float = 0.0,
        uniforms: Tensor | None = None,
        max_length: int | None = None,
        keep_last_word: bool = False,
    ) -> Tensor:
        """Decode latents to token ids.

        Parameters
        ----------
        z : (n, d_z) latents
        temperature : 0 for the most probable token, otherwise the distribution is sampled
        uniforms : (n, max_length) in [0, 1); column t decides token t + 1 (inverse distribution
            function); needed when temperature > 0
        max_length, keep_last_word : see `decode`

        Returns
        -------
        ids : (n, max_length) int64 from start to end token, -1 after the end
        """
        length, eos = self._checked_length(max_length), self.config["eos"]
        z = z.to(self.memory.weight.device)
        ids = torch.full((len(z), length), -1, dtype=torch.int64, device=z.device)
        ids[:, 0] = self.config["bos"]
        open_rows = torch.ones(len(z), dtype=torch.bool, device=z.device)
        cache = self.remember(z)
        for t in range(1, length):
            logits = self._continue(ids[:, t - 1 : t].clamp(min=0), z, cache)[:, -1].float()
            drawn = None if uniforms is None else uniforms[:, t - 1]
            token = choose_token(logits, temperature, drawn)
            ids[open_rows, t] = token[open_rows]
            open_rows = open_rows & token.ne(eos)
            if not open_rows.any():
                break
        if not keep_last_word:
            ids[open_rows, length - 1] = eos
        return ids

    def read_ids(self, ids: Sequence[int]) -> str:
        """Turn one row of decoded ids into text, without start token, end token and padding."""
        special = {self.config["bos"], self.config["eos"], self.config["pad"], -1}
        words = [token for token in ids if token not in special]
        text = self._tokenizer("gpt2").decode(words, clean_up_tokenization_spaces=False)
        return close_spaces(" ".join(text.split()))

    def _checked_length(self, max_length: int | None) -> int:
        length = self.config["max_length"] if max_length is None else max_length
        limit = self.gpt2.config.n_positions - 1
        if not 2 <= length <= limit:
            raise ValueError(
                f"max_length={length}: this GPT-2 has {limit} positions beside the latent, "
                f"so choose 2 to {limit}."
            )
        return length


def choose_token(logits: Tensor, temperature: float, uniforms: Tensor | None) -> Tensor:
    """Choose one token per row: the most probable, or drawn by inverting the distribution.

    Parameters
    ----------
    logits : (n, vocabulary)
    temperature : 0 for the most probable token
    uniforms : (n,) in [0, 1), used when temperature > 0

    Returns
    -------
    token : (n,) int64
    """
    if temperature < 0:
        raise ValueError(f"temperature={temperature}: use 0 (most probable) or more.")
    if temperature == 0:
        return logits.argmax(dim=-1)
    if uniforms is None:
        raise ValueError(f"temperature={temperature} draws at random: pass uniforms.")
    probabilities = torch.softmax(logits / temperature, dim=-1)
    # float64: a float32 sum over 50,000 tokens is off by more than many a token's probability
    total = probabilities.double().cumsum(dim=-1)
    threshold = uniforms.to(total).unsqueeze(1) * total[:, -1:]
    token = torch.searchsorted(total, threshold, right=True).squeeze(1)
    return token.clamp(max=logits.shape[-1] - 1)


def close_spaces(text: str) -> str:
    """Remove the space before punctuation and contractions ("a board ." -> "a board.").

    The original code relied on its tokenizer for this; today's tokenizers no longer do it.
    """
    for mark in (".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"):
        text = text.replace(f" {mark}", mark)
    return text


def remove_repeated_phrases(text: str, longest: int = 5) -> str:
    """Remove phrases that are said twice in a row ("a man a man riding" -> "a man riding").

    Single words and phrases of up to `longest` words are compared without regard to case. The
    routine of the published caption decoder is not public; this is the plain reading of it.

    Parameters
    ----------
    text : a caption
    longest : words of the longest phrase looked for

    Returns
    -------
    text : the caption with each immediate repetition said once
    """
    words = text.split()
    changed = True
    while changed:
        changed = False
        for size in range(longest, 0, -1):
            kept = _drop_repeats(words, size)
            changed = changed or len(kept) < len(words)
            words = kept
    return " ".join(words)


def _drop_repeats(words: list[str], size: int) -> list[str]:
    kept: list[str] = []
    for word in words:
        kept.append(word)
        tail = [w.lower() for w in kept[-2 * size :]]
        if len(tail) == 2 * size and tail[:size] == tail[size:]:
            del kept[-size:]
    return kept
