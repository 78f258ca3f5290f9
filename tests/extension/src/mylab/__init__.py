"""Components for Depthlab, one file each."""
