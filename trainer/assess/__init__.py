"""From a trained classifier of two classes to a decision: how good it is beside simple models, what refusing costs, and whom it treats how."""
