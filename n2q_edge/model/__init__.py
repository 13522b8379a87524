"""Model files: recipe, export with its parity gate, precisions, engines, and what a file says of itself."""
