"""Several runs trained one after another: the series, and sweeps over a grid."""
