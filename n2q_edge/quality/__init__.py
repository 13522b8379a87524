"""What the numbers of a slice and of a series mean: body, scores, noise, regions, domain, policy."""
