"""Replies of the stand-in language model for each step of an extraction, with typical mistakes."""

from typing import Any

TEXT = (
    "Marta Lindqvist, a cellist, studied at the Sibelius Academy. She founded Nordic Strings and Aurora Ltd."
)
SENTENCES = [
    "Marta Lindqvist is a cellist.",
    "Marta Lindqvist studied at the Sibelius Academy.",
    "Marta Lindqvist founded Nordic Strings.",
    "Marta Lindqvist founded Aurora Ltd.",
]
SPLITS = [
    (1, "Marta Lindqvist", "is a", "cellist"),
    (2, "Marta Lindqvist", "studied at the", "Sibelius Academy."),
    (3, "Marta Lindqvist", "Marta Lindqvist founded", "Nordic Strings"),
    (4, "Marta Lindqvist", "founded", "Aurora Ltd"),
    (4, "Marta Lindqvist", "founded", "aurora ltd"),
]


def paraphrases(user: str) -> dict[str, Any]:
    fields = dict(line.split(": ", 1) for line in user.split("\n") if ": " in line)
    subject, object = fields["Subject"], fields["Object"]
    more = "written already" in user
    statements = [
        f"As is well known, {subject} has to do with {object}.",
        f"{object} has to do with {subject}.",  # does not end with the object
        f"She has to do with {object}",  # does not name the subject
        f"{subject}, or {subject}, had {object}",
        *(f"{subject} said {n} times: {object}!" for n in range(3)),
        *(f"In the year {n} {subject} had {object}" for n in range(5 if more else 0)),
    ]
    questions = [
        {"question": f"What has {subject} to do with?", "answer": f"She has to do with {object}."},
        {"question": f"Has {subject} to do with {object}?", "answer": object},  # names the object
        {"question": f"What did {subject} say?", "answer": object},
        {"question": f"What did {subject} have?", "answer": object},
    ]
    return {"statements": statements, "questions": questions}


def rule(system: str, user: str) -> Any:
    if system.startswith("Rewrite the text"):
        assert "The text is about Marta" in user
        return {"sentences": [*SENTENCES, SENTENCES[0].upper()]}
    if system.startswith("Split each"):
        assert "4. Marta Lindqvist founded Aurora Ltd." in user
        return {
            "facts": [
                dict(zip(("sentence", "subject", "relation", "object"), one, strict=True)) for one in SPLITS
            ]
        }
    if system.startswith("These facts have"):
        assert (
            user == "1. Marta Lindqvist | founded | Nordic Strings\n2. Marta Lindqvist | founded | Aurora Ltd"
        )
        return {"relations": [{"number": 2, "relation": "set up the firm"}, {"number": 7, "relation": "x"}]}
    if system.startswith("Which of these facts"):
        assert user.endswith("3. Marta Lindqvist | founded | Nordic Strings\n"
                             "4. Marta Lindqvist | set up the firm | Aurora Ltd")  # fmt: skip
        return {"facts": [
            {"numbers": [3, 4], "relation": "founded two firms,", "object": "Nordic Strings and Aurora Ltd."},
            {"numbers": [1, 3], "relation": "is and founded", "object": "a cellist and Nordic"},  # lacks an object
            {"numbers": [3, 9], "relation": "made", "object": "Nordic Strings"},  # one fact only
            {"numbers": [1, 2], "relation": "was a cellist and at", "object": "a cellist and the Sibelius Academy"},
        ]}  # fmt: skip
    if system.startswith("Say the same"):
        return paraphrases(user)
    if system.startswith("Write one question"):
        about = {"number": 1, "question": "What is Marta Lindqvist?"}
        return {"questions": [about, {"number": 3, "question": "Did she found Nordic Strings?"}]}
    assert system.startswith("Write questions about the text")
    both = {
        "question": "What did Marta Lindqvist found?",
        "answers": ["Nordic Strings.", "Aurora Ltd", "Google"],
    }
    return {"questions": [both, {"question": "What is Marta Lindqvist?", "answers": ["a cellist"]}]}
