"""What looks at several runs at once: pictures now; comparisons, sweeps and studies later."""
