"""Quality over time: an SQLite file of slice scores; control limits, a table, CSV and a page from it."""
