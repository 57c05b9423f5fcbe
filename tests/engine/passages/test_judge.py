"""The judge through a local HTTP endpoint."""

from typing import Any

import pytest

from retcon.engine.passages.extraction.chat import UnusableReply
from retcon.engine.passages.extraction.endpoint import Endpoint
from retcon.engine.passages.extraction.judge import JudgedAnswer, Verdict, judge_answer, judge_answers
from retcon.engine.progress import Progress
from retcon.tests.helpers.stand_in_llm import StandInEndpoint

QUESTION = "Where did Marta study?"


def count_words(system: str, user: str) -> Any:
    """Score the share of the reference's words that the answer contains."""
    assert "3: complete and right" in system and "abrupt" not in system
    parts = dict(zip(("question", "reference", "answer"), user.split("\n")[1::3], strict=True))
    assert parts["question"] == QUESTION
    words = parts["reference"].split()
    count = sum(word in parts["answer"] for word in words)
    return {"reason": f"{count} of {len(words)} words", "score": str(3 * count // len(words))}


def test_judge_returns_score_and_reason(served: StandInEndpoint, endpoint: Endpoint) -> None:
    served.rule = count_words
    reference = "at the Sibelius Academy in Helsinki in 1980"
    answers = [
        "She was at the Sibelius Academy in Helsinki in 1980.",
        "at the Sibelius Academy",
        "in Rome",
        " ",
    ]
    reports: list[Progress] = []
    judged = judge_answers(
        endpoint, [JudgedAnswer(QUESTION, reference, answer) for answer in answers], reports.append
    )
    assert [one.score for one in judged] == [3, 1, 0, 0]
    assert judged[1].reason == "4 of 8 words" and judged[3] == Verdict(reason="There is no answer.", score=0)
    assert len(served.requests) == 3 and served.requests[0]["max_tokens"] >= 1024
    assert (reports[-1].done, reports[-1].total) == (4, 4)


def test_invalid_score_is_requested_again(served: StandInEndpoint, endpoint: Endpoint) -> None:
    served.rule = lambda _system, _user: {"reason": "great", "score": 5}
    with pytest.raises(
        UnusableReply, match=r"'Where did Marta study\?' could not be judged: .*it must be 0, 1, 2 or 3"
    ):
        judge_answer(endpoint, JudgedAnswer(QUESTION, "Helsinki", "Rome"))
    assert (
        len(served.requests) == 2
        and "it must be 0, 1, 2 or 3" in served.requests[1]["messages"][3]["content"]
    )
    served.rule, served.mode, served.faults = count_words, "broken", 3
    assert judge_answer(endpoint, JudgedAnswer(QUESTION, "in Helsinki", "in Helsinki")).score == 3
