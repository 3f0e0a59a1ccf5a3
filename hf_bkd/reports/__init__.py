"""What a run measured, as tables, pictures and pages."""
