"""Evidence, collateral, trust anchors and a time to facts, or an error. Nothing here judges the facts."""
