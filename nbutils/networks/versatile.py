"""Versatile Diffusion's image and text flows: two U-Nets that share one stack of context mixers.

A flow predicts the noise in a latent. *Data* layers follow what is generated (an image or a
caption), *context* layers follow what conditions it, so both flows use the same context layers.
Where a plain Stable Diffusion U-Net has one transformer, here is one per context kind; their
outputs are added with weights.

Source: Xu et al. 2023, "Versatile Diffusion", section 3.2, and the published four-flow code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from diffusers import Transformer2DModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.embeddings import Timesteps
from torch import Tensor, nn

from nbutils.networks.config import VersatileConfig
from nbutils.networks.stable import build_stable_unet

CONTEXT_KINDS = ("image", "text")

Contexts = Mapping[str, tuple[Tensor, "float | Tensor"]]
"""Context tokens (n, T, d) and mixing weight, by context kind."""


class ContextMixer(nn.ModuleDict):
    """One transformer per context kind; the outputs are added with weights.

    It stands where `UNet2DConditionModel` has one transformer and receives the contexts untouched
    through `cross_attention_kwargs={"contexts": {kind: (tokens, weight)}}`, so nothing is stored
    between calls. Every transformer keeps its own residual connection: with weights that sum to 1
    the mixture does too.
    """

    def __init__(self, transformers: Mapping[str, nn.Module]) -> None:
        super().__init__(dict(transformers))

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        cross_attention_kwargs: Mapping[str, Contexts] | None = None,
        **_: object,
    ) -> tuple[Tensor]:
        """Mix the contexts into `hidden_states` (n, channels, height, width), same shape out.

        Raises
        ------
        KeyError : a context kind this mixer has no transformer for
        ValueError : no context has a weight other than 0
        """
        contexts = (cross_attention_kwargs or {}).get("contexts", {})
        mixed = None
        for kind, (tokens, weight) in contexts.items():
            if kind not in self:
                raise KeyError(f"context {kind!r}: this network knows {list(self.keys())}")
            # A branch of weight 0 costs as much as the other one, so it is not run.
            if not torch.is_tensor(weight) and weight == 0:
                continue
            out = self[kind](hidden_states, encoder_hidden_states=tokens, return_dict=False)[0]
            # A single context of weight 1 stays bit-equal to the plain transformer.
            term = out if not torch.is_tensor(weight) and weight == 1 else weight * out
            mixed = term if mixed is None else mixed + term
        if mixed is None:
            raise ValueError("no context given: pass at least one of a weight other than 0")
        return (mixed,)


def build_image_unet(config: VersatileConfig) -> UNet2DConditionModel:
    """Build the image flow: a Stable Diffusion U-Net with a `ContextMixer` for each transformer.

    At `FULL` it has 1,126,760,324 parameters. Build it under `torch.device("meta")` when weights
    are loaded right after.
    """
    unet = build_stable_unet(config)
    for blocks in _attention_lists(unet):
        for i, transformer in enumerate(blocks):
            channels = transformer.in_channels
            blocks[i] = ContextMixer({k: _transformer(config, channels) for k in CONTEXT_KINDS})
    return unet


def _transformer(config: VersatileConfig, channels: int) -> Transformer2DModel:
    """Build the context layer of one kind: self-attention, cross-attention, feed-forward."""
    return Transformer2DModel(
        num_attention_heads=config.heads,
        attention_head_dim=channels // config.heads,
        in_channels=channels,
        num_layers=1,
        norm_num_groups=config.norm_groups,
        cross_attention_dim=config.context_dim,
    )


def _attention_lists(unet: UNet2DConditionModel) -> Iterator[nn.ModuleList]:
    """Yield the lists of transformers or mixers, in the order the U-Net runs them."""
    for block in [*unet.down_blocks, unet.mid_block, *unet.up_blocks]:
        if getattr(block, "has_cross_attention", False):
            yield block.attentions


def mixers(unet: UNet2DConditionModel) -> list[ContextMixer]:
    """Return the context mixers of an image U-Net in execution order (16 at full size)."""
    return [mixer for blocks in _attention_lists(unet) for mixer in blocks]


class FlatResBlock(nn.Module):
    """Residual block of the text U-Net, on features flattened to (n, channels * second_dim)."""

    def __init__(self, width_in: int, width_out: int, time_dim: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width_in)
        self.linear1 = nn.Linear(width_in, width_out)
        self.time_emb_proj = nn.Linear(time_dim, width_out)
        self.norm2 = nn.GroupNorm(groups, width_out)
        self.linear2 = nn.Linear(width_out, width_out)
        same = width_in == width_out
        self.shortcut = nn.Identity() if same else nn.Linear(width_in, width_out)
        self.act = nn.SiLU()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Map x (n, width_in) and the time embedding (n, time_dim) to (n, width_out)."""
        h = self.linear1(self.act(self.norm1(x))) + self.time_emb_proj(self.act(time))
        return self.shortcut(x) + self.linear2(self.act(self.norm2(h)))


class TextUNet(nn.Module):
    """The text flow: a U-Net without space, whose features are (channels, second_dim) per sample.

    Only the text data layers are parameters of this module. The mixers and the time embedding
    belong to the image U-Net and are referred to, not registered: they are moved, saved and trained
    with their owner, and `copy.deepcopy` of this module would copy them as well.

    Parameters
    ----------
    config : sizes
    mixers : `mixers(image_unet)`
    time_embedding : `image_unet.time_embedding`
    """

    def __init__(
        self, config: VersatileConfig, mixers: Sequence[ContextMixer], time_embedding: nn.Module
    ) -> None:
        super().__init__()
        self.config = config
        plan = block_plan(config)
        expected = sum(kind == "mix" for kind, *_ in plan)
        if len(mixers) != expected:
            raise ValueError(
                f"{len(mixers)} mixers given, this configuration has {expected}: "
                "build both flows from the same config"
            )
        # A tuple hides the modules from nn.Module's registration.
        self._shared = (tuple(mixers), time_embedding)
        self.time_proj = Timesteps(config.channels[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.blocks = nn.ModuleList(
            _build_text_block(config, step) for step in plan if step[0] in _DATA
        )
        self.norm_out = nn.GroupNorm(config.norm_groups, config.channels[0])
        self.linear_out = nn.Linear(
            config.channels[0] * config.text_second_dim, config.text_latent_dim
        )

    def forward(self, x: Tensor, t: Tensor | int, contexts: Contexts) -> Tensor:
        """Predict the noise (or v) in the text latents.

        Parameters
        ----------
        x : (n, text_latent_dim) noisy latents
        t : timestep 0..999, one for all or (n,)
        contexts : {kind: (tokens (n, T, d), weight)}

        Returns
        -------
        (n, text_latent_dim)
        """
        shared_mixers, time_embedding = self._shared
        time = time_embedding(self.time_proj(_expand(t, x)).to(x.dtype))
        blocks, mixing, stack = iter(self.blocks), iter(shared_mixers), []
        for kind, *_ in block_plan(self.config):
            if kind == "save":
                stack.append(x)
            elif kind == "load":
                # Features are flattened channel-major, so this joins channels, not tokens.
                x = torch.cat([x, stack.pop()], dim=1)
            elif kind == "res":
                x = next(blocks)(x, time)
            elif kind == "mix":
                x = self._mix(next(mixing), x, contexts)
            else:
                x = next(blocks)(x)
        h = self.norm_out(x.unflatten(1, (-1, self.config.text_second_dim))).flatten(1)
        return self.linear_out(nn.functional.silu(h))

    def _mix(self, mixer: ContextMixer, x: Tensor, contexts: Contexts) -> Tensor:
        """Show the mixer the flat features as an image of second_dim x 1 pixels."""
        h = x.reshape(len(x), -1, self.config.text_second_dim, 1)
        return mixer(h, cross_attention_kwargs={"contexts": contexts})[0].flatten(1)


_DATA = ("in", "res", "resample")


def block_plan(config: VersatileConfig) -> list[tuple]:
    """List the steps of a U-Net in execution order, the same for both flows.

    Returns
    -------
    list of ("in", c) | ("res", c_in, c_out) | ("resample", c) | ("mix", c) | ("save",) | ("load",):
    the first layer, a residual block, a down- or upsampler, a context mixer, keep a skip
    connection, join the newest one. The output layer is not listed.
    """
    plan: list[tuple] = [("in", config.channels[0]), ("save",)]
    skips = [config.channels[0]]
    current = config.channels[0]
    last = len(config.channels) - 1
    for level, (count, attention) in enumerate(zip(config.channels, config.attention, strict=True)):
        for _ in range(config.layers_per_block):
            plan += _layer(current, count, attention) + [("save",)]
            current = count
            skips.append(current)
        if level < last:
            plan += [("resample", current), ("save",)]
            skips.append(current)
    plan += [("res", current, current), ("mix", current), ("res", current, current)]
    for level in range(last, -1, -1):
        count = config.channels[level]
        for _ in range(config.layers_per_block + 1):
            plan += [("load",)] + _layer(current + skips.pop(), count, config.attention[level])
            current = count
        if level > 0:
            plan.append(("resample", current))
    return plan


def _layer(count_in: int, count_out: int, attention: bool) -> list[tuple]:
    """One residual block and, where the level has attention, its mixer."""
    return [("res", count_in, count_out)] + ([("mix", count_out)] if attention else [])


def _build_text_block(config: VersatileConfig, step: tuple) -> nn.Module:
    """Build the text data layer of one step of the plan."""
    kind, *channels = step
    widths = [c * config.text_second_dim for c in channels]
    if kind == "in":
        return nn.Linear(config.text_latent_dim, widths[0])
    if kind == "resample":
        return nn.Linear(widths[0], widths[0])
    return FlatResBlock(*widths, time_dim=4 * config.channels[0], groups=config.norm_groups)


def build_flows(config: VersatileConfig) -> tuple[UNet2DConditionModel, TextUNet]:
    """Build both flows on one stack of mixers, with random weights."""
    unet = build_image_unet(config)
    return unet, TextUNet(config, mixers(unet), unet.time_embedding)


def image_flow(
    unet: UNet2DConditionModel, x: Tensor, t: Tensor | int, contexts: Contexts
) -> Tensor:
    """Predict the noise (or v) in image latents x (n, c, h, w) at timestep t; same shape out.

    The network computes in the precision of its weights; x keeps its own, so a sampler can
    accumulate in float32 over a half-precision network.
    """
    dtype = unet.conv_in.weight.dtype
    kwargs = {"contexts": _cast(contexts, dtype)}
    return unet(x.to(dtype), t, None, cross_attention_kwargs=kwargs, return_dict=False)[0].to(x)


def text_flow(net: TextUNet, x: Tensor, t: Tensor | int, contexts: Contexts) -> Tensor:
    """Predict the noise (or v) in text latents x (n, text_latent_dim) at timestep t.

    Precision as in `image_flow`.
    """
    dtype = net.linear_out.weight.dtype
    return net(x.to(dtype), t, _cast(contexts, dtype)).to(x)


def _cast(contexts: Contexts, dtype: torch.dtype) -> dict[str, tuple[Tensor, float | Tensor]]:
    """Bring tokens, and weights that are tensors, to the precision of the network."""
    return {
        kind: (tokens.to(dtype), weight.to(dtype) if torch.is_tensor(weight) else weight)
        for kind, (tokens, weight) in contexts.items()
    }


def set_attention(net: nn.Module, kind: str = "sdpa") -> None:
    """Choose how attention is computed, everywhere in a network.

    Parameters
    ----------
    net : an image U-Net (the text flow shares its mixers)
    kind : "sdpa", fused, least memory; or "plain", two matrix products, faster on a CPU for the
        few tokens of small latents and for training there. Equal up to rounding.
    """
    processors = {"sdpa": AttnProcessor2_0, "plain": AttnProcessor}
    if kind not in processors:
        raise ValueError(f"attention {kind!r}: choose one of {sorted(processors)}")
    for module in net.modules():
        if hasattr(module, "set_processor"):
            module.set_processor(processors[kind]())


def _expand(t: Tensor | int, x: Tensor) -> Tensor:
    """Give every sample of x its timestep, (n,)."""
    return torch.as_tensor(t, device=x.device).reshape(-1).expand(len(x))
