"""What optimizers keep of a parameter that a posterior over it is made of, and the unit of each."""

MEAN, SQUARES, DEVIATIONS, COUNT = "snapshot_mean", "snapshot_squares", "snapshot_deviations", "snapshots"  # SWAG's
PRECISION = "precision"  # IVON's

POWERS = {SQUARES: 2, DEVIATIONS: 1, PRECISION: -2}
"""Of a parameter's unit: what is multiplied where the parameter is multiplied by a number."""
