"""Where cells run: on this machine, on a Slurm cluster, on a Ray cluster, or where a plug-in says."""
