"""`retcon ui`: open the app at a place, read-only, or in a browser."""

import click


@click.command()
@click.argument("place", required=False, metavar="[PLACE]")
@click.option("--readonly", is_flag=True, help="Disable every key and command that changes something.")
@click.option(
    "--no-mouse", is_flag=True, help="Do not use the mouse. The terminal keeps its own mouse functions."
)
@click.option(
    "--serve", is_flag=True, help="Serve the app to a browser on this machine; connect through ssh -L."
)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="Port for --serve."
)
def ui(place: str | None, readonly: bool, no_mouse: bool, serve: bool, port: int) -> None:
    """Open the app, optionally at PLACE: edits, edits/4021943b39, jobs/12, traces/3."""
    from ...deep_links import parse_deep_link

    link = parse_deep_link(place) if place is not None else None
    if serve:
        from ...app.serve import serve as serve_app

        serve_app(place, port, readonly=readonly)
        return
    from ...app.app import run

    run(link, readonly=readonly, mouse=not no_mouse)
