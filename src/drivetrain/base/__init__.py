"""What every room stands on: errors, progress, configuration, seeds, timing, files, native kernels."""
