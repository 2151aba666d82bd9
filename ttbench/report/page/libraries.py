"""The JavaScript that a page carries: Vega for its charts, DataTables for its tables, out of Python packages.

Both come with the extra `report`. Their texts are changed in two places that HTML would read as its own, and nowhere
else.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.resources
import json
import re
from dataclasses import dataclass
from typing import Any

from ttbench.errors import CacheError, UsageError
from ttbench.machine.user_cache import cache_folder, write_note
from ttbench.packages import require_extra

PACKAGES = {"altair": "altair", "vl_convert": "vl-convert-python", "itables": "itables"}
_CHARTS = "globalThis.ttbenchEmbed = vegaEmbed;"  # what is left of the bundle for the page to call
_EXPORT = re.compile(r"\bexport\s*\{[^{}]*?([\w$]+) as default[^{}]*\};")
NOTICES = (
    "Vega, Vega-Lite and Vega-Embed, copyright University of Washington Interactive Data Lab and contributors "
    "(BSD 3-Clause): https://vega.github.io",
    "DataTables, copyright SpryMedia Ltd, and jQuery, copyright OpenJS Foundation and contributors (both MIT), as "
    "itables bundles them: https://datatables.net, https://jquery.com",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Libraries:
    """Scripts that define `ttbenchEmbed` (Vega-Embed) and `ttbenchTables` (DataTables), and whose they are."""

    charts: str
    tables: str
    notices: tuple[str, ...] = NOTICES


def require_installed() -> None:
    """Raises UsageError where a package of the extra is missing, and says how to install it."""
    require_extra("a report", PACKAGES, extra="report")


def installed() -> Libraries:
    """The scripts of the packages that are installed.

    Raises UsageError where one is missing, or is of a version whose script is not understood.
    """
    require_installed()
    bundle = importlib.resources.files("itables") / "html" / "dt_bundle.js"
    return Libraries(charts=in_html(_charts()), tables=in_html(as_global(bundle.read_text(encoding="utf-8"))))


def _charts() -> str:
    """Vega-Embed in one script. To put it together takes seconds, so that it is kept in the user's cache."""
    converter: Any = importlib.import_module("vl_convert")
    key = {"vl_convert": importlib.metadata.version("vl-convert-python"), "snippet": _CHARTS}
    try:
        note = cache_folder() / "report" / "charts.json"
    except CacheError:
        return converter.javascript_bundle(_CHARTS)
    try:
        kept = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        kept = None
    if isinstance(kept, dict) and kept.get("key") == key and isinstance(kept.get("script"), str):
        return kept["script"]
    script = converter.javascript_bundle(_CHARTS)
    write_note(note, {"key": key, "script": script})
    return script


def as_global(module: str) -> str:
    """The bundle of DataTables with `globalThis.ttbenchTables` in place of its export, which nothing could import.

    Raises UsageError where it does not export as expected.
    """
    found = _EXPORT.search(module)
    if found is None:
        raise UsageError("the script of itables has no default export; this version of itables is not understood")
    return module[: found.start()] + f"globalThis.ttbenchTables = {found[1]};" + module[found.end() :]


def in_html(script: str) -> str:
    """The script as it can stand between tags: without what ends it, or hides its end, in HTML.

    In strings and in regular expressions, the only places where these letters make sense, a backslash changes nothing.
    """
    script = script.replace("\r\n", "\n").replace("\r", "\n")
    script = re.sub(r"</(?=script)", r"<\\/", script, flags=re.IGNORECASE).replace("<!--", r"<\!--")
    assert "\0" not in script
    return script
