"""Run by Alembic: applies migrations on the connection that `storage.schema` hands over, in its transaction."""

from alembic import context

from storage.rows import Row

context.configure(connection=context.config.attributes["connection"], target_metadata=Row.metadata)
context.run_migrations()
