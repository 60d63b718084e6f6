"""Benchmarks that a job asked for."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Benchmarks that a job asked for."""
    op.add_column("jobs", sa.Column("measures", sa.String(40), nullable=True))
    op.create_index("ix_jobs_measures", "jobs", ["measures"])
