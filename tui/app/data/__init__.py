"""Read models of the screens: frozen data classes, read from the catalog by plain SQL. Widgets hold no SQL.

Each read takes a few milliseconds. A row that cannot be read (invalid JSON, an invalid date) becomes an
`UnreadableRow`, so that one bad row never hides the others.
"""
