"""The machine a benchmark ran on, in a few words."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import psutil
import torch

from nbutils.networks.loading import Networks


def describe(networks: Networks) -> dict[str, Any]:
    """Return date, device, its memory in GB, driver, versions and precision, ready for JSON."""
    on_gpu = networks.device.type == "cuda"
    return {
        "date": str(date.today()),
        "gpu": on_gpu,
        **(_describe_gpu(networks.device) if on_gpu else _describe_cpu()),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "precision": str(networks.dtype).removeprefix("torch."),
        "weights": networks.weights,
    }


def _describe_gpu(device: torch.device) -> dict[str, Any]:
    about = torch.cuda.get_device_properties(device)
    return {
        "name": about.name,
        "memory_gb": round(about.total_memory / 1e9, 1),
        "driver": _ask_driver(str(about.uuid)),
        "cuda": torch.version.cuda,
        "capability": f"{about.major}.{about.minor}",
    }


def _ask_driver(uuid: str) -> str:
    """Driver and power limit as nvidia-smi has them, where it is there."""
    command = ["nvidia-smi", f"--id=GPU-{uuid}", "--format=csv,noheader"]
    try:
        asked = subprocess.run(
            [*command, "--query-gpu=driver_version,power.limit"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return asked.stdout.strip()


def _describe_cpu() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "name": models[0] if models else platform.processor() or platform.machine(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def in_words(about: dict[str, Any]) -> str:
    """Write the description as one line."""
    if about["gpu"]:
        device = "{name}, {memory_gb} GB, driver {driver}, CUDA {cuda}".format(**about)
    else:
        device = "{name}, {cores} cores, load average {load}, ".format(**about)
        device += "seconds of CPU time over {threads} threads".format(**about)
    rest = "torch {torch}, Python {python}, {precision}, {weights} weights".format(**about)
    return f"{about['date']}, {device}, {rest}"
