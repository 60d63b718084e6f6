"""Jobs made from other jobs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Jobs made from other jobs."""
    # Both databases add a column that may be null without rewriting the table.
    op.add_column("jobs", sa.Column("based_on", sa.String(length=40), nullable=True))
    op.add_column("jobs", sa.Column("changes", JSON, nullable=True))
