"""Studies as a few files, for git and for other machines."""
