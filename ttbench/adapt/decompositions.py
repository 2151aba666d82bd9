"""The cache of decompositions: a matrix is taken apart once per machine.

One safetensors file per matrix, named by the digest of its values and the dtype of the factors, so that any model that
holds the same matrix finds it, whatever it is called there. Only matrices that an expert touches are ever written: the
factors of an m x n matrix take more room than the matrix (r * (m + n + 1) numbers).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ttbench.adapt.svf import Decomposition, decompose
from ttbench.errors import CacheError, CheckpointError
from ttbench.machine.user_cache import cache_folder
from ttbench.types import canonical_json, digest


class DecompositionCache:
    """Decompositions on disk. `num_made` counts those that had to be computed."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` appears at the first use; None takes the user's cache folder, where there is one."""
        self.folder = _cache() if folder is None else folder
        self.num_made = 0

    def get(self, weight: Float[Tensor, "M N"], *, dtype: torch.dtype) -> Decomposition:
        """The decomposition of a matrix, on its device; computed at the first call for its values, and then written.

        Writing only saves time: where nothing can be written, each call computes.

        Raises:
            CheckpointError: the file of this matrix is damaged.
        """
        path = None if self.folder is None else self.folder / f"{weight_key(weight, dtype)}.safetensors"
        if path is None or not path.is_file():
            self.num_made += 1
            made = decompose(weight.detach().cpu(), dtype=dtype)
            if path is None or not self._write(path, made):
                return Decomposition(**{name: getattr(made, name).to(weight.device) for name in ("U", "S", "Vt")})
        try:
            parts = load_file(path, device=str(weight.device))
            found = Decomposition(U=parts["U"], S=parts["S"], Vt=parts["Vt"])
        except (SafetensorError, KeyError, OSError) as error:
            raise CheckpointError(f"the decomposition in '{path}' cannot be read: {error}; remove that file") from error
        rank = min(weight.shape)
        if (found.U.shape, found.Vt.shape) != ((weight.shape[0], rank), (rank, weight.shape[1])):
            raise CheckpointError(f"the decomposition in '{path}' is of another matrix; remove that file")
        return found

    def _write(self, path: Path, parts: Decomposition) -> bool:
        """Whole or not at all, and safe beside another process that writes the same; whether it could."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=".")
        except OSError:
            return False
        os.close(handle)
        try:
            save_file({"U": parts.U, "S": parts.S, "Vt": parts.Vt}, scratch)
            os.replace(scratch, path)
        except (OSError, SafetensorError):
            # a full disk
            Path(scratch).unlink(missing_ok=True)
            return False
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise
        return True


def _cache() -> Path | None:
    try:
        return cache_folder() / "svd"
    except CacheError:
        return None


def weight_key(weight: Float[Tensor, "M N"], dtype: torch.dtype) -> str:
    """Digest of a matrix's values and dtype, and of the dtype of its factors."""
    raw = weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    what = {"shape": list(weight.shape), "weight": str(weight.dtype), "factors": str(dtype), "values": digest(raw)}
    return digest(canonical_json(what))
