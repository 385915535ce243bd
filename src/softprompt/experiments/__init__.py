"""What looks at several runs at once: sweeps, studies, the settings of papers, and pictures."""
