"""What the screens show, read from the catalog into frozen data classes. Widgets hold no SQL.

Each read takes some milliseconds and at most the newest 500 rows. A row that cannot be read (hurt JSON, a date that is
none) comes as a `Hurt`, so that one bad row never hides the others.
"""
