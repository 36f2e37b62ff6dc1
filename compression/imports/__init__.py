"""Policies that were trained elsewhere, read without running anything that their files hold."""
