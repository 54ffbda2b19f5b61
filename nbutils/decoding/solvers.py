"""Where the linear algebra of ridge runs: NumPy and LAPACK, or torch on a CUDA GPU.

Both solvers hold the centred responses and answer the same three questions; streaming, alignment
and centring are not theirs.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nbutils.decoding.gram import SMALLEST_RCOND, Gram, check_alpha, is_primal

Float = NDArray[np.float32]


class Solver(Protocol):
    """What `RidgeOperator` asks of a solver."""

    def weigh(self, new: Float, alpha: float) -> Float:
        """Operator (n_new, n_images) of centred new responses."""

    def weights(self, values: Float, alpha: float) -> Float:
        """Weights (n_voxels, n_targets) of centred targets."""

    def place(self, operator: Float) -> Any:
        """The operator where `multiply` wants it."""

    def multiply(self, placed: Any, values: Float) -> Float:
        """Operator times centred targets (n_images, n_targets)."""


def solver_for(device: str, centred: Float) -> Solver:
    """The solver of a device: the CPU's for "cpu" and "mps", torch's for "cuda" (or "cuda:1").

    Apple's "mps" has no double precision, which an ill-conditioned system needs.
    """
    kind = str(device).split(":")[0]
    if kind in ("cpu", "mps"):
        return NumpySolver(centred)
    if kind != "cuda":
        raise ValueError(f"device={device!r}: ridge runs on cpu or cuda; mps means cpu.")
    return TorchSolver(centred, str(device))


class NumpySolver:
    """Single precision, and double precision for penalties where single is not enough.

    Parameters
    ----------
    centred : (n_images, n_voxels) float32 in C order
    """

    def __init__(self, centred: Float) -> None:
        self.centred, self.primal = centred, is_primal(centred)
        self.gram = Gram(centred)
        self.precise: Gram | None = None

    def weigh(self, new: Float, alpha: float) -> Float:
        """Operator (n_new, n_images) of centred new responses."""
        system = self.system(alpha)
        if self.primal:
            # As one Fortran array that is solved in place: a copy, since `new` is the caller's.
            solved = system.solve(np.array(new.T, system.matrix.dtype, order="F"))
            return (self.centred @ solved.astype(np.float32, copy=False)).T
        right = (new @ self.centred.T).T
        return system.solve(right).T.astype(np.float32, copy=False)

    def weights(self, values: Float, alpha: float) -> Float:
        """Weights (n_voxels, n_targets) of centred targets."""
        system = self.system(alpha)
        if self.primal:
            return system.solve(self.centred.T @ values).astype(np.float32, copy=False)
        return self.centred.T @ system.solve(values).astype(np.float32, copy=False)

    def place(self, operator: Float) -> Float:
        """The operator as it is."""
        return operator

    def multiply(self, placed: Float, values: Float) -> Float:
        """Operator times centred targets."""
        return placed @ values

    def system(self, alpha: float) -> Gram:
        """The Gram matrix factored for `alpha`, in the lowest precision that is good enough."""
        alpha = check_alpha(alpha)
        if self.gram.factor(alpha):
            return self.gram
        if self.precise is None:
            self.precise = Gram(self.centred, np.float64)
        if self.precise.factor(alpha):
            return self.precise
        raise ValueError(
            f"alpha={alpha:g} leaves the ridge system singular; choose a larger alpha."
        )


class TorchSolver:
    """The same on a GPU: full single precision (no TF32), the factor stays on the device.

    Parameters
    ----------
    centred : (n_images, n_voxels) float32
    device : torch device
    """

    def __init__(self, centred: Float, device: str) -> None:
        import torch  # so that ridge on the CPU never waits for it

        self.torch = torch
        self.primal = is_primal(centred)
        self.centred = torch.from_numpy(centred).to(device)
        self._alpha: float | None = None
        self._lower: Any = None

    def weigh(self, new: Float, alpha: float) -> Float:
        """Operator (n_new, n_images) of centred new responses."""
        with self._full_precision():
            lower, x = self._factor(alpha), self.centred
            right = self._up(new).T if self.primal else x @ self._up(new).T
            solved = self.torch.cholesky_solve(right.to(lower.dtype), lower).to(x.dtype)
            return (x @ solved if self.primal else solved).T.contiguous().cpu().numpy()

    def weights(self, values: Float, alpha: float) -> Float:
        """Weights (n_voxels, n_targets) of centred targets."""
        with self._full_precision():
            lower, x = self._factor(alpha), self.centred
            right = x.T @ self._up(values) if self.primal else self._up(values)
            solved = self.torch.cholesky_solve(right.to(lower.dtype), lower).to(x.dtype)
            return (solved if self.primal else x.T @ solved).cpu().numpy()

    def place(self, operator: Float) -> Any:
        """The operator on the device."""
        return self._up(operator)

    def multiply(self, placed: Any, values: Float) -> Float:
        """Operator times centred targets, in halves where the device's memory is too small."""
        try:
            with self._full_precision():
                return (placed @ self._up(values)).cpu().numpy()
        except self.torch.cuda.OutOfMemoryError:
            if values.shape[1] == 1:
                raise
        self.torch.cuda.empty_cache()
        half = values.shape[1] // 2
        parts = (values[:, :half], values[:, half:])
        return np.hstack([self.multiply(placed, part) for part in parts])

    def _up(self, values: Float) -> Any:
        return self.torch.from_numpy(np.ascontiguousarray(values)).to(self.centred.device)

    def _full_precision(self) -> Any:
        return _FullPrecision(self.torch)

    def _factor(self, alpha: float) -> Any:
        alpha = check_alpha(alpha)
        if alpha != self._alpha:
            self._lower = None  # before the next one is made
            self._lower, self._alpha = self._decompose(alpha), alpha
        return self._lower

    def _decompose(self, alpha: float) -> Any:
        for dtype in (np.float32, np.float64):
            x = self.centred.to(getattr(self.torch, np.dtype(dtype).name))
            system = x.T @ x if self.primal else x @ x.T
            norm = float(system.abs().sum(dim=0).max()) + alpha
            system.diagonal().add_(alpha)
            lower, failed = self.torch.linalg.cholesky_ex(system)
            if not failed and self._rcond(lower, norm) > SMALLEST_RCOND[np.dtype(dtype)]:
                return lower
        raise ValueError(
            f"alpha={alpha:g} leaves the ridge system singular; choose a larger alpha."
        )

    def _rcond(self, lower: Any, norm: float, steps: int = 8) -> float:
        """Reciprocal condition number, the inverse's norm by power iteration from fixed signs."""
        vector = lower.new_tensor(np.random.default_rng(0).choice([-1.0, 1.0], (len(lower), 1)))
        growth = 0.0
        for _ in range(steps):
            vector = self.torch.cholesky_solve(vector / vector.norm(), lower)
            growth = float(vector.norm())
        return 1 / (growth * norm)


class _FullPrecision:
    """TF32 off for a while: it keeps 10 bits of the mantissa and costs 6e-5 of the result."""

    def __init__(self, torch: Any) -> None:
        self.matmul = torch.backends.cuda.matmul

    def __enter__(self) -> None:
        self.before, self.matmul.allow_tf32 = self.matmul.allow_tf32, False

    def __exit__(self, *_: object) -> None:
        self.matmul.allow_tf32 = self.before
