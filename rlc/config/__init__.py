"""From a command line and conf/ to checked settings, jobs and plans."""
