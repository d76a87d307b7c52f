"""Several runs trained one after another: sweeps and the runner behind them."""
