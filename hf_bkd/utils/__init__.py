"""What every room may use: errors, checks of arguments, files, processes, progress and reproducible random numbers."""
