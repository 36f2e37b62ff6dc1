"""Studies as a few files, for git and for other machines, and the policies that come with rlc."""
