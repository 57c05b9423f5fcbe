"""`retcon ui`: the app at a place, for reading only, or in a browser."""

import click


@click.command()
@click.argument("place", required=False, metavar="[PLACE]")
@click.option("--readonly", is_flag=True, help="Look only: no key changes anything.")
@click.option(
    "--no-mouse", is_flag=True, help="Leave the mouse to the terminal (and send nothing when it moves)."
)
@click.option("--serve", is_flag=True, help="In a browser: on this machine only, to reach through ssh -L.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="For --serve.")
def ui(place: str | None, readonly: bool, no_mouse: bool, serve: bool, port: int) -> None:
    """Open the app, at PLACE if one is given: edits, edits/4021943b39, jobs/12, traces/3."""
    from ...deep_links import parse_deep_link

    found = parse_deep_link(place) if place is not None else None
    if serve:
        from ...app.serve import serve as serve_app

        serve_app(place, port, readonly=readonly)
        return
    from ...app.app import run

    run(found, readonly=readonly, mouse=not no_mouse)
