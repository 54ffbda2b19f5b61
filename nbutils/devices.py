"""Which processor the networks run on."""

from __future__ import annotations


def find_device(device: str) -> str:
    """Return the device to use, after checking that it is there.

    Parameters
    ----------
    device : str
        `"auto"` (CUDA, then Apple's MPS, then the CPU), `"cpu"`, `"cuda"`, `"cuda:1"` or `"mps"`.

    Raises
    ------
    ValueError
        If it is no device, or torch does not find it on this machine.
    """
    if device == "cpu":
        return device
    import torch  # only here: two seconds that a CPU run's checks need not wait for

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    kind, _, index = device.partition(":")
    if kind not in ("cuda", "mps") or (index and not index.isdigit()):
        raise ValueError(f"device={device!r}: say 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'")
    if not (cuda if kind == "cuda" else mps):
        raise ValueError(f"device={device!r}: torch finds no such device here; say 'auto' or 'cpu'")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device={device!r}: the GPUs here are numbered 0 to {torch.cuda.device_count() - 1}; "
            "say 'cuda:0' or 'auto'"
        )
    return device


def find_precision(precision: str, device: str) -> str:
    """Return the floats to compute in, after checking that the device has them.

    Parameters
    ----------
    precision : str
        `"auto"` (float32 on a CPU, float16 on a GPU, as published), `"float32"`, `"float16"` or
        `"bfloat16"`. A CPU takes all of them; 16 bits are slow there and good for rehearsals.
    device : str
        As `find_device` returned it.

    Raises
    ------
    ValueError
        If there is no such precision, or a GPU that would only emulate it (bfloat16 before
        NVIDIA's Ampere, such as the T4).
    """
    if precision == "auto":
        return "float32" if device == "cpu" else "float16"
    if precision not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"precision={precision!r}: say 'auto', 'float32', 'float16' or 'bfloat16'")
    if precision == "bfloat16" and device.startswith("cuda"):
        import torch

        with torch.cuda.device(device):
            known = torch.cuda.is_bf16_supported(including_emulation=False)
        if not known:
            raise ValueError(
                f"precision='bfloat16': the GPU {device} does not compute in it; say 'float16', "
                "which every GPU does"
            )
    return precision
