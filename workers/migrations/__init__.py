"""The schema's history, one file a revision; `workers.schema` applies it."""
