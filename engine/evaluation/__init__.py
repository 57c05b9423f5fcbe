"""Did the edit hold, in other words too, and did the rest stay: the published metrics, and stricter ones.

What each metric means stands in engine.metrics. Teacher-forced scores are those of Meng et al. 2022 (memit's
eval_utils_counterfact and eval_utils_zsre); free generation is greedy, a fixed number of tokens, no target shown.
"""

from ..intervals import Metric
from .cases import Case, CaseResult, Neighbour, Question, Reference, digest
from .measure import Questions, Writing, evaluate, evaluate_blocks, summarise
from .teacher_forced import Score, score_targets

__all__ = [
    "Case",
    "CaseResult",
    "Metric",
    "Neighbour",
    "Question",
    "Questions",
    "Reference",
    "Score",
    "Writing",
    "digest",
    "evaluate",
    "evaluate_blocks",
    "score_targets",
    "summarise",
]
