"""Questions of POST /v1/plan."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Questions of POST /v1/plan."""
    json = sa.JSON().with_variant(JSONB(), "postgresql")
    op.create_table(
        "plans",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("spec", json, nullable=False),
        sa.Column("hardware", sa.Text(), nullable=True),
        sa.Column("asked_at", sa.Double(), nullable=False),
        sa.Column("taken_at", sa.Double(), nullable=True),
        sa.Column("plan", json, nullable=True),
        sa.Column("error", json, nullable=True),
    )
