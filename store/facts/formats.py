"""What a record means: the ROME formats (known facts, CounterFact, zsRE), MQuAKE and plain records, as Fact rows."""

from collections.abc import Callable

from ..catalog.tables import Fact
from ..errors import InputError
from .fields import Fields, make_template
from .files import Record

# Each plain field, and other names under which it is found in published files.
_PLAIN = {
    "subject": (),
    "prompt": (),
    "target_true": ("ground_truth",),
    "target_new": (),
    "train_paraphrases": ("wordings",),
    "eval_paraphrases": ("paraphrases", "paraphrase_prompts", "rephrase_prompt"),
    "neighbors": ("neighbours", "neighborhood_prompts"),
    "negations": (),
    "portability": (),
    "generation_prompts": (),
    "references": (),
}
_FIELDS = {
    "known facts": ("subject", "prompt", "attribute", "template"),
    "CounterFact": ("requested_rewrite", "paraphrase_prompts", "neighborhood_prompts", "generation_prompts"),
    "MQuAKE": ("requested_rewrite", "questions", "new_answer", "new_answer_alias"),
    "zsRE": ("subject", "src", "rephrase", "alt", "answers", "loc", "loc_ans"),
    "plain": (*_PLAIN, *(other for others in _PLAIN.values() for other in others)),
}


def format_of(records: list[Record]) -> str:
    """The format of a file, by its first record."""
    first = records[0].fields
    if "requested_rewrite" in first:
        return "MQuAKE" if isinstance(first["requested_rewrite"], list) else "CounterFact"
    if "src" in first:
        return "zsRE"
    if "attribute" in first:
        return "known facts"
    return "plain"


def facts_of(record: Record, format: str) -> list[Fact]:
    """The facts of one record, not saved; more than one only in MQuAKE.

    Raises InputError with file, record, field and what is expected.
    """
    reader = Fields(record, dict(record.fields), _FIELDS[format], format)
    try:
        return _READERS[format](reader)
    except InputError as error:
        message = str(error)
        raise InputError(
            message if message.startswith(record.where) else f"{record.where}: {message}"
        ) from error


def _known_fact(fields: Fields) -> list[Fact]:
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
        prompt=make_template(fields.as_text("prompt", prompt), subject),
        target_true=attribute,
    )
    fact.origin = fields.rest()
    if template is not None and template != fact.prompt:
        fact.origin["template"] = template
    return [fact]


def _counterfact(fields: Fields) -> list[Fact]:
    """Also MultiCounterFact's records, which have the same form."""
    fact = _rewrite(fields, fields.need("requested_rewrite"), "requested_rewrite")
    fact.eval_paraphrases = fields.texts("paraphrase_prompts", fields.value("paraphrase_prompts"))
    fact.neighbors = fields.neighbors(
        "neighborhood_prompts", fields.value("neighborhood_prompts"), fact.target_true
    )
    fact.generation_prompts = fields.texts("generation_prompts", fields.value("generation_prompts"))
    fact.origin = fact.origin | fields.rest()
    return [fact]


def _mquake(fields: Fields) -> list[Fact]:
    """One fact per rewrite; the multi-hop questions, which ask for all of them together, go with the first."""
    rewrites = fields.listed("requested_rewrite", fields.need("requested_rewrite"))
    if not rewrites:
        raise InputError(
            f"{fields.record.where}: field 'requested_rewrite' is empty: expected a rewrite at least."
        )
    facts = [_rewrite(fields, one, f"requested_rewrite[{at}]") for at, one in enumerate(rewrites)]
    questions = fields.texts("questions", fields.need("questions"))
    answers = [fields.text("new_answer"), *fields.texts("new_answer_alias", fields.value("new_answer_alias"))]
    facts[0].portability = [{"prompt": question, "answers": answers} for question in questions]
    facts[0].origin = facts[0].origin | fields.rest()
    return facts


def _rewrite(fields: Fields, rewrite: object, name: str) -> Fact:
    """CounterFact's request; what nobody reads is the fact's origin."""
    if not isinstance(rewrite, dict):
        raise fields.wrong(name, rewrite, "an object with prompt, subject and targets")
    inner = Fields(
        Record(fields.record.where, rewrite),
        dict(rewrite),
        ("prompt", "subject", "target_new", "target_true"),
        fields.format,
        prefix=f"{name}.",
    )
    subject = inner.text("subject").strip()
    prompt = make_template(inner.text("prompt"), subject)
    new_id = _id_of(rewrite.get("target_new"))
    new = inner.target("target_new", inner.need("target_new"))
    true = inner.target("target_true", inner.need("target_true"))
    return Fact(
        fact_set_id=0,
        position=0,
        subject=subject,
        prompt=prompt,
        target_true=true,
        target_new=new,
        origin=inner.rest() | ({"target_new_id": new_id} if new_id else {}),
    )


def _id_of(target: object) -> str | None:
    """The Wikidata id of a target, by which published reference texts are found."""
    id = target.get("id") if isinstance(target, dict) else None
    return id if isinstance(id, str) else None


def _zsre(fields: Fields) -> list[Fact]:
    subject = fields.text("subject").strip()
    prompt = make_template(fields.text("src"), subject)
    new = fields.target("alt", fields.need("alt"))
    true = fields.target("answers", fields.value("answers"))
    paraphrases = fields.texts("rephrase", fields.value("rephrase"))
    neighbors = []
    loc = fields.value("loc")
    if loc is not None:
        # As in the published evaluation, which adds the question mark that the data lacks.
        question = fields.as_text("loc", loc).rstrip("?") + "?"
        answer = fields.target("loc_ans", fields.need("loc_ans"))
        neighbors = [{"prompt": question, "true": answer}]
    fact = Fact(
        fact_set_id=0,
        position=0,
        subject=subject,
        prompt=prompt,
        target_true=true,
        target_new=new,
        eval_paraphrases=paraphrases,
        neighbors=neighbors,
        origin=fields.rest(),
    )
    return [fact]


def _plain(fields: Fields) -> list[Fact]:
    subject = fields.text("subject").strip()
    prompt = make_template(fields.text("prompt"), subject)
    true = fields.target("target_true", fields.value("target_true", *_PLAIN["target_true"]))
    new = fields.target("target_new", fields.value("target_new"))
    train, evaluation = (
        fields.texts(*fields.named(name, *_PLAIN[name])) for name in ("train_paraphrases", "eval_paraphrases")
    )
    neighbors = fields.neighbors("neighbors", fields.value("neighbors", *_PLAIN["neighbors"]), true)

    def prompts(name: str) -> list[str]:
        return filled(fields.texts(name, fields.value(name)))

    def filled(texts: list[str]) -> list[str]:
        """These are whole prompts; one with {} is filled in."""
        return [text.replace("{}", subject) for text in texts]

    fact = Fact(
        fact_set_id=0,
        position=0,
        subject=subject,
        prompt=prompt,
        target_true=true,
        target_new=new,
        train_paraphrases=[make_template(text, subject) for text in train],
        eval_paraphrases=filled(evaluation),
        neighbors=neighbors,
        negations=prompts("negations"),
        portability=fields.questions("portability", fields.value("portability")),
        generation_prompts=prompts("generation_prompts"),
        references=fields.references("references", fields.value("references")),
    )
    fact.origin = fields.rest()
    return [fact]


_READERS: dict[str, Callable[[Fields], list[Fact]]] = {
    "known facts": _known_fact,
    "CounterFact": _counterfact,
    "MQuAKE": _mquake,
    "zsRE": _zsre,
    "plain": _plain,
}
