"""Quality over time: an SQLite file of slice scores, statistics with control limits, a table, CSV and a page."""
