"""Plans in the words of each runtime."""

from gpuplan.plans.export.registry import Export, Runtime, export, export_details, list_runtimes

__all__ = ["Export", "Runtime", "export", "export_details", "list_runtimes"]
