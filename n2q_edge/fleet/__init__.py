"""Many slices on many machines: shards, parts, tables."""
