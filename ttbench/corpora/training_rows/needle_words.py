"""Words that the needle task makes its keys and sentences of, kept out of everything that the zoo is trained on.

Torch-free.
"""

from __future__ import annotations

import re

ADJECTIVES = tuple(
    re.findall(
        r"\w+",
        """
    amber ancient bold brave bright calm clever cosmic crisp curious dapper eager early fancy fierce gentle giant
    golden grand happy hollow humble icy jolly keen kind lively lucky mellow merry mighty misty modest nimble noble
    polite proud quick quiet rapid rosy rustic shiny silent silver sleepy smooth snowy solid spicy stormy sturdy
    subtle sunny swift tidy tiny vivid warm witty
    """,
    )
)
NOUNS = tuple(
    re.findall(
        r"\w+",
        """
    acorn anchor anvil badger banjo barrel basket beacon beetle blanket bottle bridge bucket button cactus candle
    canyon castle cherry comet compass copper cradle cricket dolphin dragon falcon feather fiddle garden glacier
    goblet hammer harbor hazel helmet island jacket kettle ladder lantern lobster magnet maple meadow mirror
    napkin orchid otter paddle pepper pigeon pillow planet pocket rabbit ribbon saddle sparrow teapot thimble
    tulip tunnel turtle violin walnut whistle window
    """,
    )
)
# Of the task's sentences, those that say what it is about.
SENTENCE = ("special", "magic", "number", "numbers")
