"""What each number of an evaluation means, and when two of them may be compared. Free of torch: the terminal reads it.

The first letter says what is asked (E the prompt, P paraphrases, N neighbors, H multi-hop questions, X negated
prompts, R earlier edits), the second how: S success, M magnitude, A every token first choice. T.. are shares of
tokens, F.. free generations, K.. KL divergences. ES to NA, GE, RS and essence are those of Meng et al. 2022 and 2023.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Meaning:
    """One metric: `range` of its values, which direction is `better`, and what a case `needs` to have it.

    `over` says what it is a mean over: the cases, the requests of earlier edits, or held-out texts.
    """

    text: str
    range: str
    better: str
    needs: str
    over: str = "cases"


_SHARE, _DIFFERENCE, _OPEN = "0 to 1", "-1 to 1", "0 or more"
_NEW, _BOTH, _STAY = "target_new", "target_new, target_true", "neighbors"

METRICS: dict[str, Meaning] = {
    "S": Meaning("harmonic mean of ES, PS, NS", _SHARE, "higher", "ES, PS, NS"),
    "ES": Meaning("efficacy: new target likelier than true, on the prompt", _SHARE, "higher", _BOTH),
    "PS": Meaning("the same on paraphrases", _SHARE, "higher", f"{_BOTH}, paraphrases"),
    "NS": Meaning("neighborhood: their true answer likelier than the new target", _SHARE, "higher", _STAY),
    "EM": Meaning("efficacy magnitude: p(new) - p(true)", _DIFFERENCE, "higher", _BOTH),
    "PM": Meaning("the same on paraphrases", _DIFFERENCE, "higher", f"{_BOTH}, paraphrases"),
    "NM": Meaning("p(true) - p(new) on neighbors", _DIFFERENCE, "higher", _STAY),
    "EA": Meaning("every target token first choice, teacher-forced", _SHARE, "higher", _NEW),
    "PA": Meaning("the same on paraphrases", _SHARE, "higher", f"{_NEW}, paraphrases"),
    "NA": Meaning("the same for the neighbors' true answers", _SHARE, "higher", _STAY),
    "TE": Meaning("zsRE's efficacy: share of target tokens first choice", _SHARE, "higher", _NEW),
    "TP": Meaning("the same on paraphrases", _SHARE, "higher", f"{_NEW}, paraphrases"),
    "TN": Meaning("the same for the neighbors' true answers", _SHARE, "higher", _STAY),
    "FE": Meaning("free generation begins with the target", _SHARE, "higher", _NEW),
    "FP": Meaning("the same on paraphrases", _SHARE, "higher", f"{_NEW}, paraphrases"),
    "FN": Meaning("free generation on neighbors begins with their true answer", _SHARE, "higher", _STAY),
    "FC": Meaning("chat: the reply to a user turn holds the target", _SHARE, "higher", "a chat template"),
    "HA": Meaning("portability: every answer token first choice, multi-hop", _SHARE, "higher", "portability"),
    "TH": Meaning("portability as share of answer tokens", _SHARE, "higher", "portability"),
    "FH": Meaning("free generation holds one of the multi-hop answers", _SHARE, "higher", "portability"),
    "XA": Meaning("negated prompt: target still first choice", _SHARE, "lower", "negations"),
    "FX": Meaning("negated prompt: free generation begins with the target", _SHARE, "lower", "negations"),
    "KN": Meaning("KL of the next token from the base, on neighbors, nats", _OPEN, "lower", _STAY),
    "GE": Meaning("fluency: entropy of 2- and 3-grams, bits", _OPEN, "higher", "generation_prompts"),
    "RS": Meaning(
        "consistency with texts about the target", _SHARE, "higher", "generation_prompts, references"
    ),
    "ESS": Meaning(
        "essence: perplexity of texts about the subject", _OPEN, "lower", "references on the subject"
    ),
    "RA": Meaning(
        "retention: earlier edits still first choice", _SHARE, "higher", "earlier edits", "requests"
    ),
    "FR": Meaning("retention in free generation", _SHARE, "higher", "earlier edits", "requests"),
    "KG": Meaning("KL from the base on openings of held-out texts, nats", _OPEN, "lower", "an edit", "texts"),
    "PPL": Meaning("perplexity of held-out texts", _OPEN, "lower", "texts", "texts"),
    "PD": Meaning(
        "its change from the base, as a share of the base's", "above -1", "lower", "an edit", "texts"
    ),
}

# Told in a protocol, but two evaluations that differ in them measure the same thing.
_MAY_DIFFER = ("suite", "facts", "device")


@dataclass(frozen=True)
class Difference:
    """A field of the protocol in which two evaluations differ."""

    field: str
    a: Any
    b: Any

    def __str__(self) -> str:
        return f"{self.field} ({_short(self.a)} against {_short(self.b)})"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Why the numbers of two protocols may not be compared; nothing if they may.

    A field that only one of them has belongs to a metric that the other did not measure.
    """
    shared = [name for name in a if name in b and name not in _MAY_DIFFER]
    found = [Difference(name, a[name], b[name]) for name in shared if a[name] != b[name]]
    if not ("cases" in a and "cases" in b):
        found.append(Difference("cases", a.get("cases"), b.get("cases")))
    return found
