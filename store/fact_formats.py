"""What a record means: the ROME formats (known facts, CounterFact, zsRE) and plain records, as Fact rows."""

from collections.abc import Callable

from .errors import InputError
from .fact_fields import Fields, template_of
from .fact_files import Record
from .tables import Fact

# Each plain field, and other names under which it is found in published files.
_PLAIN = {
    "subject": (),
    "prompt": (),
    "target_true": ("ground_truth",),
    "target_new": (),
    "paraphrases": ("paraphrase_prompts", "rephrase_prompt"),
    "neighbours": ("neighbors", "neighborhood_prompts"),
}
_FIELDS = {
    "known facts": ("subject", "prompt", "attribute", "template"),
    "CounterFact": ("requested_rewrite", "paraphrase_prompts", "neighborhood_prompts"),
    "zsRE": ("subject", "src", "rephrase", "alt", "answers", "loc", "loc_ans"),
    "plain": (*_PLAIN, *(other for others in _PLAIN.values() for other in others)),
}


def format_of(records: list[Record]) -> str:
    """The format of a file, by its first record."""
    first = records[0].fields
    if "requested_rewrite" in first:
        return "CounterFact"
    if "src" in first:
        return "zsRE"
    if "attribute" in first:
        return "known facts"
    return "plain"


def fact_of(record: Record, format: str, position: int) -> Fact:
    """One record as a Fact, not saved. Raises InputError with file, record, field and what is expected."""
    reader = Fields(record, dict(record.fields), _FIELDS[format], format)
    try:
        fact = _READERS[format](reader)
    except InputError as error:
        message = str(error)
        raise InputError(
            message if message.startswith(record.where) else f"{record.where}: {message}"
        ) from error
    fact.position = position
    return fact


def _known_fact(fields: Fields) -> Fact:
    subject = fields.text("subject").strip()
    template = fields.value("template")
    prompt = fields.value("prompt")
    # The prompt goes first: of the 605 published records 240 have one that says more than their template, and
    # it is the prompt that the published traces run.
    if prompt is None:
        if template is None:
            fields.need("prompt")
        prompt = template
    attribute = fields.target("attribute", fields.value("attribute"))
    fact = Fact(
        fact_set_id=0,
        position=0,
        subject=subject,
        prompt=template_of(fields.as_text("prompt", prompt), subject),
        target_true=attribute,
    )
    fact.origin = fields.rest()
    if template is not None and template != fact.prompt:
        fact.origin["template"] = template
    return fact


def _counterfact(fields: Fields) -> Fact:
    rewrite = fields.need("requested_rewrite")
    if not isinstance(rewrite, dict):
        raise fields.wrong("requested_rewrite", rewrite, "an object with prompt, subject and targets")
    inner = Fields(
        Record(fields.record.where, rewrite),
        dict(rewrite),
        ("prompt", "subject", "target_new", "target_true"),
        fields.format,
        prefix="requested_rewrite.",
    )
    subject = inner.text("subject").strip()
    prompt = template_of(inner.text("prompt"), subject)
    new = inner.target("target_new", inner.need("target_new"))
    true = inner.target("target_true", inner.need("target_true"))
    paraphrases = fields.texts("paraphrase_prompts", fields.value("paraphrase_prompts"))
    neighbours = fields.neighbours("neighborhood_prompts", fields.value("neighborhood_prompts"), true)
    return Fact(
        fact_set_id=0,
        position=0,
        subject=subject,
        prompt=prompt,
        target_true=true,
        target_new=new,
        paraphrases=paraphrases,
        neighbours=neighbours,
        origin={**inner.rest(), **fields.rest()},
    )


def _zsre(fields: Fields) -> Fact:
    subject = fields.text("subject").strip()
    prompt = template_of(fields.text("src"), subject)
    new = fields.target("alt", fields.need("alt"))
    true = fields.target("answers", fields.value("answers"))
    paraphrases = fields.texts("rephrase", fields.value("rephrase"))
    neighbours = []
    loc = fields.value("loc")
    if loc is not None:
        # As in the published evaluation, which adds the question mark that the data lacks.
        question = fields.as_text("loc", loc).rstrip("?") + "?"
        answer = fields.target("loc_ans", fields.need("loc_ans"))
        neighbours = [{"prompt": question, "true": answer}]
    return Fact(
        fact_set_id=0,
        position=0,
        subject=subject,
        prompt=prompt,
        target_true=true,
        target_new=new,
        paraphrases=paraphrases,
        neighbours=neighbours,
        origin=fields.rest(),
    )


def _plain(fields: Fields) -> Fact:
    subject = fields.text("subject").strip()
    prompt = template_of(fields.text("prompt"), subject)
    true = fields.target("target_true", fields.value("target_true", *_PLAIN["target_true"]))
    new = fields.target("target_new", fields.value("target_new"))
    paraphrases = fields.texts("paraphrases", fields.value("paraphrases", *_PLAIN["paraphrases"]))
    neighbours = fields.neighbours("neighbours", fields.value("neighbours", *_PLAIN["neighbours"]), true)
    return Fact(
        fact_set_id=0,
        position=0,
        subject=subject,
        prompt=prompt,
        target_true=true,
        target_new=new,
        # A paraphrase is a whole prompt; one with {} is filled in.
        paraphrases=[text.replace("{}", subject) for text in paraphrases],
        neighbours=neighbours,
        origin=fields.rest(),
    )


_READERS: dict[str, Callable[[Fields], Fact]] = {
    "known facts": _known_fact,
    "CounterFact": _counterfact,
    "zsRE": _zsre,
    "plain": _plain,
}
