"""${message}

Freeze what autogenerate writes to plain `sa.*` types: a released migration must not change with the models.
A batch drops the CHECK constraints of its table unless they are given again in `table_args`.
"""

import sqlalchemy as sa
import sqlmodel
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """There is no way back: each migration is preceded by a backup."""
    raise NotImplementedError
