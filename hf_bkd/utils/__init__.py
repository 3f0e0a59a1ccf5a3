"""What every room needs: errors, checks of arguments, files, processes, random numbers, progress."""
