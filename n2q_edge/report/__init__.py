"""What an `RunReport` looks like: a table, a JSON document, CSV rows, pictures."""
