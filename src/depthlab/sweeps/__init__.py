"""Sweeps on one machine: check every job, freeze it, lease devices to it, show what happens, sum up."""
