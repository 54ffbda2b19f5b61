"""How good is a reconstruction? Measures, chance, ceilings, controls, and the published tables."""
