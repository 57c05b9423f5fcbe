"""`python -m retcon.tui` runs `retcon`. The app starts commands in this way, so it needs no path of the script."""

from .start import main

main()
