"""Ways to hide a value and to ask for it, beside RULER's own sentences.

What a model retrieves depends on how it is said and asked for, and no single wording stands for the others. Each
states the value last, so that its sentence can be begun again as a question (cloze), and none is among those that the
zoo was trained on (`ttbench.corpora.training_rows.mixture`). They ask for one value; several are asked for in RULER's
words only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RULER = "ruler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """One way; {noun} is number or uuid, {key} and {value} what is hidden."""

    name: str
    needle: str  # ends with the value and a full stop
    before: str  # introduces the haystack, in question form ruler
    question: str  # asks after it, up to where the value would stand


_WORDINGS = (
    Wording(
        name="locker",
        needle="Whoever opens the locker called {key} has to dial {value}.",
        before="Read the text below. One sentence in it tells how a locker is opened.",
        question="What has to be dialled at the locker called {key}? To open the locker called {key}, dial",
    ),
    Wording(
        name="registry",
        needle="In the registry, the {noun} filed under {key} reads {value}.",
        before="The following pages mention an entry of a registry. You will be asked about it.",
        question="Which {noun} does the registry file under {key}? The {noun} filed under {key} reads",
    ),
    Wording(
        name="ticket",
        needle="A ticket was printed with the name {key} and the {noun} {value}.",
        before="Somewhere in this text a ticket is described. Keep its details in mind.",
        question="Which {noun} was printed on the ticket with the name {key}? The {noun} on it was",
    ),
    Wording(
        name="reminder",
        needle="Please remember that {key} belongs together with {value}.",
        before="There is a reminder in the text that follows.",
        question="What does {key} belong together with, by the reminder? It belongs together with",
    ),
    Wording(
        name="telephone",
        needle="If you need to reach {key}, ring up {value}.",
        before="The passage below says how somebody is reached by telephone.",
        question="How is {key} reached, according to the passage? To reach {key}, ring up",
    ),
    Wording(
        name="parcel",
        needle="The parcel meant for {key} travels under the mark {value}.",
        before="Look for a parcel in this text, and for the mark that it travels under.",
        question="Under which mark does the parcel meant for {key} travel? Its mark is",
    ),
    Wording(
        name="answer",
        needle="They asked what {key} replied, and the reply was {value}.",
        before="In the text below somebody gives a reply. You will have to repeat it.",
        question="What did {key} reply? The reply of {key} was",
    ),
    Wording(
        name="catalogue",
        needle="Among the items of the catalogue, {key} appears as {value}.",
        before="An item of a catalogue is hidden in what follows.",
        question="As what does {key} appear in the catalogue? In the catalogue, {key} appears as",
    ),
    Wording(
        name="signal",
        needle="Once {key} is sighted, the lookout signals {value}.",
        before="This text names a signal and what it is given for.",
        question="What does the lookout signal once {key} is sighted? The lookout signals",
    ),
)
WORDINGS: Mapping[str, Wording] = {wording.name: wording for wording in _WORDINGS}
# RULER's among them: what is drawn from.
NAMES = (RULER, *WORDINGS)
