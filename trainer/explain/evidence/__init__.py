"""Whether an explanation can be believed: checks, each of which a wrong explainer is known to fail."""
