"""Jobs that ask for hardware."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Jobs that ask for hardware."""
    op.add_column("jobs", sa.Column("hardware", sa.Text(), nullable=True))
    asks = sa.text("hardware IS NOT NULL")
    op.create_index("ix_jobs_hardware", "jobs", ["status", "id"], sqlite_where=asks, postgresql_where=asks)
