"""A small Django application for ../django_workload.py."""
