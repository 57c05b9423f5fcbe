"""Descriptions of the metrics of an evaluation, and the check that two protocols are comparable. Imports no torch.

The first letter of a name is the kind of prompt: E the request's prompt, P paraphrases, N neighborhood prompts, H
multi-hop questions, X negated prompts, R earlier edits. The second letter is the measure: S success, M magnitude, A
every token first choice. T.. are shares of tokens, F.. free generations, K.. KL divergences. ES to NA, GE, RS and
essence follow Meng et al. 2022 and 2023.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MetricInfo:
    """One metric: the fields that a case `needs`, the `range` of its values, and the `better` direction.

    `over` names the items that it averages: cases, requests of earlier edits, or held-out texts.
    """

    text: str
    needs: str
    range: str = "0 to 1"
    better: str = "higher"
    over: str = "cases"


_SIGNED, _FROM_0 = "-1 to 1", "0 or more"
_NEW, _BOTH, _NEIGHBORS = "target_new", "target_new, target_true", "neighbors"

METRICS: dict[str, MetricInfo] = {
    "S": MetricInfo("harmonic mean of ES, PS, NS", "ES, PS, NS"),
    "ES": MetricInfo("efficacy: new target likelier than true, on the prompt", _BOTH),
    "PS": MetricInfo("the same on paraphrases", f"{_BOTH}, paraphrases"),
    "NS": MetricInfo("neighborhood: true answer likelier than the new target", _NEIGHBORS),
    "EM": MetricInfo("efficacy magnitude: p(new) - p(true)", _BOTH, _SIGNED),
    "PM": MetricInfo("the same on paraphrases", f"{_BOTH}, paraphrases", _SIGNED),
    "NM": MetricInfo("p(true) - p(new) on neighborhood prompts", _NEIGHBORS, _SIGNED),
    "EA": MetricInfo("every target token first choice, teacher-forced", _NEW),
    "PA": MetricInfo("the same on paraphrases", f"{_NEW}, paraphrases"),
    "NA": MetricInfo("the same for the neighborhood's true answers", _NEIGHBORS),
    "TE": MetricInfo("zsRE's efficacy: share of target tokens first choice", _NEW),
    "TP": MetricInfo("the same on paraphrases", f"{_NEW}, paraphrases"),
    "TN": MetricInfo("the same for the neighborhood's true answers", _NEIGHBORS),
    "FE": MetricInfo("free generation begins with the target", _NEW),
    "FP": MetricInfo("the same on paraphrases", f"{_NEW}, paraphrases"),
    "FN": MetricInfo("free generation, neighborhood: begins with the true answer", _NEIGHBORS),
    "FC": MetricInfo("chat: the reply contains the target", "a chat template"),
    "HA": MetricInfo("portability: every answer token first choice", "portability"),
    "TH": MetricInfo("portability as share of answer tokens", "portability"),
    "FH": MetricInfo("free generation contains a multi-hop answer", "portability"),
    "XA": MetricInfo("negated prompt: target still first choice", "negations", better="lower"),
    "FX": MetricInfo("negated prompt: free generation begins with the target", "negations", better="lower"),
    "KN": MetricInfo("KL of the next token from the base, neighborhood, nats", _NEIGHBORS, _FROM_0, "lower"),
    "GE": MetricInfo("fluency: entropy of 2- and 3-grams, bits", "generation_prompts", _FROM_0),
    "RS": MetricInfo("consistency with texts about the target", "generation_prompts, references"),
    "ESS": MetricInfo(
        "essence: perplexity of texts about the subject", "references on the subject", _FROM_0, "lower"
    ),
    "RA": MetricInfo("retention: earlier edits still first choice", "earlier edits", over="requests"),
    "FR": MetricInfo("retention in free generation", "earlier edits", over="requests"),
    "KG": MetricInfo(
        "KL from the base on openings of held-out texts, nats", "an edit", _FROM_0, "lower", "texts"
    ),
    "PPL": MetricInfo("perplexity of held-out texts", "texts", _FROM_0, "lower", "texts"),
    "PD": MetricInfo(
        "relative change of that perplexity from the base", "an edit", "above -1", "lower", "texts"
    ),
}

# Fields of a protocol that do not affect whether two evaluations are comparable.
_IGNORED = ("suite", "facts", "device")


@dataclass(frozen=True)
class ProtocolDifference:
    """A field in which the protocols of two evaluations differ."""

    field: str
    a: Any
    b: Any

    def __str__(self) -> str:
        return f"{self.field} ({_short(self.a)} vs. {_short(self.b)})"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


def compare_protocols(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[ProtocolDifference]:
    """Differences that make the numbers of two protocols incomparable. Empty if they are comparable.

    A field that only one protocol has is ignored: the other evaluation did not measure that metric.
    """
    shared = [name for name in a if name in b and name not in _IGNORED]
    differing = [ProtocolDifference(name, a[name], b[name]) for name in shared if a[name] != b[name]]
    if not ("cases" in a and "cases" in b):
        differing.append(ProtocolDifference("cases", a.get("cases"), b.get("cases")))
    return differing
