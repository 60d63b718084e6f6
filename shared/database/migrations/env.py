"""How Alembic reaches the database: through the connection that `shared.database.migrate` hands it."""

from alembic import context

from shared.database.tables import metadata

connection = context.config.attributes["connection"]
# Batch mode: SQLite alters a table by copying it.
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
context.run_migrations()
