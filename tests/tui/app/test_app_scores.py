"""The scores of a revision beside those of its parent, or the reason without them."""

from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Evaluation
from retcon.tests.helpers.app_catalog import FORD, ROME, at
from retcon.tests.helpers.app_pilot import open_app

PROTOCOL = {"cases": 1, "cases_sha256": "aa", "seed": 1, "facts": "the requests of the edits of 77aa01c2d4"}


def score(
    catalog: Catalog, revision: str, minute: float, values: dict[str, float], **changed: object
) -> None:
    metrics = {
        name: {"value": value, "low": value, "high": value, "count": 1} for name, value in values.items()
    }
    with catalog.write() as session:
        session.add(
            Evaluation(
                model_id=1,
                revision=revision,
                metrics=metrics,
                protocol=PROTOCOL | changed,
                created=at(minute),
            )
        )


async def test_scores_beside_the_parent(catalog: Catalog) -> None:
    score(catalog, ROME, 20, {"ES": 0.25, "KN": 0.5, "RA": 0.5}, device="cuda:0")
    score(catalog, ROME, 21, {"ES": 0.125}, seed=2)
    score(catalog, FORD, 22, {"ES": 0.75, "KN": 0.25, "RA": 1.0, "FE": 1.0})
    async with open_app(catalog) as app:
        await app.press("4", "j")
        assert FORD in app.detail
        assert "the requests of the edits of 77aa01c2d4, 1 case, evaluation 4" in app.detail
        assert "parent's evaluation 2: ES 0.250 → 0.750   KN 0.500 → 0.250" in app.detail
        assert "RA 1.000" in app.detail, "retention is shown, but what the parent retains is another set"


async def test_incomparable_scores_show_the_reason(catalog: Catalog) -> None:
    score(catalog, ROME, 20, {"ES": 0.25}, cases=3, seed=2)
    score(catalog, FORD, 21, {"ES": 0.75})
    async with open_app(catalog) as app:
        await app.press("4", "j")
        assert "→ 0.750" not in app.detail
        described = " ".join(app.detail.split())
        assert "the parent's evaluation 2 cannot be compared: different cases (3 vs. 1)" in described
        assert "seed (2 vs. 1)" in described


async def test_unevaluated_parent_shows_no_comparison(catalog: Catalog) -> None:
    score(catalog, FORD, 21, {"ES": 0.75})
    async with open_app(catalog) as app:
        await app.press("4", "j")
        assert "ES 0.750" in app.detail and "parent's evaluation" not in app.detail
