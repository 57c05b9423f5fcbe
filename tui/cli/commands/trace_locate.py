"""`retcon trace locate`: the layers that a trace suggests to edit."""

import click

from ...actions.locate import Location, save_layer
from ...actions.locate import locate as suggest_layers
from ...actions.trace import load_average_effects, load_trace
from ..options import ROW_ID, json_option, open_catalog
from ..output import narrate, print_json
from ..records import effect_record

_BAR = 30


@click.command()
@click.argument("id", type=ROW_ID)
@click.option("--save", is_flag=True, help="Save the first suggested layer as the model's default for edits.")
@json_option
def locate(id: int, save: bool, as_json: bool) -> None:
    """Show the average effects of a trace and the layers that they suggest to edit."""
    catalog = open_catalog()
    with catalog.read() as session:
        found, model, results = load_trace(session, id)
        averages = load_average_effects(session, id)
    location = suggest_layers(found, results, averages, model.anatomy["layers"])
    if save:
        path = save_layer(catalog.home, model.name, id, location)
        narrate(f"Edits of {model.name} now use layer {location.layers[0]} by default ({path}).")
    if as_json:
        names = ("layers", "kind", "role")
        record = {"trace": id, "model": model.name} | {name: getattr(location, name) for name in names}
        record |= {
            "facts": location.count,
            "skipped": location.skipped,
            "total_effect": location.total_effect,
            "notes": location.notes,
        }
        print_json(record | {"effects": [effect_record(effect) for effect in averages]})
        return
    _print(location)


def _print(location: Location) -> None:
    click.echo(
        f"{location.count} facts traced, {location.skipped} skipped. "
        f"Total effect {location.total_effect:.3f} (mean of p clean - p corrupted).\n"
    )
    click.echo(f"Indirect effect of restoring {location.kind} at the {location.role} token, by layer:")
    best = max(abs(effect.mean) for effect in location.curve) or 1.0
    for effect in location.curve:
        bar = "█" * max(0, round(_BAR * effect.mean / best))
        mark = " <" if effect.layer in location.layers else ""
        interval = f" [{effect.low:.3f}, {effect.high:.3f}]" if effect.count > 1 else ""
        click.echo(f"  {effect.layer:>3}  {effect.mean:7.4f}{interval}  {bar}{mark}")
    click.echo(f"\nSuggested layers: {', '.join(map(str, location.layers))}.")
    for note in location.notes:
        click.echo(f"- {note}")
