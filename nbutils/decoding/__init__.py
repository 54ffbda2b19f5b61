"""From responses to predicted features: feature store, ridge operator, rescaling."""
