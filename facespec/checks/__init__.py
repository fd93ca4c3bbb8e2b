"""Tables in, verdicts out: claims, replay of the published results, and what figures really show. No torch."""
