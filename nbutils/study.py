"""A study: the checked parameters of one subject in one world, and the files made from them."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from nbutils import agreement, artifacts, caveats
from nbutils.artifacts import ArtifactError
from nbutils.devices import find_device, find_precision
from nbutils.parameters import (
    Count,
    Fraction,
    ParameterError,
    PathField,
    Positive,
    WorldField,
    explain,
)
from nbutils.world import default_data, find_root


class Study(BaseModel):
    """The parameters of one run, checked, with the paths and artifacts that follow from them.

    Everything a notebook's parameters cell can set is a field here, so a misspelt name, a wrong
    type or an impossible value is refused in one sentence before anything is computed.

    Parameters
    ----------
    world : {"miniature", "nsd"}
        Simulated brains and small networks, or the real dataset and the published ones.
    subject : int
        1-based, as in NSD.
    device : str
        `"auto"` takes CUDA, then Apple's MPS, then the CPU.
    precision : {"auto", "float32", "float16", "bfloat16"}
        Floats that the networks compute in; `"auto"` is float32 on a CPU, float16 on a GPU.
    memory : {"auto", "4GB", "8GB", "15GB", "more"}
        How the networks share the device, see `nbutils.networks.memory`; `"auto"` looks at what
        is free.
    weights : {"stored", "random"}
        Random weights need no file: a rehearsal at full size whose pictures mean nothing.
    seed : int
        Root of every random draw.
    interactive : bool
        Sliders, or their static pictures. Batch runs pass False.
    data, networks, results : Path, optional
        Folders; by default the world's own, and `results/` of the project.
    snr, repeats : float, int
        Of a simulated recording: factor on its signal, and how often each image is shown. A world
        made with other than the usual values needs a `data` folder of its own.
    sessions : int or str, optional
        Read only the first so many sessions, or `"5-20"`, or `"classic"` (all but the last three,
        as in the papers up to 2023); by default all.
    accept_terms : bool
        True says that you read and accepted the terms of NSD (`python -m nbutils nsd terms`):
        what is missing is then downloaded. Simulated brains have no terms.
    n_images : int, optional
        Decode only the first so many test images; by default all.
    n_train : int, optional
        Fit on only the first so many training images; by default all.
    batch_size : int
        Images that pass through a network at once.
    steps, strength, guidance_scale : int, float, float
        Denoising steps, the share of them that is run from a given latent (1 = from pure noise),
        and the strength of classifier-free guidance (by default the world's).
    mix_image, mix_caption : float
        Weight of the image context in the image and in the caption flow; text gets the rest.
    temperature : float
        Of the caption decoder; 0 is greedy.
    preset : {"published", "careful"}
        Which of two documented sets of choices a system follows: that of the public code, or
        the one we would defend.
    rescale : {"none", "train_cv", "test_stats"}, optional
        How predicted features regain their spread; by default the preset's.
    alphas : {"published", "gcv", "loo"}
        Ridge penalties: the published ones, or chosen on training images by generalised
        cross-validation (all targets) or exact leave-one-out (a random subset of targets).
    alpha_per : {"feature", "target"}
        One chosen penalty for each feature space, or one for each of its numbers.
    iterations : int, optional
        Steps by which MindDiffuser's stage 2 changes an image, at most; by default the preset's.
    learning_rate : float, optional
        Size of these steps (Adam's rate); by default the published one.
    vdvae_layers : int, optional
        How many of VDVAE's latent layers are decoded; by default the world's.
    file_format : {"auto", "nii.gz", "hdf5", "masked"}
        Which betas files to read; `"auto"` takes the fastest that is on disk.
    zscore : {"published", "session"}
        Statistics over all training images, or within each session.
    rois : list of str, optional
        Regions to stimulate; by default those of the published figure.
    n_seeds : int
        Pictures for each region.
    amplitude : float
        Size of a synthetic region pattern, relative to the training features' norm.
    systems : list of str, optional
        Systems to compare; by default all that have left pictures.
    metric_variant : str
        The paper whose measures are taken, see `nbutils.metrics.variants`.
    ablation : list of str
        What is left out of a system, such as "without Z" or "only C_I".

    Raises
    ------
    ParameterError
        One sentence for each thing that is wrong.

    Examples
    --------
    >>> study = Study(world="miniature", subject=1, device="cpu")
    >>> study.path("predictions", "autokl.npy").name
    'autokl.npy'
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        arbitrary_types_allowed=True,
        validate_default=True,
    )

    world: WorldField = "miniature"  # type: ignore[assignment]
    subject: Count = 1
    device: str = "auto"
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    memory: Literal["auto", "4GB", "8GB", "15GB", "more"] = "auto"
    weights: Literal["stored", "random"] = "stored"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    interactive: bool = False
    data: PathField | None = None
    networks: PathField | None = None
    results: PathField | None = None
    snr: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    repeats: Annotated[int, Field(ge=1, le=3)] = 3
    sessions: Count | str | None = None
    accept_terms: bool = False
    n_images: Count | None = None
    n_train: Annotated[int, Field(ge=2)] | None = None
    batch_size: Count = 32
    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    strength: Annotated[float, Field(gt=0, le=1)] = 0.75
    guidance_scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    mix_image: Fraction = 0.6
    mix_caption: Fraction = 0.9
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    preset: Literal["published", "careful"] = "careful"
    rescale: Literal["none", "train_cv", "test_stats"] | None = None
    alphas: Literal["published", "gcv", "loo"] = "published"
    alpha_per: Literal["feature", "target"] = "feature"
    iterations: Count | None = None
    learning_rate: Positive | None = None
    vdvae_layers: Count | None = None
    file_format: Literal["auto", "nii.gz", "hdf5", "masked"] = "auto"
    zscore: Literal["published", "session"] = "published"
    rois: list[str] | None = None
    n_seeds: Count = 8
    amplitude: Positive = 1.0
    systems: list[str] | None = None
    metric_variant: Literal["brain_diffuser", "takagi", "minddiffuser", "mindeye1", "mindeye2"] = (
        "brain_diffuser"
    )
    ablation: list[str] = ["without Z", "without C"]

    _inputs: dict[str, str] = PrivateAttr(default_factory=dict)
    _started: float = PrivateAttr(default_factory=time.perf_counter)

    def __init__(self, **parameters: Any) -> None:
        try:
            super().__init__(**parameters)
        except ValidationError as error:
            raise ParameterError(explain(error, type(self).model_fields)) from None
        if self.weights == "random":
            caveats.say(caveats.MEANINGLESS)

    @model_validator(mode="after")
    def _check_together(self) -> Study:
        world = self.world
        if self.subject not in world.subjects:
            first, last = world.subjects[0], world.subjects[-1]
            raise ValueError(
                f"subject={self.subject}: {world.title} has subjects {first} to {last}"
            )
        world.session_numbers(self.subject, self.sessions)
        for name in ("snr", "repeats"):
            if world.maker is None and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name}={getattr(self, name)}: {world.title} is recorded; only a simulated "
                    "brain lets one choose"
                )
        for name in self.rois or ():
            if name not in world.rois:
                raise ValueError(f"rois={name!r}: {world.title} has {', '.join(world.rois)}")
        self._settle("device", find_device(self.device))
        self._settle("precision", find_precision(self.precision, self.device))
        root = find_root()
        self._settle("data", _absolute(self.data or default_data(world), root))
        self._settle("networks", _absolute(self.networks or world.networks, root))
        self._settle("results", _absolute(self.results or Path("results"), root))
        if self.guidance_scale is None:
            # None asks for the default, so nobody set it: some systems have a default of their own.
            self.model_fields_set.discard("guidance_scale")
            self._settle("guidance_scale", world.guidance_scale)
        return self

    def _settle(self, name: str, value: Any) -> None:
        # The model is frozen for its users; this fills in what "by default the world's" means,
        # without marking the field as one that the user set.
        self.__dict__[name] = value

    @property
    def session_numbers(self) -> list[int] | None:
        """The sessions to read, 1-based, or None for all there are on disk."""
        if self.sessions is None:
            return None
        return self.world.session_numbers(self.subject, self.sessions)

    @property
    def n_vdvae_layers(self) -> int:
        """How many of VDVAE's latent layers are decoded from the brain."""
        return self.vdvae_layers or self.world.vdvae_layers

    # --- randomness

    def rng(self, purpose: str) -> np.random.Generator:
        """Return a random generator that depends on the seed and on what it is for.

        Parameters
        ----------
        purpose : str
            Any name; two purposes draw independently, so adding one never moves another.
        """
        digest = hashlib.sha256(purpose.encode()).digest()
        return np.random.default_rng([self.seed, int.from_bytes(digest[:8], "little")])

    # --- files

    def prepare(self) -> Path:
        """Make or, with `accept_terms`, fetch what is missing of the data; return their root."""
        recording = {"snr": self.snr, "repeats": self.repeats} if self.world.maker else {}
        return self.world.prepare(
            self.data, self.subject, self.sessions, self.accept_terms, **recording
        )

    def prepare_other(self, subject: int) -> bool:
        """Say whether another subject's data are there, after making them if they are simulated.

        A recorded subject is never fetched here: tens of gigabytes for a control would surprise.
        """
        if self.world.maker is None:
            folder = self.data / f"nsddata_betas/ppdata/subj{subject:02d}"
            files = (path.suffix for path in folder.rglob("betas_session01.*"))
            return any(suffix in (".gz", ".hdf5", ".npy") for suffix in files)
        self.model_copy(update={"subject": subject}).prepare()
        return True

    def other_subjects(self) -> Iterator[int]:
        """Other subjects whose data are there, one after the other; see `prepare_other`."""
        others = (subject for subject in self.world.subjects if subject != self.subject)
        return (subject for subject in others if self.prepare_other(subject))

    def path(self, kind: str, name: str = "") -> Path:
        """Return `results/<world>/subjNN/<kind>/<name>`, whether or not it exists."""
        return self.results / self.world.name / f"subj{self.subject:02d}" / kind / name

    def save(self, kind: str, name: str, value: Any, nsd_id: Any = None, **notes: Any) -> Path:
        """Write an artifact and its sidecar; see `artifacts.write` for the formats.

        Parameters
        ----------
        kind, name : str
            Folder and file name; the suffix chooses the format.
        value : array, DataFrame, dict or list
            What to write.
        nsd_id : (n,) int, optional
            The image behind each row, kept in the sidecar.
        **notes
            Anything else worth keeping beside it.

        Returns
        -------
        Path
            Where it lies.

        Raises
        ------
        ValueError
            If `nsd_id` does not have one entry for each row.
        """
        path = self.path(kind, name)
        if nsd_id is not None and len(nsd_id) != len(value):
            raise ValueError(f"{kind}/{name}: {len(value)} rows but {len(nsd_id)} nsd_ids")
        # First: a crash between the two writes must not leave an old sidecar beside a new file.
        artifacts.sidecar_path(path).unlink(missing_ok=True)
        artifacts.write(path, value)
        return self.stamp(kind, name, nsd_id=nsd_id, **notes)

    def stamp(self, kind: str, name: str, nsd_id: Any = None, **notes: Any) -> Path:
        """Write the sidecar of a finished file that something else wrote, such as features."""
        path = self.path(kind, name)
        record = {"artifact": f"{kind}/{name}", **artifacts.describe(path), **self.provenance()}
        if nsd_id is not None:
            record["nsd_id"] = np.asarray(nsd_id).tolist()
        artifacts.write_json(artifacts.sidecar_path(path), record | notes)
        return path

    def require(self, kind: str, name: str) -> Path:
        """Return the path of a finished artifact of this study.

        Raises
        ------
        ArtifactError
            If it is missing (naming the notebook that makes it), half-written, foreign, of
            another subject, or made with other parameters.
        """
        self._read_record(kind, name)
        return self.path(kind, name)

    def load(self, kind: str, name: str) -> Any:
        """Read a finished artifact; arrays come memory-mapped. Raises as `require` does."""
        return artifacts.read(self.require(kind, name))

    def ids(self, kind: str, name: str) -> np.ndarray:
        """Return the nsd_id of each row of an artifact, (n,) int64. Raises as `require` does."""
        record = self._read_record(kind, name)
        if "nsd_id" not in record:
            raise ArtifactError(f"{kind}/{name}: was saved without nsd_ids")
        return np.asarray(record["nsd_id"], dtype=np.int64)

    def _read_record(self, kind: str, name: str) -> dict[str, Any]:
        path, artifact = self.path(kind, name), f"{kind}/{name}"
        mine = self.world.name, self.subject
        if not path.is_file():
            raise ArtifactError(agreement.explain_missing(path, artifact, *mine, self.results))
        record = artifacts.read_sidecar(path)
        agreement.require_owner(path, artifact, record, *mine)
        agreement.require_same(artifact, record, self.describe(), self.model_fields_set)
        self._inputs[artifact] = record["sha256"]
        return record

    # --- provenance

    def describe(self) -> dict[str, Any]:
        """Return all parameters as plain values."""
        return self.model_dump(mode="json")

    def provenance(self) -> dict[str, Any]:
        """Return what a reader needs to get the same result again.

        Returns
        -------
        dict
            World, subject, seed, parameters and which of them were set, versions, hashes of the
            artifacts read so far, seconds since the study began, peak memory in GB (host, and GPU
            where one was used), and what must be said of the result, if anything.
        """
        record = {
            "world": self.world.name,
            "subject": self.subject,
            "seed": self.seed,
            "parameters": self.describe(),
            "set": sorted(self.model_fields_set),
            "versions": artifacts.versions(),
            "inputs": dict(sorted(self._inputs.items())),
            "seconds": round(time.perf_counter() - self._started, 2),
            "peak_memory_gb": round(artifacts.peak_memory(), 3),
        }
        if caveats.said():
            record["caveats"] = list(caveats.said())
        if self.device.startswith("cuda"):
            import torch

            record["peak_gpu_gb"] = round(torch.cuda.max_memory_allocated(self.device) / 1e9, 3)
        return record


def _absolute(path: Path, root: Path) -> Path:
    path = Path(os.path.expanduser(path))
    return path if path.is_absolute() else root / path
