"""Python that no checkpoint of the zoo was trained on: the sources of the installed networkx. Torch-free.

The zoo's code is sympy's. Another project's names, idioms and comments are other ones, so this corpus says what a model
makes of code that is new to it, where `code` says what it makes of other files of a project that it knows.
networkx is a dependency of torch, pinned in constraints.txt, so nothing is committed and nothing downloaded.
"""

from __future__ import annotations

from functools import cache

from ttbench.corpora.data import Corpus, Document, make_corpus, package_folder


@cache
def foreign_corpus() -> Corpus:
    """Python sources of networkx without its tests, all of them test documents; newlines as in the wheel."""
    root = package_folder("networkx", distribution="networkx")
    documents = [
        Document(name=path.relative_to(root).as_posix(), text=path.read_bytes().replace(b"\r\n", b"\n"))
        for path in sorted(root.rglob("*.py"))
        if "tests" not in path.relative_to(root).parts
    ]
    return make_corpus(
        "code-foreign",
        {"test": documents},
        source="sources of the wheel networkx",
        licence="BSD-3-Clause",
        note="a project that no checkpoint of the zoo was trained on",
    )
