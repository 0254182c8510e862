"""The one intermediate form: typed steps and named tensors, and the plain interpreter that defines what they mean."""
