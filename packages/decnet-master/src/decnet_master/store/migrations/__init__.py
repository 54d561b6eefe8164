"""The schema's history: alembic's environment (`env.py`) and one module for each step (`versions/`)."""
