"""`retcon trace locate`: what a trace says about the layer to edit."""

import click

from ....store.home import Home
from ...actions.locate import Location
from ...actions.locate import locate as located
from ...actions.presets import save_preset
from ..options import ROW_ID, json_option, open_catalog
from ..output import narrate, print_json
from ..records import effect_record
from .trace_rows import effects_of, load_trace


@click.command()
@click.argument("id", type=ROW_ID)
@click.option("--save", is_flag=True, help="Edit the proposed layer from now on, where no other is named.")
@json_option
def locate(id: int, save: bool, as_json: bool) -> None:
    """The average effects of a trace, and the layers that they propose to edit."""
    catalog = open_catalog()
    with catalog.read() as session:
        found, model, results = load_trace(session, id)
        averages = effects_of(session, id)
    answer = located(found, results, averages, model.anatomy["layers"])
    if save:
        _save(catalog.home, model.name, id, answer)
    if as_json:
        record = {
            "trace": id,
            "model": model.name,
            "layers": answer.layers,
            "kind": answer.kind,
            "role": answer.role,
        }
        record |= {
            "facts": answer.count,
            "skipped": answer.skipped,
            "total_effect": answer.total_effect,
            "notes": answer.notes,
        }
        print_json(record | {"effects": [effect_record(effect) for effect in averages]})
        return
    click.echo(
        f"{answer.count} facts traced, {answer.skipped} left out. "
        f"Total effect {answer.total_effect:.3f} (mean of p clean - p corrupted).\n"
    )
    click.echo(f"Indirect effect of restoring {answer.kind} at the {answer.role} token, by layer:")
    best = max(abs(effect.mean) for effect in answer.curve) or 1.0
    for effect in answer.curve:
        bar = "█" * max(0, round(30 * effect.mean / best))
        mark = " <" if effect.layer in answer.layers else ""
        interval = f" [{effect.low:.3f}, {effect.high:.3f}]" if effect.count > 1 else ""
        click.echo(f"  {effect.layer:>3}  {effect.mean:7.4f}{interval}  {bar}{mark}")
    click.echo(f"\nProposed: layer {', '.join(map(str, answer.layers))}.")
    for note in answer.notes:
        click.echo(f"- {note}")


def _save(home: Home, model: str, trace: int, answer: Location) -> None:
    """Write the first proposed layer as the model's own settings; an edit takes the rest from its preset."""
    source = f"retcon trace locate {trace}: peak of the {answer.kind} effect over {answer.count} facts"
    path = save_preset(home, model, "rome", {"layers": answer.layers[:1]}, source)
    narrate(f"Edits of {model} take layer {answer.layers[0]} from now on ({path}).")
