"""One resumable training loop for all networks of the miniature world."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn


@dataclass
class Schedule:
    """Learning-rate schedule: warm up, hold, decay to zero at the end.

    Attributes
    ----------
    steps : number of optimiser steps in all
    rate : highest learning rate
    warmup : steps of linear warm-up
    decay : share of the steps, at the end, that decay linearly to zero
    """

    steps: int
    rate: float
    warmup: int = 200
    decay: float = 0.3

    def __call__(self, step: int) -> float:
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.rate * min(1.0, (step + 1) / self.warmup, max(left, 0.0))


class Ema:
    """Running average of parameters: the weights that are shipped."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float = 0.999) -> None:
        self.parameters = list(parameters)
        self.decay = decay
        self.average = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average; early on it follows faster, so that it forgets the start."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the averaged and the current parameters."""
        for parameter, average in zip(self.parameters, self.average, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)


def save_atomic(state: dict, path: Path) -> None:
    """Write a checkpoint to a temporary name, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def fit(
    name: str,
    modules: dict[str, nn.Module],
    loss_of: Callable[[int], dict[str, torch.Tensor]],
    schedule: Schedule,
    folder: Path,
    *,
    minutes: float = float("inf"),
    every: int = 100,
    ema_decay: float = 0.999,
    reduce_gradients: Callable[[list[nn.Parameter]], None] | None = None,
    rank: int = 0,
) -> bool:
    """Train until the schedule ends or the time is up; continue where a checkpoint stands.

    Parameters
    ----------
    name : name of the checkpoint and of the log
    modules : networks to train, by name
    loss_of : ``loss_of(step)`` returns named losses; the one called ``loss`` is minimised
    schedule : learning-rate schedule
    folder : where ``<name>.pt`` and ``<name>.jsonl`` go
    minutes : wall-clock budget of this call
    every : steps between log lines; a checkpoint is written at most once in two minutes
    ema_decay : decay of the parameter average
    reduce_gradients : averages gradients over processes, where there are several
    rank : only rank 0 writes

    Returns
    -------
    bool, True when the schedule is complete; the modules then hold the averaged weights
    """
    folder = Path(folder)
    path = folder / f"{name}.pt"
    parameters = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1]
    plain = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.99), fused=True)
    ema = Ema(parameters, ema_decay)
    step = 0
    if path.exists():
        state = torch.load(path, map_location="cpu", weights_only=True)
        for key, module in modules.items():
            module.load_state_dict(state["modules"][key])
        optimizer.load_state_dict(state["optimizer"])
        for average, kept in zip(ema.average, state["average"], strict=True):
            average.copy_(kept)
        step = state["step"]

    def checkpoint() -> None:
        if rank == 0:
            kept = {key: module.state_dict() for key, module in modules.items()}
            state = {"step": step, "modules": kept, "average": ema.average}
            save_atomic({**state, "optimizer": optimizer.state_dict()}, path)

    start = saved = time.monotonic()
    sums: dict[str, float] = {}
    while step < schedule.steps and time.monotonic() - start < 60 * minutes:
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
        losses = loss_of(step)
        losses["loss"].backward()
        if reduce_gradients is not None:
            reduce_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update(step)
        step += 1
        for key, value in losses.items():
            sums[key] = sums.get(key, 0.0) + float(value.detach()) / every
        if step % every == 0 and rank == 0:
            seconds = round(time.monotonic() - start, 1)
            line = {"step": step, "seconds": seconds, "lr": schedule(step)}
            line |= {key: round(value, 5) for key, value in sums.items()}
            with (folder / f"{name}.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
        if step % every == 0:
            sums = {}
        if time.monotonic() - saved > 120:
            checkpoint()
            saved = time.monotonic()
    checkpoint()
    ema.swap()
    return step >= schedule.steps
