"""Which matrices of a model are adapted: any engine's module, chosen by patterns over module names.

A matrix is a module with a two-dimensional `weight` that is no embedding table: torch's Linear, transformers' Conv1D.
Names are those of the model at hand, so an expert belongs to one engine's naming. Patterns are shell patterns, comma
between: "*.mlp.*" is the paper's default, "*.mixer.q_proj,*.mixer.v_proj" (under engine hf
"*.self_attn.q_proj" ...) its attention row.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from torch import nn

from ttbench.errors import UsageError

MLP = "*.mlp.*"


def find_matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every matrix by the name of its module, in the order of the model's state dict; tied weights are left out."""
    held: dict[str, nn.Parameter] = {}
    uses: dict[int, int] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        weight = module._parameters.get("weight")
        if weight is None:
            continue
        uses[id(weight)] = uses.get(id(weight), 0) + 1
        if weight.ndim == 2 and not isinstance(module, nn.Embedding):
            held[name] = weight
    return {name: weight for name, weight in held.items() if uses[id(weight)] == 1}


def choose_matrices(model: nn.Module, patterns: str) -> dict[str, nn.Parameter]:
    """The matrices whose names fit one of the patterns, in the order of the model's state dict.

    Raises:
        UsageError: a pattern fits none.
    """
    found = find_matrices(model)
    wanted = [pattern.strip() for pattern in patterns.split(",")]
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in found):
            names = list(found)
            shown = ", ".join(names[:8]) + (f", ... ({len(names)} in all)" if len(names) > 8 else "")
            raise UsageError(f"no matrix of the model is called like '{pattern}'; it has: {shown or 'none'}")
    return {name: weight for name, weight in found.items() if any(fnmatchcase(name, each) for each in wanted)}
