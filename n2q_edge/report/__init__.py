"""What an `Assessment` looks like: a table, a JSON document, CSV rows, pictures."""
