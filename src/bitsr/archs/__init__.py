"""Super-resolution networks in plain torch, one per file, with the state-dict keys of their official releases."""
