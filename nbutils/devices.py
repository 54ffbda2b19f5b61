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
            f"device={device!r}: there are {torch.cuda.device_count()} GPUs, from 0 on"
        )
    return device
